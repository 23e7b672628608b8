"""1,000 sockets on one tenant, 100 transient events a second, emitted through the front door."""

import asyncio
import time
from datetime import timedelta

import aiohttp

from ottoai.web.auth import issue
from scripts.bench.harness import Result, figures, median, percentile, stage
from scripts.bench.listeners import crowd

SOCKETS = 1_000
PER_SECOND = 100
SECONDS = 10
GOAL = 0.100  # seconds at p99
MARK = b'"sent":"'


async def run() -> Result:
    """Deliver 100,000 events a second for ten seconds."""
    async with stage() as on:
        tokens = [issue(on.config, "bench-0", f"user-{n}", "member", timedelta(hours=1)) for n in range(SOCKETS)]
        latencies: list[float] = []
        received = 0

        def on_frame(frame: memoryview, now: float) -> None:
            nonlocal received
            received += 1
            raw = bytes(frame[-40:])
            latencies.append(now - float(raw[raw.index(MARK) + len(MARK) :].split(b'"', 1)[0]))

        listeners = await crowd(on.base, tokens, "tenant:bench-0:events", on_frame)
        before = on.api.cpu_times()
        started = time.perf_counter()
        sent = await _emit(on.base)
        took = time.perf_counter() - started
        deadline = time.monotonic() + 5
        while received < sent * SOCKETS and time.monotonic() < deadline:  # noqa: ASYNC110 - no event per frame
            await asyncio.sleep(0.05)
        after = on.api.cpu_times()
        seen = await figures(on.base)
        closed = sum(one.closed for one in listeners)
        for one in listeners:
            one.close()
    cpu = after.user + after.system - before.user - before.system
    dropped = sent * SOCKETS - received
    p99 = percentile(latencies, 0.99)
    return Result(
        "1,000 sockets, 100 transient events/s",
        "nothing dropped, p99 < 100 ms",
        f"{received / took:,.0f} deliveries/s, p50 {median(latencies) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, "
        f"{dropped} dropped, {closed} closed, {cpu / max(received, 1) * 1e6:.2f} µs CPU each",
        dropped == 0 and closed == 0 and p99 < GOAL,
        {"counted_dropped": seen.get("ws_messages_dropped_total", 0.0), "api_cpu": cpu / took, "events": sent},
    )


async def _emit(base: str) -> int:
    """POST events at an even pace; how many were accepted."""
    url = f"{base}/ws/test-emit?event=test.bench&tenant_id=bench-0&transient=1"
    accepted = 0
    async with aiohttp.ClientSession(headers={"X-Dev-Key": "bench"}) as session:

        async def emit() -> None:
            nonlocal accepted
            data = {"filler": "x" * 100, "sent": f"{time.time():.6f}"}
            async with session.post(url, json=data) as response:
                accepted += response.status == 200

        started = time.perf_counter()
        tasks = []
        for n in range(PER_SECOND * SECONDS):
            await asyncio.sleep(max(0.0, started + n / PER_SECOND - time.perf_counter()))
            tasks.append(asyncio.create_task(emit()))
        await asyncio.gather(*tasks)
    return accepted
