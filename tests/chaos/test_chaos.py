"""Everything fails, again and again, under clients that notice the slightest: no gap that nobody is told of, nothing
twice, no wrong `recovered`.

The short form is part of all tests. `make chaos` is the long one: 1,000 clients, 200 rounds. CHAOS_SEED repeats a run,
as far as a run can be repeated that depends on time.
"""

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.clients import Client, Crowd, EventStream, Poll, WebSocket, World
from tests.chaos.cluster import Cluster
from tests.chaos.faults import FAULTS, Chaos, deck
from tests.chaos.truth import Log, Logs
from tests.chaos.writers import Writers


@dataclass(frozen=True)
class Size:
    clients: int
    tenants: int
    rounds: int
    settle_every: int
    settled_within: float
    traffic: tuple[float, float]  # seconds after each fault
    rate: float  # writes a second
    within: float  # seconds for all


SHORT = Size(200, 4, len(FAULTS), 100, 40.0, (0.3, 1.0), 20.0, 170.0)
LONG = Size(1000, 10, 200, 20, 90.0, (0.8, 2.5), 20.0, 3600.0)
SIZE = LONG if os.environ.get("CHAOS") == "long" else SHORT
SEED = int(os.environ.get("CHAOS_SEED") or (random.randrange(10**6) if SIZE is LONG else 1))
TWO_AT_ONCE = 0.25  # share of rounds in which a second fault comes on top
RECENT = 12  # faults told about when something breaks


class Story:
    """The run, from its first client to its last check."""

    def __init__(self, cluster: Cluster, size: Size, seed: int) -> None:
        self.cluster = cluster
        self.size = size
        self.rng = random.Random(seed)
        self.world = World(rng=random.Random(seed + 1))
        self.names = [f"chaos-{number}" for number in range(size.tenants)]
        self.crowd = Crowd(self.world)
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        self.began = time.monotonic()
        self.slowest = 0.0

    async def run(self) -> None:
        await self.cluster.start(self.names)
        self.world.port = self.cluster.address.port
        self.logs = Logs(self.cluster.database.url, self.names)
        for log in self.logs.of.values():
            log.leads = self.cluster.add_leads(log.tenant, 3)
        await asyncio.to_thread(self.logs.read)
        self.invite()
        self.chaos = Chaos(self.cluster, self.world, self.logs, self.rng)
        logs = list(self.logs.of.values())
        self.writers = Writers(self.cluster, self.world, logs, self.size.rate, random.Random(self.rng.random()))
        clock = asyncio.create_task(self.crowd.tick())
        writing = None
        try:
            await self.crowd.enter(self.size.clients / 200)
            await self.settle()
            writing = asyncio.create_task(self.writers.run())
            await self.rounds(writing)
        finally:
            tasks = [clock, writing] if writing else [clock]
            for task in tasks:
                task.cancel()
            await self.chaos.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.crowd.stop()

    def invite(self) -> None:
        """One client for each user, of all kinds in each tenant."""
        for number in range(self.size.clients):
            log = self.logs.of[self.names[number % len(self.names)]]
            user = f"user-{number // len(self.names)}"
            channels, kinds = manner(log, user, number // len(self.names))
            token = self.cluster.token(log.tenant, user)
            self.crowd.clients.append(Client(self.world, log, user, token, channels, kinds))

    async def rounds(self, writing: asyncio.Task[None]) -> None:
        cards = deck(self.rng, weighted=self.size is LONG)
        for number in range(1, self.size.rounds + 1):
            told = []
            for _ in range(2 if self.size is LONG and self.rng.random() < TWO_AT_ONCE else 1):
                fault = next(cards)
                name = fault.__name__.replace("_", " ")
                self.faults.append(f"{time.strftime('%H:%M:%S', time.gmtime())} round {number}: {name}")
                what = await fault(self.chaos)
                self.done[name] += 1
                told.append(f"{name} {what}")
                self.faults[-1] += f" {what}"
            await self.traffic(self.rng.uniform(*self.size.traffic))
            assert not writing.done(), writing
            self.tell(number, "; ".join(told))
            if number % self.size.settle_every == 0 or number == self.size.rounds:
                await self.settle()

    async def traffic(self, seconds: float) -> None:
        """Let things happen for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check()
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Fail as soon as a promise was broken."""
        if self.world.broken:
            faults = "\n".join(self.faults[-RECENT:])
            first = "\n\n".join(self.world.broken[:3])
            pytest.fail(
                f"CHAOS_SEED={SEED}: {len(self.world.broken)} promises broken\n{first}\n\nThe last faults:\n{faults}\n"
                f"{self.cluster.tails()}", pytrace=False,
            )  # fmt: skip

    async def settle(self) -> None:
        """No harm and no news for a moment: now everybody must have heard everything, once."""
        began = time.monotonic()
        writers = self.writers
        writers.resting = True
        await self.until(lambda: not any(log.written for log in self.logs.of.values()), "writers still at work")
        await asyncio.wait_for(self.chaos.quiet(), self.size.settled_within)
        await asyncio.to_thread(self.logs.read)
        calm = time.monotonic()
        await self.until(lambda: not self.crowd.behind(), "clients behind")
        self.slowest = max(self.slowest, time.monotonic() - calm)
        self.crowd.check()
        for log in self.logs.of.values():
            self.world.broken += [*log.check_written(), *log.check_seen()]
        self.check()
        repaired = await self.cluster.count_repaired()
        print(
            f"  settled {time.monotonic() - calm:.1f} s after the harm ({time.monotonic() - began:.1f} s in all): "
            f"{len(self.crowd.clients)} clients at the head, {self.logs.events} events, {repaired:.0f} repaired",
            flush=True,
        )
        writers.resting = False

    async def until(self, reached, what: str) -> None:
        deadline = time.monotonic() + self.size.settled_within
        while not reached():
            self.check()
            if time.monotonic() > deadline:
                behind = self.crowd.behind()
                for client in self.crowd.clients:
                    if why := client.behind():
                        client.breaks(f"still {why} after {self.size.settled_within} s")
                self.world.broken.insert(0, f"{what}: {len(behind)} clients behind")
                self.check()
            await asyncio.sleep(0.1)

    def tell(self, number: int, what: str) -> None:
        counted = self.world.counted
        print(
            f"{time.monotonic() - self.began:6.0f} s  round {number:3}: {what}  "
            f"[{counted['deliveries']} deliveries, {counted['connects'] - len(self.crowd.clients)} reconnects]",
            flush=True,
        )

    async def summary(self) -> None:
        counted, outcomes = self.world.counted, self.logs.outcomes()
        print(f"\nCHAOS_SEED={SEED}: {self.size.clients} clients, {self.size.rounds} rounds, "
              f"{time.monotonic() - self.began:.0f} s, slowest settling {self.slowest:.1f} s")  # fmt: skip
        print("faults:", ", ".join(f"{count} {name}" for name, count in sorted(self.done.items())))
        print(f"processes: {len(self.cluster.all)} api, {await self.cluster.count_repaired():.0f} events repaired")
        print(f"events: {self.logs.events}, writes: {dict(outcomes)}")
        reconnects = counted["connects"] - self.size.clients
        print(f"deliveries checked: {counted['deliveries']}, reconnects: {reconnects}")
        print(", ".join(f"{name}: {count}" for name, count in sorted(counted.items())))
        print("ends:", ", ".join(f"{why}: {count}" for why, count in self.world.reasons.most_common()))
        print(f"dark links that the server ended: {self.cluster.address.noticed}", flush=True)


def manner(log: Log, user: str, number: int) -> tuple[list[str], list[type]]:
    """What a tenant's n-th client listens to, and how."""
    tenant, own = f"tenant:{log.tenant}:events", f"user:{user}:tasks"
    lead = f"lead:{log.leads[number % len(log.leads)]}:timeline"
    match number % 40:
        case 0 | 1:
            return [tenant], [EventStream]
        case 2:
            return [lead, tenant, own], [EventStream]
        case 3:
            return [lead, own], [EventStream]
        case 4:
            return [tenant], [Poll]
        case 5:
            return [own, lead], [Poll]
        case 6 | 7 | 8:
            return [tenant], [WebSocket, EventStream, Poll]
        case 9:
            return [lead], [WebSocket, EventStream, Poll]
        case 10 | 11:
            return [lead], [WebSocket]
        case 12:
            return [own, lead], [WebSocket]
        case 13:
            return [tenant, lead, own], [WebSocket]
        case 14:
            return [lead, own, tenant], [WebSocket]
    return [tenant], [WebSocket]


@pytest.mark.timeout(SIZE.within + 60)
async def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED}", flush=True)
    cluster = Cluster(tmp_path, random.Random(SEED + 2))
    story = Story(cluster, SIZE, SEED)
    try:
        async with asyncio.timeout(SIZE.within):
            await story.run()
        await story.summary()
        assert not cluster.errors(), "\n".join(cluster.errors()[:5])
    finally:
        await cluster.stop()
