"""SIGTERM to a process with 5,000 sockets: how its clients come to another one, and whether anything is lost."""

import asyncio
import signal
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from scripts.bench.audience import Audience
from scripts.bench.crowd import crowd
from scripts.bench.emit import Emitter
from scripts.bench.harness import heads, stage
from scripts.bench.measure import Bound, Result, median, percentile, raise_file_limit

TENANTS = 10
USERS = 500
RATE = 20
SLOW = 8  # requests whose bodies come slowly
SLOW_FOR = 12.0  # seconds after the signal until the last of them is complete
EXIT_GOAL = 30.0
PEAK_GOAL = 0.10
FILES = TENANTS * USERS + 500


async def run() -> Result:
    """Durable events flow all the time, from the process that stays."""
    sockets = TENANTS * USERS
    what = f"SIGTERM with {sockets:,} sockets, {RATE} durable events/s, {SLOW} slow requests"
    goal = "exit 0 within 30 s, peak second ≤ 10 % of the clients, nothing lost, every request answered"
    if (limit := raise_file_limit()) < FILES:
        return Result(what, goal, f"a process may open {limit} files here, {FILES} are needed (ulimit -Hn)")
    over = asyncio.Event()
    async with stage(TENANTS, apis=2) as on, crowd(Audience) as ask:
        leaving, staying = on.apis
        for tenant in range(TENANTS):
            await ask("join", base=leaving.base, tickets=on.tickets(tenant, USERS))
        await ask("take")
        await ask("move_to", base=staying.base)
        emitter = Emitter(staying.base, TENANTS, 100)
        emitting = asyncio.create_task(emitter.emit(RATE, 60.0, over))
        slow = [asyncio.create_task(_slow(leaving.base, SLOW_FOR * n / SLOW)) for n in range(1, SLOW + 1)]
        await asyncio.sleep(2.0)
        started = time.monotonic()
        leaving.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(leaving.process.wait, 60.0)
        exited = time.monotonic() - started
        statuses = Counter(await asyncio.gather(*slow))
        over.set()
        await emitting
        behind = await ask("reach", heads=await heads(on.config, TENANTS), seconds=15.0)
        got: dict[str, Any] = await ask("take")
    closes = [at - started for at, _ in got["closes"]]
    codes = Counter(why for _, why in got["closes"])
    peak = _peak(closes) / sockets
    return Result(
        what,
        goal,
        f"exit {code} after {exited:.1f} s, closes over {max(closes, default=0.0):.1f} s with codes {dict(codes)}, "
        f"peak second {peak:.1%}, {behind} behind, {got['missing']} missing, {got['repeated']} repeated, "
        f"slow requests {dict(statuses)}",
        (
            Bound("exit after", "s", exited, EXIT_GOAL),
            Bound("clients in the fullest second", "%", peak * 100, PEAK_GOAL * 100),
        ),
        {
            "errors": emitter.failed + SLOW - statuses[200] + (code != 0) + got["refused"],
            "events missing": got["missing"],
            "events repeated": got["repeated"],
            # To be told to come back elsewhere is what a drain is.
            "connections dropped": behind + sum(count for why, count in codes.items() if why != "1012"),
        },
        details={
            "back_p50_ms": median(got["returns"]) * 1000,
            "back_p99_ms": percentile(got["returns"], 0.99) * 1000,
            "told": got["reconnect"],
            "closes_by_second": " ".join(str(count) for count in _by_second(closes)),
        },
    )


def _peak(times: list[float]) -> int:
    """The most that fall into any second."""
    times = sorted(times)
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def _by_second(times: list[float]) -> list[int]:
    counts = Counter(int(at) for at in times)
    return [counts[second] for second in range(max(counts, default=-1) + 1)]


async def _slow(base: str, seconds: float) -> int:
    """A request whose body is half here at the signal, and complete so long after it; the answer's status."""
    url = urlsplit(base)
    body = b'{"filler":"%s"}' % (b"x" * 100)
    head = (
        f"POST /ws/test-emit?event=test.slow&tenant_id=bench-0 HTTP/1.1\r\nHost: {url.netloc}\r\nX-Dev-Key: bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head.encode() + body[:50])
    await asyncio.sleep(2.0 + seconds)
    try:
        writer.write(body[50:])
        line = await reader.readline()
        return int(line.split()[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()
