"""50 tenants with 20 sockets each, and 300 signed webhooks a second: from a webhook to every screen of its tenant."""

from typing import Any

from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.harness import heads, stage
from scripts.bench.measure import Bound, Result, cpu_seconds, median, percentile
from scripts.bench.webhooks import TENANTS, send

SOCKETS = 20
PER_SECOND = 300
SECONDS = 10
GOAL = 0.100  # seconds from sending a webhook to a socket, at p99


async def run() -> Result:
    """Every socket must get every event of its tenant, once and in order."""
    async with stage(TENANTS) as on, crowd(Audience) as ask:
        for tenant in range(TENANTS):
            await ask("join", base=on.base, tickets=on.tickets(tenant, SOCKETS))
        before, cpu = await heads(on.config, TENANTS), cpu_seconds(on.api)
        sent = await send(on.base, PER_SECOND, SECONDS)
        cpu = cpu_seconds(on.api) - cpu
        after = await heads(on.config, TENANTS)
        behind = await ask("reach", heads=after, seconds=5.0)
        got: dict[str, Any] = await ask("take")
    latencies = [at - sent.at[call] for call, at in got["calls"]]
    webhooks = PER_SECOND * SECONDS
    due = sum(after[name] - before[name] for name in after) * SOCKETS
    p99, answered = percentile(latencies, 0.99), percentile(sent.latencies, 0.99)
    return Result(
        f"{TENANTS} tenants with {SOCKETS} sockets each, {PER_SECOND} signed webhooks/s",
        "each event once and in order on every socket of its tenant, webhook to socket p99 ≤ 100 ms",
        f"webhook to socket p50 {median(latencies) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, HTTP answer "
        f"p99 {answered * 1000:.1f} ms, {got['events']:,} of {due:,} deliveries, {got['missing']} missing, "
        f"{got['repeated']} repeated, {sent.refused} not 200",
        (Bound("p99 from webhook to socket", "ms", p99 * 1000, GOAL * 1000),),
        {
            "errors": sent.refused + abs(webhooks * SOCKETS - len(latencies)),
            "events missing": got["missing"] + abs(due - got["events"]),
            "events repeated": got["repeated"],
            "connections dropped": len(got["closes"]) + behind,
        },
        details={
            "api_cpu": cpu / sent.took,
            "deliveries_per_second": got["events"] / sent.took,
        },
    )
