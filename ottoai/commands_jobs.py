"""`jobs`: what is staged or was given up, trying it again, and letting it be. Tells what a job is, never what it is
about.
"""

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import closing
from datetime import UTC, datetime

import msgspec

from ottoai import __version__
from ottoai.commands import who
from ottoai.config import Config
from ottoai.db import Database, open_pool
from ottoai.domain import audit, failed_jobs, outbox
from ottoai.domain.failed_jobs import Whole
from ottoai.domain.outbox import Due, Standing
from ottoai.errors import InvalidInput, NotFound, StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.queue import Queues, client
from ottoai.terminal import say

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
    show = sub.add_parser("show", help="all that is known of one job, with where it failed")
    show.add_argument("id", metavar="ID")
    show.set_defaults(do=show_)
    discard = sub.add_parser("discard", help="close dead jobs that nobody wants any more")
    discard.add_argument("ids", nargs="*", metavar="ID")
    discard.add_argument("--all", action="store_true", help="all dead ones of a name (--job)")
    discard.add_argument("--job", help="with --all: of this name")
    discard.set_defaults(do=discard_)


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
        async with (
            open_pool(config, Metrics(__version__)) as db,
            audit.act(db.system(), who(), "retry", _target(args)) as act,
        ):
            found = [each.id async for opened in _opened(db, args) for each in await _enqueued(config, opened)]
            act.outcome = f"{len(found)} opened again"
            return found

    opened = asyncio.run(run())
    return _told(args, opened, "opened again")


def discard_(config: Config, args: Namespace) -> int:
    """Close dead jobs; exits 1 when one of those named was not dead."""
    if bool(args.ids) == args.all or args.all != bool(args.job):
        raise InvalidInput("Name ids, or --all and --job.")

    async def run() -> set[str]:
        began, closed = datetime.now(UTC), set[str]()
        async with (
            open_pool(config, Metrics(__version__)) as db,
            audit.act(db.system(), who(), "discard", _target(args)) as act,
        ):
            for start in range(0, len(args.ids), outbox.BATCH):
                ids = args.ids[start : start + outbox.BATCH]
                closed.update(await failed_jobs.discard(db.system(), ids, None, began))
            while args.all and (some := await failed_jobs.discard(db.system(), None, args.job, began)):
                closed.update(some)
            act.outcome = f"{len(closed)} discarded"
        return closed

    closed = asyncio.run(run())
    return _told(args, closed, "discarded")


def _told(args: Namespace, done: Collection[str], how: str) -> int:
    missing = [each for each in args.ids if each.lower() not in done]
    for each in missing:
        say(f"{each}\tis no dead job")
    say(f"{len(done)} {how}")
    return 1 if missing else 0


def _target(args: Namespace) -> str:
    return ", ".join(args.ids) or (f"all {args.job}" if args.job else "all")


def show_(config: Config, args: Namespace) -> int:
    """Show one job."""

    async def run() -> Whole | None:
        async with open_pool(config, Metrics(__version__)) as db:
            return await failed_jobs.find(db.system(), args.id)

    found = asyncio.run(run())
    if found is None:
        raise NotFound(f"There is no job {args.id}.")
    for name, value in msgspec.structs.asdict(found).items():
        if name != "traceback" and value not in (None, ""):
            say(f"{name}\t{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else f"{name}\t{value}")
    say(found.traceback or "no traceback is kept")
    return 0


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
