"""Workers and beat die, RQ's keys are lost, queues are paused, and the carrier takes texts and then hangs, drops the
line or fails: no caller gets two texts for a step, and none is forgotten.

The short form is part of all tests; `make chaos` has the long one: 1,000 rescues. CHAOS_SEED repeats the plan.
"""

import asyncio
import os
import random
import time
from collections import Counter
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from ottoai import samples
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import tenants
from ottoai.metrics import Metrics
from ottoai.vault import Vault
from ottoai.webhooks import callrail
from tests.carrier import Manner, Twilio, serving_twilio
from tests.chaos.fleet import Fault, Fleet
from tests.chaos.links import HOST
from tests.conftest import SECRET_KEY, SIGNING_KEY, execute, of_tenant

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("CHAOS_SEED") or (random.randrange(10**6) if LONG else 1))
RESCUES, TENANTS, RATE = (1_000, 10, 8.0) if LONG else (60, 3, 8.0)
PAUSE = (0.5, 2.0) if LONG else (0.4, 1.2)  # seconds between two faults
SETTLED_WITHIN = 900.0 if LONG else 90.0
# How often the carrier does what, in a hundred. What hangs or is away takes minutes to be given up: the long form's.
MANNERS: dict[Manner, int] = {"answers": 70, "drops": 12, "fails": 10, "busy": 8}
if LONG:
    MANNERS = {"answers": 66, "drops": 10, "fails": 8, "hangs": 8, "busy": 6, "away": 2}
UNLISTED = 0.2  # share of the texts that the carrier lists some seconds late


class Whims(Twilio):
    """A carrier that picks what it does with each text."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._listed_at: dict[str, float] = {}
        self.did: Counter[str] = Counter()

    async def take(self, request: web.Request) -> web.StreamResponse:
        manner = self._rng.choices(list(MANNERS), list(MANNERS.values()))[0]
        self.manners.append(manner)
        self.did[manner] += 1
        return await super().take(request)

    def listed(self, message: dict[str, Any]) -> bool:
        late = self._rng.uniform(1.0, 6.0) if self._rng.random() < UNLISTED else 0.0
        return time.monotonic() >= self._listed_at.setdefault(message["sid"], time.monotonic() + late)


async def give_accounts(fleet: Fleet) -> None:
    config = Config.load(fleet.environ(fleet.database.url, fleet.redis.url))
    async with open_pool(config, Metrics("chaos")) as db:
        for n, name in enumerate(fleet.names):
            given = {
                "twilio_sid": f"AC{n}", "twilio_token": "canary-secret-chaos", "twilio_number": f"+1404555{n + 100:04}",
            }  # fmt: skip
            await tenants.change(db.system(), Vault((SECRET_KEY,)), name, {}, given)


async def miss_calls(fleet: Fleet) -> None:
    """Every call of another caller, from where it is day."""
    now = datetime.now(UTC)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for number in range(RESCUES):
            n, phone = number % TENANTS, samples.daytime_phone(now, 100 + number // TENANTS)
            body = msgspec.json.encode(
                samples.callrail(
                    "call-complete", 5_000 + number, company_id=1000 + n, company_resource_id=None,
                    tracking_phone_number=None, customer_phone_number=phone,
                )
            )  # fmt: skip
            headers = {"Signature": callrail.sign(body, SIGNING_KEY.format(fleet.names[n]))}
            url = f"http://{HOST}:{fleet.address.port}/call-rail/call-complete"
            async with session.post(url, data=BytesIO(body), headers=headers) as response:
                assert response.status == 200
            await asyncio.sleep(1 / RATE)


async def settle(fleet: Fleet) -> None:
    await fleet.quiet()
    deadline = time.monotonic() + SETTLED_WITHIN
    sql = "select count(*) from outbox where state = 'open' and due_at < now() + interval '10 minutes'"
    while (left := (await asyncio.to_thread(execute, fleet.database.url, sql))[0][0]) != 0:
        assert time.monotonic() < deadline, f"{left} jobs open"
        await asyncio.sleep(0.3)


def check(fleet: Fleet, carrier: Twilio) -> tuple[list[str], Counter[str]]:
    """(what is not as it was promised, how many texts ended how)."""
    taken = Counter((message["account_sid"], message["to"]) for message in carrier.taken)
    wrong = [f"{account}: {times} texts to one caller" for (account, _), times in taken.items() if times > 1]
    ended: Counter[str] = Counter()
    sql = """
        select l.phone, m.status, r.status, count(t.id)
        from missed_calls r join leads l on l.id = r.lead_id left join messages m on m.missed_call_id = r.id
        left join tasks t on t.subject_id = m.id and t.kind = 'check_text'
        group by r.id, m.id, l.phone, m.status, r.status
    """
    for n, name in enumerate(fleet.names):
        for phone, status, rescue, tasks in of_tenant(fleet.database.url, sql, tenant=name):
            ended[str(status)] += 1
            right = {"sent": (1, "texted", 0), "unknown": (taken[f"AC{n}", phone], "queued", 1)}
            if right.get(str(status)) != (taken[f"AC{n}", phone], rescue, tasks):
                wrong.append(f"{name}: taken {taken[f'AC{n}', phone]} times, {status}, {rescue}, {tasks} tasks")
    if ended.total() != RESCUES:
        wrong.append(f"{ended.total()} texts of {RESCUES} rescues")
    return wrong, ended


@pytest.mark.timeout(3000 if LONG else 200)
async def test_no_caller_gets_two_texts_for_a_step(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    names = [f"chaos-{number}" for number in range(TENANTS)]
    async with serving_twilio(Whims(rng)) as carrier:
        fleet = Fleet(tmp_path, random.Random(SEED + 1), names, TWILIO_API_URL=carrier.url)
        fleet.victims = ("worker", "beat")
        try:
            await fleet.start()
            await give_accounts(fleet)
            work = asyncio.create_task(miss_calls(fleet))
            cards: list[Fault] = []
            while not work.done():
                await asyncio.sleep(fleet.rng.uniform(*PAUSE))
                if not cards:  # each of them comes, in the short form too
                    cards = [fleet.kill] * 3 + [fleet.suspend, fleet.terminate, fleet.lose_queues, fleet.pause_queue]
                    fleet.rng.shuffle(cards)
                fault = cards.pop()
                fleet.done[fault.__name__] += await fault() != "nobody"
            await work
            await settle(fleet)
            wrong, ended = await asyncio.to_thread(check, fleet, carrier)
            print(
                f"\nCHAOS_SEED={SEED}: {RESCUES} rescues, {len(carrier.asked)} texts handed over, "
                f"{len(carrier.taken)} taken; they ended {dict(ended)}\n"
                f"faults: {dict(fleet.done)}; the carrier: {dict(carrier.did)}"
            )
            assert not wrong, "\n".join([f"CHAOS_SEED={SEED}", *wrong[:10]])
            assert ended["sent"] > RESCUES * 0.8
        finally:
            carrier.let_go()
            await fleet.stop()
