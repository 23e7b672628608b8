"""What the commands do. Each takes the configuration and its arguments and returns the exit code."""

import asyncio
import logging
import os
import pwd
import re
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import aiohttp
import jwt
import msgspec

from ottoai import __version__, commands_settings, log, samples, server
from ottoai.client import Closed, Follower
from ottoai.config import Config
from ottoai.db import Database, open_pool
from ottoai.domain import audit, hours, revocations, tenants
from ottoai.domain.events import tenant_channel
from ottoai.domain.roles import Role
from ottoai.errors import BadSignature, Conflict, InvalidInput, NotFound, Unauthenticated
from ottoai.metrics import Metrics
from ottoai.queue import open_waker
from ottoai.realtime.bus import open_bus
from ottoai.redis_pool import open_redis
from ottoai.terminal import say
from ottoai.vault import Vault
from ottoai.web.auth import Revoked, TokenExpired, TokenRevoked, Tokens, issue
from ottoai.web.claims import Principal
from ottoai.web.jwks import open_keys
from ottoai.webhooks import callrail, provision, twilio
from ottoai.webhooks.callrail_api import open_api
from ottoai.webhooks.receive import DEMO, Directory, Ingest, replay_unclaimed
from ottoai.webhooks.reconcile import COUNTED, by_hand, spans

logger = logging.getLogger(__name__)

SAMPLE_KINDS: Final = samples.KINDS
TTL: Final = re.compile(r"(\d{1,5})([smhd])")
MINUTE: Final = "%Y-%m-%dT%H:%MZ"
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Result = TypeVar("Result")


def who() -> str:
    """Whose command this is, for the audit log."""
    try:
        return f"{pwd.getpwuid(os.getuid()).pw_name} (command line)"
    except KeyError:  # a container may run as a number alone
        return f"user {os.getuid()} (command line)"


def api(config: Config, _args: Namespace) -> int:
    """Run the API process until it is told to stop."""
    return server.run(config)


def migrate(config: Config, _args: Namespace) -> int:
    """Bring the schema up to date. What it says are log lines: in production nobody sits in front of it."""
    from ottoai import migrate as migrations

    log.setup(config, "migrate")
    applied = migrations.migrate(config.database_url)
    for name in applied:
        logger.info("Migration applied", extra={"migration": name})
    if not applied:
        logger.info("No migration to apply")
    return 0


def config(config: Config, _args: Namespace) -> int:
    """Show the settings."""
    for name, value in config.masked():
        say(f"{name}={value}")
    return 0


def prepare(config: Config) -> None:
    """What `make run` does before the processes start: the schema, and a tenant to try things with."""
    from ottoai import migrate as migrations

    migrations.migrate(config.database_url)
    demo = {
        "callrail_company": samples.COMPANY,
        "callrail_key": "demo-signing-key",
        "tracking_number": samples.TRACKING_NUMBER,
        # Its samples come unsigned: with an auth token, texts would go through Twilio.
        "twilio_number": samples.TWILIO_NUMBER,
    }

    vault = Vault(config.secret_keys)

    async def add(db: Database) -> None:
        await tenants.reseal(db.system(), vault)
        if not await tenants.exists(db.system(), DEMO):
            await tenants.add(db.system(), vault, DEMO, "Demo Roofing", "America/New_York", "always", demo)

    _with_database(config, add)


def tenant_add(config: Config, args: Namespace) -> int:
    """Register a tenant, and take in what its provider sent before."""
    given, settings = _given(args), commands_settings.chosen(args)

    async def add(db: Database) -> tuple[str, dict[str, int]]:
        try:
            async with audit.act(db.system(), who(), "tenant add", args.id):
                hook = await tenants.add(
                    db.system(),
                    Vault(config.secret_keys),
                    args.id,
                    args.name,
                    args.timezone or "UTC",
                    args.hours or hours.DEFAULT,
                    given,
                    settings,
                )
        except Conflict as error:
            if await tenants.exists(db.system(), args.id):
                raise Conflict(f"Tenant {args.id} is there already; change it with `tenant set`.") from error
            raise Conflict("Another tenant has one of these ids or numbers.") from error
        return hook, await _replay(config, args.id)

    hook, replayed = _with_database(config, add)
    say(f"added tenant {args.id}")
    say(f"its own webhook paths end in /{hook}, for instance /call-rail/call-complete/{hook}")
    _say_replayed(replayed)
    return 0


@asynccontextmanager
async def ingesting(config: Config) -> AsyncIterator[Ingest]:
    """What taking deliveries in needs, outside of the API."""
    vault = Vault(config.secret_keys)
    async with (
        open_pool(config, Metrics(__version__)) as db,
        open_redis(config) as client,
        open_bus(client, listen=False) as bus,
        open_waker(config) as waker,
    ):
        yield Ingest(config, db, bus, waker, vault, Directory(db.system(), vault))


async def _replay(config: Config, tenant_id: str) -> dict[str, int]:
    async with ingesting(config) as ingest:
        told = await provision.replay(ingest, tenant_id)
        return await replay_unclaimed(ingest, tenant_id) | ({"processed, from Clerk": told} if told else {})


def _say_replayed(replayed: dict[str, int]) -> None:
    for status, count in sorted(replayed.items()):
        if status == BadSignature.type:
            say(f"{count} deliveries that came before still wait: none of the tenant's keys signed them")
            say("give the right key with `tenant rotate-key`: they are checked again")
        else:
            say(f"{count} deliveries that came before: {status}")


def tenant_set(config: Config, args: Namespace) -> int:
    """Change a tenant (`tenant set`, `tenant rotate-key`)."""
    given, settings = _given(args), commands_settings.chosen(args)
    if not given and not settings:
        raise InvalidInput("Nothing to change: name at least one setting (see --help).")

    async def change(db: Database) -> dict[str, int]:
        async with audit.act(db.system(), who(), f"tenant {args.action}", args.id) as act:
            await tenants.change(db.system(), Vault(config.secret_keys), args.id, settings, given)
            act.outcome = f"changed: {', '.join([*settings, *given])}"
        return await _replay(config, args.id)

    replayed = _with_database(config, change)
    say(f"changed tenant {args.id}")
    _say_replayed(replayed)
    return 0


def tenant_revoke(config: Config, args: Namespace) -> int:
    """Refuse all tokens of a tenant, or of one of its users, that were issued up to now."""
    whose = f"user {args.user} of tenant {args.id}" if args.user else f"tenant {args.id}"

    async def revoke(db: Database) -> datetime:
        async with audit.act(db.system(), who(), "tenant revoke", f"{args.id}, {args.user or 'all users'}"):
            return await revocations.revoke(db.system(), args.id, args.user)

    moment = _with_database(config, revoke)
    say(f"revoked all tokens of {whose} issued up to {moment:%Y-%m-%dT%H:%M:%SZ}; live connections end within a second")
    return 0


def tenant_keys(config: Config, args: Namespace) -> int:
    """List a tenant's secrets without showing them."""

    async def listed(db: Database) -> list[dict[str, Any]]:
        return await tenants.secrets_of(db.system(), args.id)

    rows = _with_database(config, listed)
    for row in rows:
        also = "; the previous one is still accepted" if row["previous_accepted"] else ""
        say(f"{row['provider']}\t{row['name']}\tset {row['rotated_at']:%Y-%m-%dT%H:%M:%SZ}{also}")
    if not rows:
        say(f"tenant {args.id} has no secrets")
    return 0


def tenant_retire_key(config: Config, args: Namespace) -> int:
    """Accept a tenant's previous secret no longer."""

    async def retire(db: Database) -> None:
        async with audit.act(db.system(), who(), "tenant retire-key", f"{args.id}, {args.secret}"):
            await tenants.retire(db.system(), args.id, args.secret.replace("-", "_"))

    _with_database(config, retire)
    say(f"the previous {args.secret} of tenant {args.id} is accepted no longer (by every process within 5 s)")
    return 0


def rekey(config: Config, _args: Namespace) -> int:
    """Encrypt every stored secret with the first of SECRET_KEYS."""

    async def reseal(db: Database) -> int:
        async with audit.act(db.system(), who(), "rekey", "all secrets") as act:
            count = await tenants.reseal(db.system(), Vault(config.secret_keys))
            act.outcome = f"{count} encrypted"
            return count

    say(f"encrypted the secrets of {_with_database(config, reseal)} credentials with the first key")
    return 0


def tenant_reconcile(config: Config, args: Namespace) -> int:
    """Compare a tenant's calls with CallRail's list and take in what no webhook told of. Moves no watermark."""
    now = datetime.now(UTC)
    since, until = (_moment(text, now) for text in (args.since, args.until))
    total: Counter[str] = Counter()

    async def compare() -> None:
        async with (
            ingesting(config) as ingest,
            open_api(config, at_once=1) as api,
            audit.act(ingest.db.system(), who(), "tenant reconcile", args.id) as act,
        ):
            comparison = await by_hand(ingest, api, args.id)
            for span in spans(since or comparison.since, min(until or now, comparison.now())):
                async for progress in comparison.read(span):
                    found = {name: getattr(progress, name) for name in COUNTED}
                    total.update(found)
                    say(f"{span.since:{MINUTE}} to {span.until:{MINUTE}}, page {progress.page}: {_told(found)}")
            act.outcome = _told(total)

    asyncio.run(compare())
    say(f"in all: {_told(total)}")
    return 0


def _told(found: Mapping[str, int]) -> str:
    return ", ".join(f"{found[name]} {name}" for name in COUNTED if name == "listed" or found[name])


def _moment(text: str | None, now: datetime) -> datetime | None:
    """A time given as such (UTC unless it says otherwise), or as how long ago."""
    if not text:
        return None
    if match := TTL.fullmatch(text):
        return now - timedelta(**{UNITS[match[2]]: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no time: say 2026-11-24, 2026-11-24T08:00 or 36h") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def tenant_list(config: Config, _args: Namespace) -> int:
    """List the tenants."""

    async def every(db: Database) -> list[dict[str, Any]]:
        return await tenants.every(db.system())

    for row in _with_database(config, every):
        say(f"{row['id']}\t{row['name']}\t{row['timezone']}\t{row['hours']}\t{row['seq']} events\t{row['routes']}")
    return 0


def token(config: Config, args: Namespace) -> int:
    """Issue a token, alone on its line."""
    if not args.org or not args.user:
        raise InvalidInput("token: --org and --user are needed")
    match = TTL.fullmatch(args.ttl)
    if not match:
        raise InvalidInput("ttl: must be like 30m, 12h or 7d")
    ttl = timedelta(**{UNITS[match[2]]: int(match[1])})
    say(issue(config, args.org, args.user, Role(args.role), ttl))
    return 0


def token_inspect(config: Config, args: Namespace) -> int:
    """Say what a token says and whether it is valid; exits 1 when it is not."""
    given = _secret(args.jwt)
    try:
        claims = jwt.decode(given, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise InvalidInput(f"This is no JSON Web Token: {error}.") from error
    say(msgspec.json.format(msgspec.json.encode(claims)).decode())

    async def verify(db: Database) -> Principal:
        revoked = Revoked()
        await revoked.refresh(db.system())
        async with open_keys(config, Metrics(__version__)) as token_keys:
            return await Tokens(config, revoked, token_keys).verify(given)

    try:
        principal = _with_database(config, verify)
    except Unauthenticated as error:
        say(f"NOT VALID: {error.detail}{_more(config, claims, error)}")
        return 1
    left = principal.expires_at - datetime.now(UTC)
    whose = f"tenant {principal.tenant_id}, user {principal.user_id}, role {principal.role}"
    say(f"valid: {whose}, for another {int(left.total_seconds())} s")
    return 0


def _more(config: Config, claims: Mapping[str, Any], error: Unauthenticated) -> str:
    """What a refusal leaves unsaid, since its reader may be anybody: here it is an operator."""
    now = datetime.now(UTC)
    if isinstance(error, TokenExpired):
        expired = datetime.fromtimestamp(claims["exp"], UTC)
        return f" It expired at {expired:%Y-%m-%d %H:%M:%S} UTC, {int((now - expired).total_seconds())} s ago."
    if isinstance(error, TokenRevoked):
        return " Whoever was issued one since has access: see `tenant revoke`."
    if isinstance(error.__cause__, jwt.InvalidSignatureError):
        ours = [
            name for name, given in (("JWT_SECRET", config.jwt_secret), ("JWT_JWKS_URL", config.jwt_jwks_url)) if given
        ]
        return f" It was signed with another key than that of {' or '.join(ours)}: who issued it, and for which server?"
    if isinstance(error.__cause__, jwt.ImmatureSignatureError):
        return " Clocks differ: compare that of its issuer with this machine's."
    return ""


def send_webhook(config: Config, args: Namespace) -> int:
    """Sign and send a sample; exits 1 when it is not taken."""
    sample = samples.sample(args.kind, args.id or samples.new_call_id(), args.phone)
    address, body, headers = asyncio.run(_signed(config, args.tenant, args.kind, sample, args.base or _base(config)))

    async def send() -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.post(address, data=body, headers=headers) as response:
            return response.status, response.headers.get("X-Webhook-Status") or await response.text()

    try:
        status, text = asyncio.run(send())
    except aiohttp.ClientError as error:
        raise NotFound(f"Nothing answers at {address}: {error}. Is `make run` running?") from error
    say(f"{status} {text}")
    return 0 if status == 200 else 1


async def _signed(
    config: Config, tenant_id: str, kind: str, sample: dict[str, Any], base: str
) -> tuple[str, bytes, dict[str, str]]:
    """Address, body and headers of a sample as its provider would send it."""
    if kind in samples.TWILIO:
        path = f"/twilio/{kind}"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        key = await _key(config, tenant_id, twilio.NAME)
        if key is not None:
            headers["X-Twilio-Signature"] = twilio.sign((config.public_url or base) + path, sample, key)
        elif tenant_id != DEMO or not config.development:
            raise InvalidInput(f"Tenant {tenant_id} has no auth token: set one with `tenant set --twilio-token`.")
        return base + path, urlencode(sample).encode(), headers
    body = msgspec.json.encode(sample)
    signature = callrail.sign(body, await signing_key(config, tenant_id))
    return f"{base}/call-rail/{kind}", body, {"Content-Type": "application/json", "Signature": signature}


async def signing_key(config: Config, tenant_id: str) -> str:
    """The current CallRail signing key of a tenant. Raises NotFound, InvalidInput."""
    key = await _key(config, tenant_id, callrail.NAME)
    if key is None:
        raise InvalidInput(f"Tenant {tenant_id} has no signing key: set one with `tenant set --callrail-key`.")
    return key


async def _key(config: Config, tenant_id: str, provider: str) -> str | None:
    async with open_pool(config, Metrics(__version__)) as db:
        tenant = await tenants.by_id(db.system(), Vault(config.secret_keys), tenant_id, provider)
    if tenant is None:
        raise NotFound(f"There is no tenant {tenant_id}.")
    return tenant.keys[0] if tenant.keys else None


def tail(config: Config, args: Namespace) -> int:
    """Print events until interrupted."""
    given = args.token or partial(issue, config, args.org, "tail", Role.MEMBER, timedelta(hours=1))
    channel = args.channel or tenant_channel(args.org)

    async def follow() -> int:
        async for message in Follower(args.base or _base(config), given, channel, args.since).events():
            say(msgspec.json.encode(message).decode())
            if message.get("success") is False:
                return 1
        return 0

    try:
        return asyncio.run(follow())
    except (Closed, aiohttp.WSServerHandshakeError) as error:
        raise InvalidInput(f"Refused: {error}") from error


def _base(config: Config) -> str:
    return f"http://127.0.0.1:{config.port}"


def _given(args: Namespace) -> dict[str, str]:
    named = {name: getattr(args, name, None) for name in (*tenants.ROUTES, *tenants.SECRETS)}
    return {name: _secret(value) if name in tenants.SECRETS else value for name, value in named.items() if value}


def _secret(value: str) -> str:
    """A secret given as `-` is read from standard input, so that it is in no history and no list of processes."""
    return sys.stdin.readline().strip() if value == "-" else value


def _with_database(config: Config, do: Callable[[Database], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with open_pool(config, Metrics(__version__)) as db:
            return await do(db)

    return asyncio.run(run())
