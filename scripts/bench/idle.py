"""10,000 subscribed sockets and nothing to tell them: what they cost in memory and time."""

import asyncio
import time
from typing import Any

from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.harness import stage
from scripts.bench.measure import Bound, Result, cpu_seconds, figures, median, raise_file_limit

TENANTS = 10
USERS = 1_000
SETTLE = 5.0
ROUNDS = 3
SECONDS = 20.0  # of a round: as long as a round of heartbeats
MEMORY_GOAL = 256  # MiB
CPU_GOAL = 0.03  # of a core
FILES = TENANTS * USERS + 500


async def run() -> Result:
    """Three rounds of heartbeats."""
    sockets = TENANTS * USERS
    what = f"{sockets:,} idle sockets of {TENANTS} tenants"
    goal = f"≤ {MEMORY_GOAL} MiB, ≤ {CPU_GOAL:.0%} of a core, every heartbeat answered, none closed"
    if (limit := raise_file_limit()) < FILES:
        return Result(what, goal, f"a process may open {limit} files here, {FILES} are needed (ulimit -Hn)")
    async with stage(TENANTS) as on, crowd(Audience) as ask:
        empty = on.api.memory_info().rss
        started = time.monotonic()
        for tenant in range(TENANTS):
            await ask("join", base=on.base, tickets=on.tickets(tenant, USERS))
        joining = time.monotonic() - started
        await asyncio.sleep(SETTLE)
        await ask("take")
        before = await figures(on.base)
        shares = []
        for _ in range(ROUNDS):
            started, cpu = time.monotonic(), cpu_seconds(on.api)
            await asyncio.sleep(SECONDS)
            shares.append((cpu_seconds(on.api) - cpu) / (time.monotonic() - started))
        after = await figures(on.base)
        memory = on.api.memory_info().rss
        got: dict[str, Any] = await ask("take")
    beats = {key: after[key] - before[key] for key in after if key.startswith("ws_heartbeats_total{")}
    timeouts = sum(count for key, count in beats.items() if '"timeout"' in key)
    answered = sum(count for key, count in beats.items() if '"ok"' in key)
    share = median(shares)
    open_ = got["open"]
    return Result(
        what,
        goal,
        f"{memory / 2**20:.0f} MiB, {share:.1%} of a core, {answered:,.0f} heartbeats answered, {timeouts:.0f} timed "
        f"out, {len(got['closes'])} closed",
        (
            # The guide has a tenth of the sockets.
            Bound("memory of the api process", "MiB", memory / 2**20, MEMORY_GOAL, guide=512),
            Bound("processor", "% of a core", share * 100, CPU_GOAL * 100),
            Bound("heartbeats answered", "", answered, sockets * ROUNDS, least=True, slack=0.05),  # a second of a round
        ),
        {"connections dropped": len(got["closes"]) + int(timeouts) + sockets - open_},
        "1,000 in 512 MB",
        details={
            "kib_per_socket": (memory - empty) / sockets / 1024,
            "empty_mib": empty / 2**20,
            "cpu_least": min(shares),
            "cpu_most": max(shares),
            "pings_seen": got["pings"],
            "joined_per_second": sockets / joining,
        },
    )
