"""The same webhooks many times at once: each has one effect, and the copies are told so."""

import asyncio
import time
from collections import Counter
from io import BytesIO
from typing import Any

import aiohttp
import msgspec

from scripts.bench.harness import heads, stage
from scripts.bench.measure import Bound, Result
from scripts.bench.webhooks import TENANTS, signed

KEYS = 1_000
COPIES = 50
AT_ONCE = 4  # keys whose copies are on their way at the same time


async def run() -> Result:
    """1,000 missed calls, each sent 50 times at the same moment."""
    async with stage(TENANTS) as on, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        statuses: Counter[str] = Counter()
        turns = asyncio.Semaphore(AT_ONCE)

        async def post(body: bytes, headers: dict[str, str]) -> None:
            url = f"{on.base}/call-rail/call-complete"
            async with session.post(url, data=BytesIO(body), headers=headers) as response:
                answer: dict[str, Any] = msgspec.json.decode(await response.read())
            statuses[str(answer["status"])] += 1

        async def copies(number: int) -> None:
            _, body, signature = signed(number)
            headers = {"Signature": signature, "Content-Type": "application/json"}
            async with turns:
                await asyncio.gather(*(post(body, headers) for _ in range(COPIES)))

        before = await heads(on.config, TENANTS)
        started = time.monotonic()
        await asyncio.gather(*(copies(number) for number in range(KEYS)))
        took = time.monotonic() - started
        after = await heads(on.config, TENANTS)
    events = sum(after[name] - before[name] for name in after)
    return Result(
        f"{COPIES} simultaneous copies of {KEYS:,} webhooks",
        f"{KEYS:,} effects, {KEYS * (COPIES - 1):,} duplicates",
        f"{statuses['processed']:,} processed, {statuses['duplicate_ignored']:,} ignored, {events:,} events, "
        f"{KEYS * COPIES / took:,.0f} deliveries/s",
        (Bound("effects of 1,000 keys", "", statuses["processed"], KEYS, least=True),),
        {
            "errors": KEYS * COPIES - statuses["processed"] - statuses["duplicate_ignored"],
            "effects too many": abs(statuses["processed"] - KEYS) + abs(events - KEYS * 5),
        },
    )
