"""Mixed load on a whole deployment, with leaks looked for. The short form is part of all tests and proves that the
machinery works; `make soak` runs for an hour, or SOAK_MINUTES, and says which figures are flat.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.carrier import serving_twilio
from tests.chaos.cluster import ROOT
from tests.chaos.truth import Logs
from tests.conftest import execute, of_tenant
from tests.slack import slack_of
from tests.soak.callers import REGULARS, Callers, Carrier
from tests.soak.check import check, fired, unexplained
from tests.soak.forgetting import Forgetting
from tests.soak.gauges import Gauges, bound_of
from tests.soak.judge import Judged, judge, table
from tests.soak.past import give_past
from tests.soak.stand import Stand
from tests.soak.visitors import Visitors

LONG = os.environ.get("SOAK") == "long"
SECONDS = float(os.environ.get("SOAK_MINUTES") or 60) * 60 if LONG else 6.0
TENANTS = 24 if LONG else 4
RATE = float(os.environ.get("SOAK_RATE") or 20) if LONG else 20.0  # deliveries a second
SAMPLES_EVERY = max(1.0, min(10.0, SECONDS / 60))
# Seconds until a row is old; so all levels off within the warm-up. What is sent again is sent within a few.
KEPT = max(5.0, min(180.0, SECONDS / 20))
FORGET_EVERY = min(60.0, KEPT / 3)
PATIENCE = 20.0 if LONG else 2.0
PAST: dict[str, Any] = {"after": 20.0} if LONG else {"after": 2.0, "events": 100}
SETTLED_WITHIN = 120.0 if LONG else 30.0
TELL_EVERY = 60.0
RESULTS = ROOT / "soak-results"


class Soak:
    """A run, from its first process to its last check."""

    def __init__(self, folder: Path) -> None:
        self.names = [f"soak-{n}" for n in range(TENANTS)]
        self.stand = Stand(folder, self.names)
        self.rng = random.Random(1)

    async def run(self, carrier: Carrier, **settings: str) -> tuple[list[Judged], list[str]]:
        """(what was judged, what is wrong)."""
        await self.stand.start(TWILIO_API_URL=carrier.url, **settings)
        logs = Logs(self.stand.database.url, self.names)
        self.logs = list(logs.of.values())
        for log in self.logs:
            log.leads = add_regulars(self.stand.database.url, log.tenant)
        logs.read()
        self.callers = Callers(self.stand, self.logs, carrier, self.rng, rate=RATE, patience=PATIENCE)
        self.visitors = Visitors(self.stand, self.logs, self.rng, SECONDS / 3600)
        self.visitors.invite()
        self.gauges = Gauges(self.stand)
        forgetting = Forgetting(self.stand, logs, KEPT, FORGET_EVERY)
        crowd = self.visitors.crowd
        clock = asyncio.create_task(crowd.tick())
        await crowd.enter(1.0)
        calls = asyncio.create_task(self.callers.run())
        others = [asyncio.create_task(work) for work in (self.visitors.run(), forgetting.run())]
        past = asyncio.create_task(give_past(self.stand.database.url, self.names, **PAST))
        try:
            await self._watch([calls, *others])
            await past
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            self.callers.resting = True
            await self._settle()
            await asyncio.to_thread(logs.read)
            await self._heard()
            crowd.check()
        finally:
            for task in (clock, calls, past, *others):
                task.cancel()
            await asyncio.gather(clock, calls, past, *others, return_exceptions=True)
            await crowd.stop()
        wrong = await asyncio.to_thread(self._wrong, carrier)
        self.fired = await asyncio.to_thread(fired, self.stand.database.url)
        return list(self._judged()), wrong

    def _judged(self) -> Iterator[Judged]:
        for name, series in self.gauges.series().items():
            unit, bound = bound_of(name)
            yield judge(name, unit, series, bound)

    async def _watch(self, work: list[asyncio.Task[Any]]) -> None:
        """Sample until the time is over; say how it goes."""
        began = told = time.monotonic()
        while (now := time.monotonic()) - began < SECONDS:
            found = await asyncio.to_thread(self.gauges.sample)
            for task in work:
                if task.done():
                    task.result()
            if now - told >= TELL_EVERY:
                told = now
                self._tell(now - began, found)
            await asyncio.sleep(max(0.0, now + SAMPLES_EVERY - time.monotonic()))
        await asyncio.to_thread(self.gauges.sample)

    def _tell(self, seconds: float, found: dict[str, float]) -> None:
        memory = ", ".join(f"{name} {found[f'memory of {name}'] / 1024**2:.0f}" for name in self.stand.processes)
        broken = [*self.visitors.world.broken, *self.visitors.wrong, *self.callers.told.wrong]
        print(
            f"{seconds / 60:5.1f} min  {len(self.callers.told.calls)} calls, {len(self.callers.told.missed)} missed, "
            f"{self.visitors.world.counted['deliveries']} events heard, {self.visitors.answers.total()} requests; "
            f"MiB: {memory}; {found['rows of events']:.0f} events kept; {len(broken)} wrong",
            *broken[-1:],
            sep="\n",
            flush=True,
        )

    async def _settle(self) -> None:
        """Until nothing is left to do but what is due in hours, and the carrier has told of every text."""
        sql = "select count(*) from outbox where state = 'open' and due_at < now() + interval '10 minutes'"
        deadline = time.monotonic() + SETTLED_WITHIN
        while True:
            ((jobs,),) = await asyncio.to_thread(execute, self.stand.database.url, sql)
            if not jobs and not self._spooled() and self.callers.idle:
                return
            if time.monotonic() > deadline:
                self.callers.told.wrong.append(f"{jobs} jobs are still open after {SETTLED_WITHIN:.0f} s")
                return
            await asyncio.sleep(0.2)

    def _spooled(self) -> bool:
        return any((self.stand.folder / "spool").glob("*/*.delivery"))

    async def _heard(self) -> None:
        """Until every screen is where the log is."""
        crowd, deadline = self.visitors.crowd, time.monotonic() + SETTLED_WITHIN
        while behind := crowd.behind():
            if time.monotonic() > deadline:
                self.visitors.world.broken += behind
                return
            await asyncio.sleep(0.2)

    def _wrong(self, carrier: Carrier) -> list[str]:
        stand, visitors = self.stand, self.visitors
        return [
            *visitors.world.broken, *visitors.wrong, *visitors.away(), *self.callers.told.wrong,
            *stand.ended(), *stand.errors(),
            *check(stand.database.url, self.logs, self.callers.told, carrier), *unexplained(stand.database.url),
        ]  # fmt: skip

    def summary(self) -> str:
        counted = self.visitors.world.counted
        return (
            f"deliveries: {dict(self.callers.told.answers)}\nrequests: {dict(self.visitors.answers)}\n"
            f"requests that found a store away: {self.visitors.busy}\n"
            f"alerts: {dict(self.fired)}\nscreens: {dict(counted)}\n"
            f"ends: {dict(self.visitors.world.reasons.most_common(12))}"
        )


def add_regulars(url: str, tenant: str) -> list[str]:
    """Customers who are known already."""
    sql = """
        insert into leads (tenant_id, phone, last_contact_at)
        select %s, '+1212555' || to_char(n, 'FM0000'), now() from generate_series(0, %s - 1) as n returning id::text
    """
    return [str(row[0]) for row in of_tenant(url, sql, tenant, REGULARS, tenant=tenant)]


def keep(soak: Soak, judged: list[Judged], wrong: list[str]) -> Path:
    """Write all samples down."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"soak-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    verdicts = {one.name: one.verdict for one in judged}
    path.write_text(json.dumps({"verdicts": verdicts, "wrong": wrong[:100], "samples": soak.gauges.series()}))
    return path


@pytest.mark.timeout(SECONDS + 600)
async def test_nothing_grows_and_nothing_is_wrong(tmp_path: Path) -> None:
    soak = Soak(tmp_path)
    stopped: list[str] = []
    try:
        async with serving_twilio(Carrier()) as carrier, slack_of() as slack:
            judged, wrong = await soak.run(carrier, ALERT_WEBHOOK_URL=slack.url)
    finally:
        stopped = await soak.stand.stop()
    print(f"\n{table(judged)}\n\n{soak.summary()}", flush=True)
    if LONG:
        print(f"samples: {keep(soak, judged, wrong)}")
    wrong += stopped
    assert not wrong, "\n".join([f"{len(wrong)} things are wrong", *wrong[:10]])
    grown = [one for one in judged if one.verdict != "flat"]
    assert not LONG or not grown, table(grown)  # in seconds all that is there to grow grows
