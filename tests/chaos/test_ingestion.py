"""Everything fails while deliveries come, repeated, out of order and poisoned: each that was answered 200 has one
effect or one quarantine entry, no log has a gap, and every caller got one text.

The short form is part of all tests. `make chaos` is the long one: 10,000 deliveries. CHAOS_SEED repeats the plan.
"""

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import aiohttp
import msgspec
import pytest

from ottoai import samples
from ottoai.webhooks import callrail
from tests.chaos.fleet import Fleet
from tests.chaos.links import HOST
from tests.conftest import SIGNING_KEY, execute, of_tenant

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("CHAOS_SEED") or (random.randrange(10**6) if LONG else 1))
DELIVERIES = 10_000 if LONG else 400
TENANTS = 10 if LONG else 3
SENDERS = 24
RATE = 30.0 if LONG else 25.0  # deliveries a second
PAUSE = (1.0, 3.5) if LONG else (0.7, 1.5)  # seconds between two faults
ANSWER_WITHIN = 12.0
SETTLED_WITHIN = 120.0
POISON = 0.03
REPORTS = tuple(callrail.RANKS)
AWAY = 60.0 if LONG else 6.0  # seconds that the database is


@dataclass
class Call:
    """One call, and what its provider will say of it."""

    tenant: str
    id: int
    answered: bool
    kinds: list[str]
    taken: set[str] = field(default_factory=set)  # kinds that were answered 200
    tried: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Delivery:
    """One report, as it is sent. `poison`: it can not be used, and what tells it from other poison."""

    call: Call | None
    tenant: str
    kind: str
    body: bytes
    poison: str = ""


def plan(rng: random.Random, names: list[str], count: int) -> list[Delivery]:
    """All deliveries, near each other as they would come, but in a wrong order and some again."""
    deliveries: list[tuple[float, Delivery]] = []
    at, number = 0.0, 0
    now = datetime.now(UTC)
    while len(deliveries) < count:
        number += 1
        tenant = names[number % len(names)]
        at += 1.0
        if rng.random() < POISON:
            body = samples.callrail("call-complete", number, company_id=1000 + number % len(names),
                                    company_resource_id=None, tracking_phone_number=None, duration="long")  # fmt: skip
            one = Delivery(None, tenant, "call-complete", msgspec.json.encode(body), poison=str(number))
            deliveries += [(at + rng.uniform(0, 8), one) for _ in range(rng.choice((1, 1, 2)))]
            continue
        kinds = rng.choice((["call-complete"], ["pre-call", "call-complete"], list(REPORTS), ["call-modified"]))
        call = Call(tenant, number, rng.random() < 0.4, kinds)
        phone = samples.daytime_phone(now + timedelta(minutes=10), 100 + number // len(names) % 800)
        for kind in kinds:
            body = samples.callrail(kind, number, company_id=1000 + number % len(names), company_resource_id=None,
                                    tracking_phone_number=None, customer_phone_number=phone, answered=call.answered,
                                    source_name=kind, start_time=now.isoformat())  # fmt: skip
            one = Delivery(call, tenant, kind, msgspec.json.encode(body))
            deliveries += [(at + rng.uniform(0, 8), one) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return [one for _, one in sorted(deliveries, key=lambda pair: pair[0])]


class Sending:
    """Sends each delivery once, as CallRail does, and remembers what was promised."""

    def __init__(self, fleet: Fleet, deliveries: list[Delivery]) -> None:
        self.fleet = fleet
        self.waiting = iter(deliveries)
        self.left = len(deliveries)
        self.statuses: Counter[str] = Counter()
        self.poisoned: set[tuple[str, str]] = set()  # that was answered 200
        self.wrong: list[str] = []

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(ANSWER_WITHIN)
        began, sent = time.monotonic(), 0
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self.http:
            tasks: set[asyncio.Task[None]] = set()
            for one in self.waiting:
                await asyncio.sleep(max(0.0, began + sent / RATE - time.monotonic()))
                sent += 1
                self.left -= 1
                task = asyncio.create_task(self._send(one))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _send(self, one: Delivery) -> None:
        signature = callrail.sign(one.body, SIGNING_KEY.format(one.tenant))
        headers = {"Content-Type": "application/json", "Signature": signature}
        url = f"http://{HOST}:{self.fleet.address.port}/call-rail/{one.kind}"
        if one.call:
            one.call.tried.add(one.kind)
        try:
            async with self.http.post(url, data=BytesIO(one.body), headers=headers) as response:
                answer = msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.statuses["unanswered"] += 1
            return
        self.statuses[str(answer["status"])] += 1
        if response.status == 200:
            if one.call:
                one.call.taken.add(one.kind)
                if answer["status"] == "quarantined":
                    self.wrong.append(f"{one.tenant} {one.call.id} {one.kind}: {answer}")
            else:
                self.poisoned.add((one.tenant, one.poison))
        elif response.status != 503:
            self.wrong.append(f"{one.tenant} {one.kind}: {response.status} {answer}")


async def settle(fleet: Fleet) -> None:
    """Wait until nothing is left to do but what is due in hours."""
    await fleet.quiet()
    deadline = time.monotonic() + SETTLED_WITHIN
    spool = fleet.folder / "spool"
    while True:
        waiting = len(list(spool.glob("*/*.delivery")))
        ((jobs,),) = await asyncio.to_thread(
            execute, fleet.database.url,
            "select count(*) from outbox where state = 'open' and due_at < now() + interval '10 minutes'",
        )  # fmt: skip
        if not waiting and not jobs:
            return
        assert time.monotonic() < deadline, f"{waiting} deliveries spooled, {jobs} jobs open"
        await asyncio.sleep(0.3)


def check(fleet: Fleet, calls: list[Call], sending: Sending) -> list[str]:
    """What is not as it was promised."""
    wrong = list(sending.wrong)
    for tenant in fleet.names:
        wrong += check_log(fleet.database.url, tenant)
        wrong += check_rescues(fleet.database.url, tenant)
        own = [call for call in calls if call.tenant == tenant]
        wrong += check_calls(fleet.database.url, tenant, own)
        sql = "select count(*), count(distinct k.variant) from idempotency_keys k where outcome = 'quarantined'"
        ((entries, different),) = of_tenant(fleet.database.url, sql, tenant=tenant)
        kept = {number for name, number in sending.poisoned if name == tenant}
        if entries != different or int(str(entries)) < len(kept):
            wrong.append(f"{tenant}: {len(kept)} poisoned deliveries were taken, {entries} are quarantined")
    return wrong


def check_log(url: str, tenant: str) -> list[str]:
    sql = "select (select seq from heads), count(*), coalesce(max(seq), 0), count(distinct seq) from events"
    (row,) = of_tenant(url, sql, tenant=tenant)
    return [] if len(set(row)) == 1 else [f"{tenant}: the log has a gap: head, rows, last, numbers are {row}"]


def check_calls(url: str, tenant: str, calls: list[Call]) -> list[str]:
    wrong = []
    sql = "select external_id, kind, count(*) from idempotency_keys where outcome = 'processed' group by 1, 2"
    keys = {(str(call), str(kind)): count for call, kind, count in of_tenant(url, sql, tenant=tenant)}
    sql = "select external_id, status, missed, answered, source from calls"
    rows = {str(row[0]): row[1:] for row in of_tenant(url, sql, tenant=tenant)}
    events: dict[str, Counter[str]] = defaultdict(Counter)
    for call_id, event in of_tenant(url, "select data ->> 'external_id', event from events", tenant=tenant):
        events[str(call_id)][str(event)] += 1
    for call in calls:
        known = {kind for kind in REPORTS if (str(call.id), kind) in keys}
        if not call.taken <= known <= call.tried or any(keys[str(call.id), kind] != 1 for kind in known):
            wrong.append(f"{tenant} {call.id}: {call.taken} were taken, {call.tried} sent, {known} recorded")
            continue
        if not known:
            continue
        final = bool({"call-complete", "call-modified"} & known)
        last = max(known, key=REPORTS.index)
        told = (
            "completed" if final else "routed" if "routing-complete" in known else "ringing",
            final and not call.answered,
            call.answered if final else None,
            last,
        )
        if rows.get(str(call.id)) != told:
            wrong.append(f"{tenant} {call.id}: is {rows.get(str(call.id))}, not {told}")
        seen = events[str(call.id)]
        expected = {"telephony.call.received": 1, "telephony.call.completed": int(final),
                    "telephony.call.missed": int(told[1])}  # fmt: skip
        if any(seen[name] != count for name, count in expected.items()):
            wrong.append(f"{tenant} {call.id}: events {dict(seen)}, not {expected}")
    return wrong


def check_rescues(url: str, tenant: str) -> list[str]:
    sql = """
        select c.external_id, m.status, (select count(*) from messages x where x.missed_call_id = m.id),
            (select count(*) from messages x join development_texts d on d.message_id = x.id
             where x.missed_call_id = m.id),
            (select count(*) from outbox o where o.subject_id = m.id and o.state = 'done')
        from missed_calls m join calls c on c.id = m.call_id
    """
    rows = of_tenant(url, sql, tenant=tenant)
    (missed,) = of_tenant(url, "select count(*) from calls where missed", tenant=tenant)[0]
    wrong = [f"{tenant}: rescue {row}" for row in rows if row[1:] != ("texted", 1, 1, 1)]
    if len(rows) != missed:
        wrong.append(f"{tenant}: {missed} calls were missed, {len(rows)} rescues opened")
    return wrong


@pytest.mark.timeout(1800 if LONG else 240)
async def test_every_delivery_has_one_effect_whatever_dies(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    names = [f"chaos-{number}" for number in range(TENANTS)]
    deliveries = plan(rng, names, DELIVERIES)
    calls = list({id(one.call): one.call for one in deliveries if one.call}.values())
    fleet = Fleet(tmp_path, random.Random(SEED + 1), names)
    sending = Sending(fleet, deliveries)
    faults: list[str] = []
    began = time.monotonic()
    try:
        await fleet.start()
        work = asyncio.create_task(sending.run())
        while not work.done():
            await asyncio.sleep(fleet.rng.uniform(*PAUSE))
            fault = fleet.rng.choice(fleet.faults)
            name = fault.__name__.replace("_", " ")
            what = await fault()
            faults.append(f"{time.monotonic() - began:6.1f} s  {name} {what}")
            print(f"{faults[-1]}  [{sending.left} to send, {dict(sending.statuses)}]", flush=True)
            fleet.done[name] += what not in {"nobody", "away already"}
        await work
        await settle(fleet)
        wrong = await asyncio.to_thread(check, fleet, calls, sending)
        ((texts,),) = execute(fleet.database.url, "select count(*) from outbox where job = 'send_text'")
        print(f"\nCHAOS_SEED={SEED}: {len(deliveries)} deliveries about {len(calls)} calls in "
              f"{time.monotonic() - began:.0f} s, {texts} texts\nanswers: {dict(sending.statuses)}\n"
              f"{fleet.done.total()} faults: {dict(fleet.done)}", flush=True)  # fmt: skip
        assert not wrong, "\n".join([f"CHAOS_SEED={SEED}", *wrong[:10], *faults[-15:]])
        assert sending.statuses["processed"] > 0
    finally:
        await fleet.stop()


@pytest.mark.timeout(600)
async def test_a_database_that_is_away_loses_no_delivery(tmp_path: Path) -> None:
    """Every delivery is answered 200, and each call is in the end what its reports say."""
    rng = random.Random(SEED)
    names = [f"chaos-{number}" for number in range(TENANTS)]
    deliveries = plan(rng, names, round((AWAY + 4.0) * RATE))
    calls = list({id(one.call): one.call for one in deliveries if one.call}.values())
    fleet = Fleet(tmp_path, rng, names)
    sending = Sending(fleet, deliveries)
    try:
        await fleet.start()
        work = asyncio.create_task(sending.run())
        await asyncio.sleep(2.0)
        await asyncio.to_thread(fleet.database.stop)
        await asyncio.sleep(AWAY)
        spooled = len(list((tmp_path / "spool").glob("*/*.delivery")))
        await asyncio.to_thread(fleet.database.start)
        began = time.monotonic()
        await work
        await settle(fleet)
        print(f"\n{len(deliveries)} deliveries, {dict(sending.statuses)}, {spooled} waited on disk, "
              f"{time.monotonic() - began:.1f} s until all was done")  # fmt: skip
        wrong = await asyncio.to_thread(check, fleet, calls, sending)
        assert not wrong, "\n".join(wrong[:10])
        assert set(sending.statuses) == {"processed", "duplicate_ignored", "quarantined", "spooled"}
        assert spooled > 0
    finally:
        await fleet.stop()
