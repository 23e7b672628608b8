"""Signed webhooks of 50 tenants at a steady pace, and what they take."""

import asyncio
import time
from collections.abc import Callable
from io import BytesIO

import aiohttp
import msgspec

from ottoai import samples
from ottoai.webhooks import callrail
from scripts.bench import pgbench
from scripts.bench.harness import KEY, stage
from scripts.bench.measure import Result, cpu_seconds, median, percentile

TENANTS = 50
PER_SECOND = 600
SECONDS = 10
GOAL = 0.050  # seconds at p99


class Sent(msgspec.Struct):
    """What became of the webhooks that were sent."""

    at: dict[str, float] = {}  # when each went out, by the call's external id (monotonic time)
    latencies: list[float] = []  # of the answers
    statuses: dict[int, int] = {}
    took: float = 0.0


async def run() -> Result:
    """600 missed calls a second."""
    async with stage(TENANTS) as on:
        cpu = cpu_seconds(on.api)
        sent = await send(on.base, PER_SECOND, SECONDS)
        cpu = cpu_seconds(on.api) - cpu
        peer = await pgbench.transactions(on.config.database_url, TENANTS)
    p99 = percentile(sent.latencies, 0.99)
    rate = sent.statuses.get(200, 0) / sent.took
    return Result(
        "signed webhooks, 50 tenants",
        "600/s, p99 <= 50 ms",
        f"{rate:.0f}/s, p50 {median(sent.latencies) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, statuses {sent.statuses}",
        rate >= PER_SECOND * 0.98 and p99 <= GOAL and set(sent.statuses) == {200},
        {"api_cpu": cpu / sent.took, "cpu_ms_each": cpu / len(sent.latencies) * 1000, **peer},
    )


async def send(base: str, rate: int, seconds: int, make: Callable[[int], tuple[str, bytes, str]] | None = None) -> Sent:
    """Send missed calls of all tenants at an even pace; `make` makes the nth (external id, body, signature)."""
    make = make or signed
    sent = Sent()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session:

        async def post(body: bytes, signature: str, due: float) -> None:
            headers = {"Signature": signature, "Content-Type": "application/json"}
            async with session.post(f"{base}/call-rail/call-complete", data=BytesIO(body), headers=headers) as response:
                await response.read()
                sent.statuses[response.status] = sent.statuses.get(response.status, 0) + 1
            sent.latencies.append(time.monotonic() - due)

        ready = [make(n) for n in range(rate * seconds)]
        tasks = []
        started = time.monotonic()
        for n, (external_id, body, signature) in enumerate(ready):
            # From when it was due, not from when it went out: a late start is waiting too.
            due = sent.at[external_id] = started + n / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(post(body, signature, due)))
        await asyncio.gather(*tasks)
        sent.took = time.monotonic() - started
    return sent


def signed(n: int) -> tuple[str, bytes, str]:
    """A webhook of its own: (external id, body, signature)."""
    phone = f"+1212{200 + n // 10_000 % 700:03}{n % 10_000:04}"
    report = samples.callrail(
        "call-complete",
        10**9 + n,
        company_id=1000 + n % TENANTS,
        company_resource_id=None,
        customer_phone_number=phone,
        tracking_phone_number=None,
    )
    body = msgspec.json.encode(report)
    return str(report["id"]), body, callrail.sign(body, KEY)
