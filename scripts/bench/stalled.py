"""1,000 sockets of which one in ten stops reading: whether the others notice, what it costs, and whether those who
stopped get everything once they read again.
"""

import time
from typing import Any

from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.emit import Emitter
from scripts.bench.harness import stage
from scripts.bench.measure import Bound, Result, median, percentile

READING = 900
STALLED = 100
SMALL = 4096  # bytes of receive buffer, so that a client that stops is felt at once
SIZE = 8000  # bytes of an event: 7 s of them are more than the ring holds
RATE = 25
SECONDS = 7.0  # of a phase; STUCK is 30
ROUNDS = 3
CATCH_UP = 20.0
CHANGE_GOAL = 0.10
MEMORY_GOAL = 0.5  # MiB per stalled client


async def run() -> Result:
    """Phases with and without stalled clients, in turn."""
    calm: list[float] = []
    stalled: list[float] = []
    grown: list[float] = []
    catching_up: list[float] = []
    behind = 0
    async with stage() as on, crowd(Audience) as ask:
        tickets = on.tickets(0, READING + STALLED)
        for first in range(0, len(tickets), 100):  # spread, so that the stalled are not all written to last
            await ask("join", base=on.base, tickets=tickets[first : first + 90])
            await ask("join", base=on.base, tickets=tickets[first + 90 : first + 100], receive_buffer=SMALL)
        emitter = Emitter(on.base, 1, SIZE)
        await emitter.emit(RATE, SECONDS)  # fills the ring, and warms up
        totals: dict[str, int] = {"missing": 0, "repeated": 0, "closed": 0}
        for _ in range(ROUNDS):
            for phase in (calm, stalled):
                behind += await ask("reach", heads=emitter.heads, seconds=CATCH_UP)
                _add(totals, await ask("take"))
                if phase is stalled:
                    await ask("stall")
                memory = on.api.memory_info().rss
                await emitter.emit(RATE, SECONDS)
                grown.append((on.api.memory_info().rss - memory) / STALLED / 2**20 if phase is stalled else 0.0)
                got = await ask("take")
                phase.append(percentile(got["latencies"], 0.99))
                _add(totals, got)
                if phase is stalled:
                    started = time.monotonic()
                    await ask("resume")
                    behind += await ask("reach", heads=emitter.heads, seconds=CATCH_UP)
                    catching_up.append(time.monotonic() - started)
        _add(totals, await ask("take"))
    change = median(stalled) / median(calm) - 1
    return Result(
        f"{READING + STALLED} sockets, {STALLED} of which stop reading; {RATE} durable events/s of {SIZE // 1000} kB",
        "p99 of the others changes < 10 %, ≤ 0.5 MiB per stalled client, who then gets everything in order",
        f"p99 {median(calm) * 1000:.1f} ms without, {median(stalled) * 1000:.1f} ms with stalled ones ({change:+.0%}), "
        f"{max(grown):.2f} MiB each, {behind} behind, {totals['missing']} missing, {totals['repeated']} repeated, "
        f"{totals['closed']} closed",
        (
            Bound(
                "p99 of the others, with stalled", "ms", median(stalled) * 1000, median(calm) * 1000 * (1 + CHANGE_GOAL)
            ),
            Bound("memory of a stalled client", "MiB", max(grown), MEMORY_GOAL),
        ),
        {
            "errors": emitter.failed,
            "events missing": totals["missing"],
            "events repeated": totals["repeated"],
            "connections dropped": totals["closed"] + behind,
        },
        details={
            "catching_up_s": median(catching_up),
            "without_ms": " ".join(f"{value * 1000:.1f}" for value in calm),
            "with_ms": " ".join(f"{value * 1000:.1f}" for value in stalled),
        },
    )


def _add(totals: dict[str, int], got: dict[str, Any]) -> None:
    totals["missing"] += got["missing"]
    totals["repeated"] += got["repeated"]
    totals["closed"] += len(got["closes"])
