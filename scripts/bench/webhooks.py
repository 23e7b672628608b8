"""Signed webhooks of 50 tenants at a steady pace, and what they take."""

import asyncio
import time
from io import BytesIO

import aiohttp
import msgspec

from ottoai import samples
from ottoai.webhooks import callrail
from scripts.bench.harness import KEY, Result, median, percentile, stage

TENANTS = 50
PER_SECOND = 600
SECONDS = 10
GOAL = 0.050  # seconds at p99


async def run() -> Result:
    """600 missed calls a second."""
    async with stage(TENANTS) as on:
        latencies: list[float] = []
        statuses: dict[int, int] = {}
        connector = aiohttp.TCPConnector(limit=200)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def send(body: bytes, signature: str, due: float) -> None:
                headers = {"Signature": signature, "Content-Type": "application/json"}
                url = f"{on.base}/call-rail/call-complete"
                async with session.post(url, data=BytesIO(body), headers=headers) as response:
                    await response.read()
                    statuses[response.status] = statuses.get(response.status, 0) + 1
                # From when it was due, not from when it went out: a late start is waiting too.
                latencies.append(time.perf_counter() - due)

            ready = [_signed(n) for n in range(PER_SECOND * SECONDS)]
            before, started = on.api.cpu_times(), time.perf_counter()
            tasks = []
            for n, (body, signature) in enumerate(ready):
                due = started + n / PER_SECOND
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(asyncio.create_task(send(body, signature, due)))
            await asyncio.gather(*tasks)
            took = time.perf_counter() - started
            after = on.api.cpu_times()
    p99 = percentile(latencies, 0.99)
    rate = statuses.get(200, 0) / took
    cpu = after.user + after.system - before.user - before.system
    return Result(
        "signed webhooks, 50 tenants",
        "600/s, p99 <= 50 ms",
        f"{rate:.0f}/s, p50 {median(latencies) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, statuses {statuses}",
        rate >= PER_SECOND * 0.98 and p99 <= GOAL and set(statuses) == {200},
        {"api_cpu": cpu / took, "cpu_ms_each": cpu / len(latencies) * 1000},
    )


def _signed(n: int) -> tuple[bytes, str]:
    phone = f"+1212{200 + n // 10_000 % 700:03}{n % 10_000:04}"
    body = msgspec.json.encode(
        samples.callrail(
            "call-complete",
            10**9 + n,
            company_id=1000 + n % TENANTS,
            company_resource_id=None,
            customer_phone_number=phone,
            tracking_phone_number=None,
        )
    )
    return body, callrail.sign(body, KEY)
