"""Calls of one tenant, 10⁴ → 10⁶: lists, ingestion and sizes; nothing comes out of the cache."""

import asyncio
import random
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import psycopg2

from ottoai.web import inputs
from ottoai.web.api.calls import CallQuery
from scripts.bench import reads
from scripts.bench.askers import ask, get
from scripts.bench.growth.axis import Axis, Collected
from scripts.bench.harness import Stage, stage
from scripts.bench.measure import median, percentile
from scripts.bench.webhooks import TENANTS, send, signed

STEPS = (10_000, 100_000, 1_000_000)
EACH = 1.5  # seconds for each kind of page, asked for one at a time
PER_SECOND = 100
SECONDS = 5
SIZES = """
select pg_table_size(oid) as rows, pg_indexes_size(oid) as indexes from pg_class where oid = 'calls'::regclass
"""
MIB = 2**20


async def run() -> Axis:
    """Rows are added to those that are there, a vacuum after each step as autovacuum would."""
    got = Collected()
    async with stage(env={"CACHE_SECONDS": "0"}) as on:
        there = 0
        for turn, step in enumerate(STEPS):
            await asyncio.to_thread(reads.seed, on, there + 1, step)
            there = step
            pages = {}
            for name, path in _pages(step).items():
                token, _ = on.tickets(0, 1)[0]
                answers = await ask(
                    on.base, lambda path=path, token=token: get(on.base, path, token), clients=1, seconds=EACH
                )  # type: ignore[misc]
                pages[name] = answers.p50
                got.fault("errors", answers.errors)
            made = _made(turn * PER_SECOND * SECONDS)
            sent = await send(on.base, PER_SECOND, SECONDS, made)
            got.fault("errors", sent.refused)
            rows, indexes = await asyncio.to_thread(_sizes, on)
            got.step(step, {
                **{("pages", f"p50 of {name}", "ms"): value for name, value in pages.items()},
                ("ingest", "p50 of a webhook", "ms"): median(sent.latencies) * 1000,
                ("ingest", "p99 of a webhook", "ms"): percentile(sent.latencies, 0.99) * 1000,
                ("sizes", "table", "MiB"): rows / MIB,
                ("sizes", "its indexes", "MiB"): indexes / MIB,
                ("row", "table and indexes per call", "bytes"): (rows + indexes) / step,
            })  # fmt: skip
    return got.axis(
        "calls of one tenant",
        f"pages of 50, one at a time, each read from PostgreSQL; then {PER_SECOND} webhooks/s of that tenant",
        "pages", "ingest", "sizes",
    )  # fmt: skip


def _made(first: int) -> Callable[[int], tuple[str, bytes, str]]:
    return lambda n: signed(TENANTS * (first + n))  # of the first tenant


def _pages(calls: int) -> dict[str, str]:
    """First, in the middle of all that there are, and filtered in ways that have an index."""
    what = msgspec.json.encode(("calls", inputs.filters(CallQuery())))
    middle = datetime.now(UTC) - timedelta(seconds=calls / 2 * reads.EVERY)
    cursor = inputs.cursor_of(middle, str(UUID(int=random.Random(5).getrandbits(128))), what)
    return {
        "the first page": "/api/calls",
        "a page in the middle": f"/api/calls?cursor={cursor}",
        "missed calls": "/api/calls?missed=true",
        "calls of a phone": "/api/calls?phone=%2B12120000007",
    }


def _sizes(on: Stage) -> tuple[int, int]:
    with closing(psycopg2.connect(on.config.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(SIZES)
        rows, indexes = cursor.fetchone() or (0, 0)
        return rows, indexes
