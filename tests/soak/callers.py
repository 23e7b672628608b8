"""Providers and customers: signed webhooks about calls and texts, sent again now and then, and the carrier that takes
our texts and tells what became of them. What was accepted is remembered, to be compared with the database at the end.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from aiohttp import web

from ottoai import samples
from ottoai.webhooks import callrail, twilio
from tests.carrier import Twilio
from tests.chaos.truth import Log, identity_of
from tests.conftest import SIGNING_KEY
from tests.soak.stand import Stand, given
from tests.twilio import FORM, TOKEN

ANSWER_WITHIN = 60.0  # seconds; providers have less patience, but how fast an answer is, others measure
REGULARS = 100  # customers of a tenant who call again and again, and are always answered
OWN_TEXTS = 10**9  # what customers write has other numbers than what the carrier takes
FIRST_CALLER = 200  # numbers from here on call once, and are missed
CALLERS = {True: 800, False: 9_800}  # how many numbers there are where it is day: London's have three digits


@dataclass
class Told:
    """What was sent and taken. A call: its tenant and number -> whether it was missed."""

    calls: dict[tuple[str, str], bool] = field(default_factory=dict)
    missed: dict[tuple[str, str], str] = field(default_factory=dict)  # (account, phone) -> tenant
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    written: int = 0  # texts of staff


class Carrier(Twilio):
    """Takes every text, and reports twice what became of it, as Twilio does."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def take(self, request: web.Request) -> web.StreamResponse:
        answer = await super().take(request)
        self.reports.put_nowait(self.taken[-1])
        return answer


class Callers:
    """`rate`: deliveries a second, over all tenants. `patience`: seconds until who was missed has written back or
    called again, at the latest.
    """

    def __init__(
        self, stand: Stand, logs: list[Log], carrier: Carrier, rng: random.Random, *, rate: float, patience: float
    ) -> None:
        self.stand = stand
        self.logs = logs
        self.carrier = carrier
        self.pause = 1 / rate
        self.patience = patience
        self.rng = rng
        self.told = Told()
        self.resting = False
        self._number = 0
        self._last: tuple[Log, str, bytes] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        # Each delivery over a connection of its own: kept ones would pile up in a rush, and look like a leak of ours.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_WITHIN), connector=connector) as self.http,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._report())
            loop = asyncio.get_running_loop()
            due = loop.time()
            while True:
                due = max(due + self.pause, loop.time() - 1.0)
                await asyncio.sleep(due - loop.time())
                if not self.resting:
                    self._beside(self.rng.choices(
                        (self._answered, self._missed, self._again, self._poisoned, self._unclaimed),
                        (60, 12, 25, 2, 1))[0]())  # fmt: skip

    @property
    def idle(self) -> bool:
        """Whether all that was begun has ended."""
        return not self._tasks

    def _beside(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def over(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if not done.cancelled() and (error := done.exception()):
                self.told.wrong.append(f"{done.get_coro()}: {error!r}")

        task.add_done_callback(over)

    def _next(self) -> tuple[Log, int]:
        self._number += 1
        return self.rng.choice(self.logs), self._number

    # Calls

    async def _answered(self) -> None:
        log, number = self._next()
        phone = f"+1212555{self.rng.randrange(REGULARS):04}"
        kinds = self.rng.choice((["pre-call", "call-complete"], ["call-complete"], ["call-complete", "call-modified"]))
        for kind in kinds:
            await self._call(log, number, kind, phone, answered=True)

    async def _missed(self) -> None:
        log, number = self._next()
        now = datetime.now(UTC)
        here = samples.daytime_phone(now, 0)
        phone = samples.daytime_phone(now, FIRST_CALLER + number // len(self.logs) % CALLERS[here.startswith("+44")])
        account = given(self.logs.index(log), log.tenant)["twilio_sid"]
        if (account, phone) in self.told.missed:
            return
        self.told.missed[account, phone] = log.tenant
        await self._call(log, number, "call-complete", phone, answered=False)
        await asyncio.sleep(self.rng.uniform(1.0, self.patience))
        if self.rng.random() < 0.5:
            await self._call(log, self._next()[1], "call-complete", phone, answered=True)
        else:
            fields = samples.twilio_text(OWN_TEXTS + self._next()[1], From=phone, Body="Yes, tomorrow is fine.")
            await self._call_back(log, "/twilio/sms", fields)

    async def _call(self, log: Log, number: int, kind: str, phone: str, *, answered: bool) -> None:
        body = samples.callrail(
            kind, number, company_id=1000 + self.logs.index(log), company_resource_id=None, tracking_phone_number=None,
            customer_phone_number=phone, answered=answered,
        )  # fmt: skip
        data = msgspec.json.encode(body)
        self.told.calls[log.tenant, str(number)] = not answered
        log.unknown.add(identity := identity_of("telephony.call.received", "", str(number)))
        status = await self._deliver(log, kind, data)
        self._expect(f"{log.tenant}: {kind} of {number}", status, "processed", "duplicate_ignored")
        log.unknown.discard(identity)
        log.accepted[identity] = 0
        self._last = log, kind, data

    async def _again(self) -> None:
        """The delivery before this one once more."""
        if self._last is not None:
            log, kind, data = self._last
            status = await self._deliver(log, kind, data)
            first = ("processed",) if self.told.answers["spooled"] else ()  # the one before it may still wait on disk
            self._expect(f"{log.tenant}: the same {kind} again", status, "duplicate_ignored", *first)

    async def _poisoned(self) -> None:
        log, number = self._next()
        body = samples.callrail("call-complete", number, company_id=1000 + self.logs.index(log),
                                company_resource_id=None, tracking_phone_number=None, duration="long")  # fmt: skip
        status = await self._deliver(log, "call-complete", msgspec.json.encode(body))
        self._expect(f"{log.tenant}: what cannot be read", status, "quarantined")

    async def _unclaimed(self) -> None:
        log, number = self._next()
        body = samples.callrail("call-complete", number, company_id=9_999, company_resource_id=None,
                                tracking_phone_number=None)  # fmt: skip
        status = await self._deliver(log, "call-complete", msgspec.json.encode(body))
        self._expect("a call of nobody's company", status, "unclaimed")

    async def _deliver(self, log: Log, kind: str, data: bytes) -> str:
        signature = callrail.sign(data, SIGNING_KEY.format(log.tenant))
        headers = {"Content-Type": "application/json", "Signature": signature}
        async with self.http.post(f"{self._base()}/call-rail/{kind}", data=BytesIO(data), headers=headers) as response:
            answer = msgspec.json.decode(await response.read())
        status = str(answer["status"])
        self.told.answers[status] += 1
        return status

    # Texts

    async def _report(self) -> None:
        """Tell what became of our texts."""
        by_account = {given(n, log.tenant)["twilio_sid"]: log for n, log in enumerate(self.logs)}
        while True:
            message = await self.carrier.reports.get()
            self._beside(self._delivered(by_account[message["account_sid"]], message))

    async def _delivered(self, log: Log, message: dict[str, Any]) -> None:
        path = message["status_callback"].removeprefix(self.stand.environ["PUBLIC_URL"])
        for status in ("sent", "delivered"):
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            fields = samples.twilio_text_status(status, 0, To=message["to"])
            fields |= dict.fromkeys(("MessageSid", "SmsSid"), message["sid"])
            await self._call_back(log, path, fields, ours=True)

    async def _call_back(self, log: Log, path: str, fields: dict[str, str], *, ours: bool = False) -> None:
        own = given(self.logs.index(log), log.tenant)
        fields = fields | {"AccountSid": own["twilio_sid"], "From" if ours else "To": own["twilio_number"]}
        signature = twilio.sign(self.stand.environ["PUBLIC_URL"] + path, fields, TOKEN.format(log.tenant))
        headers = {"Content-Type": FORM, "X-Twilio-Signature": signature}
        data = BytesIO(urlencode(fields).encode())
        async with self.http.post(self._base() + path, data=data, headers=headers) as response:
            status = response.headers.get("X-Webhook-Status", str(response.status))
        self.told.answers[f"twilio {status}"] += 1
        self._expect(f"{log.tenant}: {path.partition('?')[0][:12]}", status, "processed", "duplicate_ignored")

    def _expect(self, what: str, status: str, *wanted: str) -> None:
        """Spooled is as good: on a machine that others use as well the database may be away for a moment."""
        if status not in {*wanted, "spooled"}:
            self.told.wrong.append(f"{what} was {status}")

    def _base(self) -> str:
        return self.rng.choice(self.stand.bases)
