"""Lists: pages of 50 of 100,000 calls for 100 who ask at once, out of the cache and out of PostgreSQL, page 1 and page
100, and the same endpoint as others would write it (fastapi_calls.py) where BENCH_PEER_PYTHON names an interpreter that
has FastAPI, uvicorn, SQLAlchemy and asyncpg.
"""

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from uuid import UUID

import aiohttp
import msgspec
import psutil
import psycopg2

from ottoai.embedded.folder import any_port
from ottoai.web import inputs
from ottoai.web.api.calls import CallQuery
from scripts.bench import webhooks
from scripts.bench.askers import Answers, ask, get
from scripts.bench.cores import api_cores, child
from scripts.bench.harness import Stage, ready, stage
from scripts.bench.measure import Bound, Result, cpu_seconds, figures

CALLS = 100_000
LEADS = 5_000
CLIENTS = 100
SECONDS = 8.0
WARM = 1.0
WRITES = 2  # webhooks a second meanwhile: each makes every page of calls another one
PLACES = 5_000  # pages that are asked for at random when every read is to come from PostgreSQL
MIX_GOAL, MIX_P95, HITS = 2_000, 0.070, 0.8
DIRECT_GOAL = 900
TENANT = "bench-0"
EVERY = 7  # seconds between two calls
SEED = """
insert into leads (tenant_id, phone, name, last_contact_at)
select %(tenant)s, '+1212' || lpad(n::text, 7, '0'), 'Robin Sample ' || n, now() - n * interval '1 minute'
from generate_series(0, %(leads)s - 1) as n
on conflict do nothing;

insert into calls (
    tenant_id, lead_id, provider, external_id, direction, status, answered, voicemail, missed, duration_seconds,
    started_at, customer_phone, customer_name, tracking_phone, source, reports
)
select
    %(tenant)s, l.id, 'callrail', 'CAL' || n, 'inbound', 'completed', n %% 3 > 0, false, n %% 3 = 0, n %% 600,
    now() - n * %(every)s * interval '1 second', l.phone, l.name, '+12125550188', 'Google Ads', '{}'
from generate_series(%(first)s, %(last)s) as n
inner join leads as l on l.tenant_id = %(tenant)s and l.phone = '+1212' || lpad((n %% %(leads)s)::text, 7, '0')
"""
PEER_NAME = "FastAPI + SQLAlchemy"
PEER = Path(__file__).with_name("fastapi_calls.py")


async def run() -> dict[str, Result]:
    """The mix; then every read from PostgreSQL, and a peer's."""
    results = {}
    async with stage(pinned=True) as on:
        await asyncio.to_thread(seed, on)
        results["reads"] = await mix(on)
    async with stage(pinned=True, env={"CACHE_SECONDS": "0"}) as on:
        await asyncio.to_thread(seed, on)
        results["reads direct"] = await direct(on)
        results["reads page 100"] = await late(on)
        if python := os.environ.get("BENCH_PEER_PYTHON"):
            async with fastapi(on, python) as (base, process):
                answers, cpu = await measured(process, base, pages(on, base, peer=True))
            told = f"{answers.told()}, {cpu:.2f} ms of processor each"
            results["reads direct"] = _beside(results["reads direct"], answers, told)
    return results


def seed(on: Stage, first: int = 1, last: int = CALLS) -> None:
    """Calls of these numbers, of five thousand leads, one every few seconds."""
    as_tenant = f"-c role=ottoai_app -c app.tenant_id={TENANT}"
    for options, statement in ((as_tenant, SEED), ("", "vacuum analyze")):
        with closing(psycopg2.connect(on.config.database_url, options=options)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                given = {"tenant": TENANT, "leads": LEADS, "first": first, "last": last, "every": EVERY}
                cursor.execute(statement, given)


async def mix(on: Stage) -> Result:
    """Most look at the newest calls, some at what is behind or missed, some for a number; calls come in meanwhile."""
    tokens = [token for token, _ in on.tickets(0, CLIENTS)]
    second = await cursor_of_page(on, 2)
    picks = random.Random(7)

    def wanted() -> bytes:
        path = picks.choices(
            ["/api/calls", f"/api/calls?cursor={second}", "/api/calls?missed=true", "/api/leads", _phone(picks)],
            [60, 10, 10, 12, 8],
        )[0]
        return get(on.base, path, picks.choice(tokens))

    before = await figures(on.base)
    writing = asyncio.create_task(write(on))
    answers, cpu = await measured(on.api, on.base, wanted)
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    after = await figures(on.base)
    found = {
        result: sum(after[key] - before.get(key, 0.0) for key in after if _counted(key, result))
        for result in ("hit", "miss", "bypass")
    }
    rate = found["hit"] / max(1.0, sum(found.values()))
    p95 = sorted(answers.latencies)[int(len(answers.latencies) * 0.95)]
    return Result(
        f"lists, {CLIENTS} at once, 50 rows of {CALLS:,} calls, {WRITES} webhooks/s meanwhile",
        f"≥ {MIX_GOAL:,}/s, p95 ≤ {MIX_P95 * 1000:.0f} ms, > {HITS:.0%} cached, no errors",
        f"{answers.told()}, {rate:.0%} from the cache, {cpu:.2f} ms of processor each",
        (
            Bound("answers a second", "/s", answers.rate, MIX_GOAL, least=True, guide=500),
            Bound("p95", "ms", p95 * 1000, MIX_P95 * 1000, guide=180),
            Bound("share from the cache", "%", rate * 100, HITS * 100, least=True),
        ),
        {"errors": answers.errors},
        "500/s, P95 180 ms",
        details={"cpu_ms_each": cpu, **found},
    )


async def direct(on: Stage) -> Result:
    """Pages here and there in the list, so that no two who ask share a reading."""
    answers, cpu = await measured(on.api, on.base, pages(on, on.base))
    return Result(
        f"the same list, every read from PostgreSQL, {CLIENTS} at once",
        f"≥ {DIRECT_GOAL}/s, no errors",
        f"{answers.told()}, {cpu:.2f} ms of processor each",
        (Bound("answers a second, from PostgreSQL", "/s", answers.rate, DIRECT_GOAL, least=True, guide=500),),
        {"errors": answers.errors},
        "500/s, P95 180 ms",
        {PEER_NAME: "not installed"},
        {"cpu_ms_each": cpu, "bytes_each": answers.size / len(answers.latencies)},
    )


def _beside(ours: Result, peer: Answers, told: str) -> Result:
    """The same result with a peer at its side."""
    (bound,) = ours.bounds
    return msgspec.structs.replace(
        ours,
        bounds=(msgspec.structs.replace(bound, peers={PEER_NAME: peer.rate}),),
        peers={PEER_NAME: told},
    )


async def late(on: Stage) -> Result:
    """Page 1 and page 100, one after the other, in turn."""
    token, _ = on.tickets(0, 1)[0]
    cursor = await cursor_of_page(on, 100)
    first, last = Answers(), Answers()
    for _ in range(3):
        for path, into in (("/api/calls", first), (f"/api/calls?cursor={cursor}", last)):
            answers = await ask(on.base, lambda path=path: get(on.base, path, token), clients=1, seconds=1.0)
            into.latencies += answers.latencies
            into.statuses |= {status: into.statuses.get(status, 0) + n for status, n in answers.statuses.items()}
    return Result(
        "page 100 of 2,000, from PostgreSQL, one at a time",
        "as fast as page 1 (within a fifth)",
        f"page 1 p50 {first.p50:.2f} ms, page 100 p50 {last.p50:.2f} ms",
        (Bound("median of page 100", "ms", last.p50, first.p50 * 1.2),),
        {"errors": first.errors + last.errors},
    )


async def measured(process: psutil.Process, base: str, wanted: Callable[[], bytes]) -> tuple[Answers, float]:
    """What came back once it was warm, and the milliseconds of processor that an answer took."""
    await ask(base, wanted, clients=CLIENTS, seconds=WARM)
    cpu = cpu_seconds(process)
    answers = await ask(base, wanted, clients=CLIENTS, seconds=SECONDS)
    return answers, (cpu_seconds(process) - cpu) / len(answers.latencies) * 1000


def pages(on: Stage, base: str, *, peer: bool = False) -> Callable[[], bytes]:
    """Requests for pages at random places of the list; in a peer's words, or in ours."""
    tokens = itertools.cycle(token for token, _ in on.tickets(0, CLIENTS))
    what = msgspec.json.encode(("calls", inputs.filters(CallQuery())))
    now, picks = datetime.now(UTC), random.Random(11)
    asked = []
    for _ in range(PLACES):
        at, row_id = now - timedelta(seconds=picks.uniform(0, CALLS * EVERY)), str(UUID(int=picks.getrandbits(128)))
        cursor = f"{at:%Y-%m-%dT%H:%M:%S}Z|{row_id}" if peer else inputs.cursor_of(at, row_id, what)
        asked.append(get(base, f"/api/calls?cursor={cursor}", next(tokens)))
    every = itertools.cycle(asked)
    return lambda: next(every)


async def cursor_of_page(on: Stage, number: int) -> str:
    """Walk to the beginning of a page."""
    token, _ = on.tickets(0, 1)[0]
    cursor = ""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        for _ in range(number - 1):
            async with session.get(f"{on.base}/api/calls{f'?cursor={cursor}' if cursor else ''}") as answer:
                cursor = (await answer.json())["next_cursor"]
    return cursor


async def write(on: Stage) -> None:
    """Missed calls come in at an even pace, for ever."""
    async with aiohttp.ClientSession() as session:
        for n in itertools.count():
            due = time.monotonic() + 1 / WRITES
            _, body, signature = webhooks.signed(n * webhooks.TENANTS)  # of the first tenant
            headers = {"Signature": signature, "Content-Type": "application/json"}
            url = f"{on.base}/call-rail/call-complete"
            async with session.post(url, data=BytesIO(body), headers=headers) as answer:
                assert answer.status == 200, await answer.text()
            await asyncio.sleep(max(0.0, due - time.monotonic()))


@asynccontextmanager
async def fastapi(on: Stage, python: str) -> AsyncIterator[tuple[str, psutil.Process]]:
    """The peer, on the core of the API, which has nothing to do meanwhile."""
    port = any_port()
    env = {**os.environ, "DATABASE_URL": on.config.database_url}
    with child([python, str(PEER), str(port)], cores=api_cores(), env=env) as process:
        base = f"http://127.0.0.1:{port}"
        await ready(base)
        yield base, psutil.Process(process.pid)


def _phone(picks: random.Random) -> str:
    return f"/api/calls?phone=%2B1212{picks.randrange(LEADS):07}"


def _counted(series: str, result: str) -> bool:
    return series.startswith("cache_requests_total{") and f'result="{result}"' in series
