"""Those who make things happen: webhooks and test events by way of the address, and rows that nobody is told of."""

import asyncio
import json
import random

import aiohttp
import msgspec
import psycopg2

from ottoai import samples
from ottoai.webhooks import callrail
from tests.chaos.clients import World
from tests.chaos.cluster import DEV_KEY, Cluster
from tests.chaos.links import HOST
from tests.chaos.truth import Log, identity_of
from tests.conftest import SIGNING_KEY, of_tenant

ANSWER_WITHIN = 5.0
EVENT, SILENT = "test.chaos", "test.silent"
TRIES = 30  # of a webhook, as its sender would: again until it is taken
BURST = (40, 16 * 1024)  # events at once, bytes each: more than a ring holds or a slow client takes


class Writers:
    """Two for each tenant, so that its events come out of several processes at the same time."""

    def __init__(self, cluster: Cluster, world: World, logs: list[Log], rate: float, rng: random.Random) -> None:
        self.cluster = cluster
        self.world = world
        self.logs = logs
        self.heavy = logs[0]
        self.pause = 2 * len(logs) / rate
        self.rng = rng
        self.resting = False
        self._number = 0

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(ANSWER_WITHIN)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as self.http,
            asyncio.TaskGroup() as group,
        ):
            for log in self.logs:
                for number in range(2):
                    group.create_task(self._write(log, number))

    async def _write(self, log: Log, number: int) -> None:
        actions = (self._emit, self._emit, self._emit, self._transient, self._webhook, self._append)
        while True:
            await asyncio.sleep(min(self.rng.expovariate(1 / self.pause), 4 * self.pause))
            if self.resting:
                continue
            async with log.writing():
                action = self.rng.choice(actions)
                if log is self.heavy and self.rng.random() < 0.05:
                    action = self._burst
                await action(log, number)

    def _next(self) -> str:
        self._number += 1
        return str(self._number)

    async def _emit(self, log: Log, number: int, extra: str = "") -> None:
        n = self._next()
        words = [f"event={EVENT}", f"tenant_id={log.tenant}", *([extra] if extra else [])]
        if self.rng.random() < 0.3:
            words.append(f"lead_id={self.rng.choice(log.leads)}")
        if self.rng.random() < 0.3:
            words.append(f"user_id=user-{self.rng.randrange(40)}")
        data = json.dumps({"n": n, "filler": "x" * self.rng.choice((0, 100, 1000))}).encode()
        identity = identity_of(EVENT, n, "")
        if not extra:
            log.unknown.add(identity)
        status, answer = await self._post("/ws/test-emit?" + "&".join(words), data, {"X-Dev-Key": DEV_KEY})
        if status == 200 and not extra:
            log.unknown.discard(identity)
            log.accepted[identity] = answer["seq"]

    async def _transient(self, log: Log, number: int) -> None:
        await self._emit(log, number, "transient=1")

    async def _webhook(self, log: Log, number: int) -> None:
        call = samples.new_call_id()
        identity = identity_of("telephony.call.received", "", str(call))
        body = samples.callrail(
            "pre-call", call, company_id=1000 + self.logs.index(log), company_resource_id=None,
            tracking_phone_number="+12125550199", customer_phone_number=f"+1212555{self.rng.randrange(10):04}",
        )  # fmt: skip
        data = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", "Signature": callrail.sign(data, SIGNING_KEY.format(log.tenant))}
        log.unknown.add(identity)
        for _ in range(TRIES):
            status, answer = await self._post("/call-rail/pre-call", data, headers)
            if status == 200:
                if answer["status"] not in {"processed", "duplicate_ignored"}:
                    self.world.broken.append(f"{log.tenant}: a webhook was {answer}")
                log.unknown.discard(identity)
                log.accepted[identity] = 0
                return
            if log.frozen:
                return
            await asyncio.sleep(0.3)
        self.world.counted["webhooks given up"] += 1

    async def _append(self, log: Log, number: int, count: int = 0, size: int = 0) -> None:
        """As a process does that dies before it tells anybody."""
        names = [self._next() for _ in range(count or self.rng.randint(1, 3))]
        drafts = [{"event": SILENT, "data": {"n": n, "filler": "x" * size}} for n in names]
        if self.rng.random() < 0.3:
            drafts[0]["lead_id"] = self.rng.choice(log.leads)
        identities = [identity_of(SILENT, n, "") for n in names]
        log.unknown.update(identities)
        sql = "select count(*) from append_events(%s, '', %s::jsonb)"
        try:
            await asyncio.to_thread(
                of_tenant, self.cluster.database.url, sql, log.tenant, json.dumps(drafts), tenant=log.tenant
            )
        except psycopg2.OperationalError:
            self.world.counted["appends failed"] += 1
            return
        log.unknown.difference_update(identities)
        log.accepted.update(dict.fromkeys(identities, 0))

    async def _burst(self, log: Log, number: int) -> None:
        await self._append(log, number, *BURST)

    async def _post(self, path: str, data: bytes, headers: dict[str, str]) -> tuple[int, dict]:
        """(status, answer); 0 when there was none."""
        url = f"http://{HOST}:{self.world.port}{path}"
        try:
            async with self.http.post(url, data=data, headers=headers) as response:
                answer = msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.world.counted["writes unanswered"] += 1
            return 0, {}
        if response.status == 503:
            self.world.counted["writes refused"] += 1
        elif response.status != 200:
            self.world.broken.append(f"{path} was answered {response.status}: {answer}")
        return response.status, answer
