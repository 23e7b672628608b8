"""`jobs`: what is staged or was given up, and trying it again. Tells what a job is, never what it is about."""

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import UTC, datetime

from ottoai import __version__
from ottoai.commands import say
from ottoai.config import Config
from ottoai.db import Database, open_pool
from ottoai.domain import outbox
from ottoai.domain.outbox import Due, Standing
from ottoai.errors import InvalidInput, StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import Queues, client

MOST_LISTED = 10_000


def arguments(command: ArgumentParser) -> None:
    """The command line of `jobs`."""
    sub = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = sub.add_parser("list", help="jobs that are dead or open, oldest first")
    listed.add_argument("--state", choices=("dead", "open"), default="dead", help="dead: given up (dead)")
    listed.add_argument("--tenant", help="only this tenant's")
    listed.add_argument("--limit", type=int, default=100, help="at most so many (100)")
    listed.set_defaults(do=list_)
    retry = sub.add_parser("retry", help="open dead jobs again, as if they had never been begun")
    retry.add_argument("ids", nargs="*", metavar="ID")
    retry.add_argument("--all", action="store_true", help="all that are dead")
    retry.add_argument("--job", help="with --all: only those of this name")
    retry.set_defaults(do=retry_)


def list_(config: Config, args: Namespace) -> int:
    """List jobs."""

    async def run() -> None:
        limit = min(max(args.limit, 1), MOST_LISTED)
        async with open_pool(config, Metrics(__version__)) as db:
            for found in await outbox.listed(db.system(), args.state, args.tenant, limit):
                say(_line(found))

    asyncio.run(run())
    return 0


def _line(found: Standing) -> str:
    words = (found.id, found.tenant_id, found.job, found.queue, f"{found.attempts} attempts", _age(found))
    return "\t".join([*words, found.error or "-"])


def _age(found: Standing) -> str:
    if found.stood < 0:
        return f"due in {-found.stood:.0f} s"
    return f"{'dead' if found.state == 'dead' else 'due'} for {found.stood:.0f} s"


def retry_(config: Config, args: Namespace) -> int:
    """Open dead jobs again and enqueue them; exits 1 when one of those named was not dead."""
    if bool(args.ids) == args.all or (args.job and not args.all):
        raise InvalidInput("Name ids, or --all, with --job for all of one name.")

    async def run() -> list[str]:
        async with open_pool(config, Metrics(__version__)) as db:
            return [each.id async for opened in _opened(db, args) for each in await _enqueued(config, opened)]

    opened = asyncio.run(run())
    missing = [each for each in args.ids if each.lower() not in opened]
    for each in missing:
        say(f"{each}\tis no dead job")
    say(f"{len(opened)} opened again")
    return 1 if missing else 0


async def _opened(db: Database, args: Namespace) -> AsyncIterator[list[Due]]:
    """In batches; one that dies again meanwhile is not opened twice."""
    began = datetime.now(UTC)
    if args.ids:
        for start in range(0, len(args.ids), outbox.BATCH):
            yield await outbox.retry(db.system(), args.ids[start : start + outbox.BATCH], None, began)
        return
    while opened := await outbox.retry(db.system(), None, args.job, began):
        yield opened


async def _enqueued(config: Config, opened: Sequence[Due]) -> Sequence[Due]:
    try:
        with closing(client(config)) as connection:
            Queues(connection).enqueue(opened)
    except StoreUnavailable:
        say("Redis does not answer; beat enqueues them when it is back")
    return opened
