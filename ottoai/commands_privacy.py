"""`tenant export` and `tenant erase`: what privacy law asks for, for a whole tenant or for one phone of it.

An export is JSON Lines: first {"format", "tenant_id", "phone", "exported_at", "version"}; then a line a row, {"table",
"row"}; last {"rows"}, without which it is not whole.
"""

import asyncio
import contextlib
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from redis.exceptions import RedisError

from ottoai import __version__, cache
from ottoai.commands import who
from ottoai.config import Config
from ottoai.db import SNAPSHOT, Database, open_pool, queries
from ottoai.domain import audit, privacy, revocations, tenants
from ottoai.domain.privacy import Person
from ottoai.errors import Conflict, InvalidInput, NotFound
from ottoai.metrics import Metrics
from ottoai.redis_pool import open_redis
from ottoai.terminal import tell

FORMAT: Final = "ottoai-export/1"
ROLE: Final = "ottoai_privacy"
OWNER_ONLY: Final = 0o600  # the mode of a file full of personal data
PROGRESS: Final = 10_000  # rows between two words about how far it has come


def tenant_export(config: Config, args: Namespace) -> int:
    """Write all that is kept of a tenant, or of one phone of it, to a file that is not there yet."""
    if args.output == "-":
        asyncio.run(_export(config, args, sys.stdout.buffer))
        return 0
    path = Path(args.output or f"{args.id}-export.jsonl")
    try:
        path.touch(OWNER_ONLY, exist_ok=False)
    except FileExistsError:
        raise Conflict(f"{path} is there already and is not overwritten; name another with --output.") from None
    except OSError as error:
        raise InvalidInput(f"output: {path} cannot be written: {error.strerror}") from error
    try:
        with path.open("wb") as out:
            asyncio.run(_export(config, args, out))
    except BaseException:
        path.unlink()  # half an export would be taken for a whole one
        raise
    tell(f"written to {path}")
    return 0


def tenant_erase(config: Config, args: Namespace) -> int:
    """Erase a tenant, or one phone of it, once whoever asks has said so twice."""
    what = f"all that is kept of phone {args.phone} at tenant {args.id}" if args.phone else f"tenant {args.id}"
    if not args.yes:
        tell(f"This erases {what}, for good. Type the tenant's id to go on:")
        if sys.stdin.readline().strip() != args.id:
            raise InvalidInput("That is not its id; nothing was erased.")
    return asyncio.run(_erase(config, args))


async def _export(config: Config, args: Namespace, out: IO[bytes]) -> None:
    async with (
        _opened(config) as db,
        audit.act(db.system(), who(), "tenant export", _target(args)) as act,
        db.transaction(args.id, begin=SNAPSHOT) as tx,
    ):
        if not await privacy.exists(tx):
            raise NotFound(f"There is no tenant {args.id}.")
        about = await privacy.person(tx, args.phone) if args.phone else None
        _write(
            out,
            {
                "format": FORMAT,
                "tenant_id": args.id,
                "phone": about.phone if about else None,
                "exported_at": datetime.now(UTC),
                "version": __version__,
            },
        )
        counts: Counter[str] = Counter()
        async for table, row in privacy.export(tx, about):
            _write(out, {"table": table, "row": row})
            counts[table] += 1
            if counts.total() % PROGRESS == 0:
                tell(f"{counts.total()} rows, at {table}")
        _write(out, {"rows": counts.total()})
        out.flush()
        _summary(counts, "exported")
        act.outcome = f"{counts.total()} rows exported"


def _target(args: Namespace) -> str:
    return f"{args.id}, one phone" if args.phone else str(args.id)  # which phone is nobody's to keep


async def _erase(config: Config, args: Namespace) -> int:
    async with _opened(config) as db, audit.act(db.system(), who(), "tenant erase", _target(args)) as act:
        if not await tenants.exists(db.system(), args.id):
            act.outcome = "there is no such tenant"
            tell(f"There is no tenant {args.id}: nothing was erased.")
            return 0
        if args.phone:
            code = await _erase_phone(db, args.id, await privacy.person(db.one(args.id), args.phone))
            act.outcome = "some rows still hold it" if code else "erased"
        else:
            await _erase_tenant(db, args.id)
            code, act.outcome = 0, "erased"
    await _forget(config, args.id)
    return code


async def _erase_phone(db: Database, tenant_id: str, about: Person) -> int:
    counts: Counter[str] = Counter()
    async for table, rows in privacy.erase_phone(db.one(tenant_id), about):
        counts[table] += rows
    for kept in await _unclaimed(db, tenant_id, about):
        await queries().deliveries.release_unclaimed(db.system(), id=kept)
        counts["unclaimed_deliveries"] += 1
    _summary(counts, "erased")
    left = await privacy.mentioned(db.one(tenant_id), about)
    for table, rows in left.items():
        tell(f"{table}: {rows} rows still hold these digits; look at them")
    return 1 if left else 0


async def _erase_tenant(db: Database, tenant_id: str) -> None:
    moment = await revocations.revoke(db.system(), tenant_id, None)
    tell(f"tokens issued up to {moment:%Y-%m-%dT%H:%M:%SZ} are refused; live connections end within a second")
    counts: Counter[str] = Counter()
    for kept in await _unclaimed(db, tenant_id, None):
        await queries().deliveries.release_unclaimed(db.system(), id=kept)
        counts["unclaimed_deliveries"] += 1
    async for table, rows in privacy.erase_tenant(db.one(tenant_id)):
        counts[table] += rows
    _summary(counts, "erased")


async def _forget(config: Config, tenant_id: str) -> None:
    """Nobody is shown what is cached of it any more; it is taken out all the same."""
    try:
        async with open_redis(config) as client:
            await cache.forget(client, tenant_id)
    except (RedisError, OSError):
        tell(f"Redis does not answer: pages that it keeps run out within {config.cache_seconds} s")


async def _unclaimed(db: Database, tenant_id: str, about: Person | None) -> list[int]:
    """Ids of the deliveries that the tenant's routes lead to and that were not taken in; those of one phone."""
    rows = queries().deliveries.unclaimed_of(db.system(), tenant=tenant_id)
    return [row["id"] async for row in rows if about is None or about.digits in _digits(bytes(row["body"]))]


def _digits(body: bytes) -> str:
    return "".join(letter for letter in body.decode(errors="replace") if letter.isascii() and letter.isdigit())


@contextlib.asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Database]:
    async with open_pool(config, Metrics(__version__), ROLE) as db:
        yield db


def _write(out: IO[bytes], line: dict[str, Any]) -> None:
    out.write(msgspec.json.encode(line) + b"\n")


def _summary(counts: Counter[str], done: str) -> None:
    for table, rows in counts.items():
        if rows:
            tell(f"{done} {rows} {'row' if rows == 1 else 'rows'} of {table}")
    if not counts.total():
        tell("nothing is kept of it")
