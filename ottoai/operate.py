"""Commands for operators: what was quarantined, and trying it again."""

import asyncio
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

from ottoai import __version__
from ottoai.commands import ingesting, who
from ottoai.config import Config
from ottoai.db import Database, open_pool
from ottoai.domain import audit
from ottoai.errors import InvalidInput, OttoError
from ottoai.metrics import Metrics
from ottoai.terminal import say
from ottoai.webhooks import quarantine
from ottoai.webhooks.quarantine import Filter, Quarantined

MOST_LISTED = 1000


def arguments(command: ArgumentParser) -> None:
    """The command line of `quarantine`."""
    sub = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = sub.add_parser("list", help="what is quarantined, oldest first")
    listed.add_argument("--limit", type=int, default=100, help="at most so many (100)")
    listed.set_defaults(do=list_)
    show = sub.add_parser("show", help="one of them, with its headers and body (personal data)")
    show.add_argument("id")
    show.set_defaults(do=show_)
    replay = sub.add_parser("replay", help="try again: some by id, or all that the filter finds")
    replay.add_argument("ids", nargs="*", metavar="ID")
    replay.add_argument("--all", action="store_true", help="all that is quarantined")
    replay.add_argument("--dry-run", action="store_true", help="only say which")
    replay.set_defaults(do=replay_)
    for parsed in (listed, replay):
        parsed.add_argument("--tenant")
        parsed.add_argument("--provider")
        parsed.add_argument("--kind")
        parsed.add_argument("--since", help="received at or after this time (ISO 8601; UTC unless it says otherwise)")
        parsed.add_argument("--until", help="received before this time")


def list_(config: Config, args: Namespace) -> int:
    """List what is quarantined."""

    async def run() -> None:
        limit = min(max(args.limit, 1), MOST_LISTED)
        async with open_pool(config, Metrics(__version__)) as db:
            for found in await quarantine.find(db.system(), _filter(args), limit):
                say(_line(found))

    asyncio.run(run())
    return 0


def show_(config: Config, args: Namespace) -> int:
    """Show one delivery."""

    async def run() -> None:
        async with open_pool(config, Metrics(__version__)) as db:
            found, payload = await quarantine.get(db.system(), args.id)
        say(_line(found))
        say(f"outcome {payload['outcome']}, trace {found.trace_id}")
        say(msgspec.json.format(msgspec.json.encode(payload["headers"])).decode())
        say(bytes(payload["body"]).decode(errors="replace") if payload["body"] is not None else "(payload gone)")

    asyncio.run(run())
    return 0


def replay_(config: Config, args: Namespace) -> int:
    """Try deliveries again; exits 1 when one of them stays quarantined."""
    which = _filter(args)
    if not (args.ids or args.all or which != Filter()):
        raise InvalidInput("Name ids, a filter, or --all.")

    async def run() -> Counter[str]:
        tally: Counter[str] = Counter()
        async with ingesting(config) as ingest:
            async for key_id in _ids(ingest.db, args.ids, which):
                if args.dry_run:
                    say(key_id)
                    continue
                try:
                    async with audit.act(ingest.db.system(), who(), "replay", key_id) as act:
                        done = await quarantine.replay(ingest, key_id)
                        act.outcome = done.status.replace("_", " ")
                except OttoError as error:
                    say(f"{key_id}\tfailed: {error.detail}")
                    tally["failed"] += 1
                    continue
                tally[done.status] += 1
                after = done.detail or ", ".join([f"call {done.external_id}", *done.events])
                say(f"{key_id}\tbefore: quarantined, {done.before}\tafter: {done.status}, {after}")
        return tally

    tally = asyncio.run(run())
    if not args.dry_run:
        say(", ".join(f"{count} {status}" for status, count in sorted(tally.items())) or "nothing to replay")
    return 1 if tally["quarantined"] or tally["failed"] else 0


async def _ids(db: Database, given: list[str], which: Filter) -> AsyncIterator[str]:
    for key_id in given:
        yield key_id
    if not given:
        async for found in quarantine.every(db.system(), which):
            yield found.id


def _filter(args: Namespace) -> Filter:
    return Filter(
        tenant_id=args.tenant,
        provider=args.provider,
        kind=args.kind,
        since=_time(args.since, "since"),
        until=_time(args.until, "until"),
    )


def _time(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{name}: {text!r} is no time such as 2026-01-31T14:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _line(found: Quarantined) -> str:
    when = f"{found.received_at:%Y-%m-%dT%H:%M:%SZ}"
    return "\t".join([found.id, when, found.tenant_id, f"{found.provider} {found.kind}", found.error])
