"""Tenants: the companies we serve, how a delivery is found to be theirs, and the secrets they share with providers."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ottoai.db import Row, Session, queries
from ottoai.domain import hours as opening
from ottoai.domain.settings import check_settings
from ottoai.errors import InvalidInput, NotFound
from ottoai.vault import Vault

PROBE: Final = "ottoai-probe"  # the self-probe's: nobody has a token for it, and it is in no list
HOOK_BYTES = 18  # 144 random bits: not to be guessed, and 24 characters in a URL

NUMBER = "number"  # the kind of route that is a phone number


class Given(NamedTuple):
    """Something that a tenant has at a provider: of which provider, as what it is kept there, and what it is."""

    provider: str
    kind: str
    meaning: str


# What `tenant add` and `tenant set` take: by which a delivery is known to be a tenant's, and what is kept encrypted.
ROUTES = {
    "callrail_company": Given("callrail", "company", "CallRail's id of the company"),
    "callrail_account": Given("callrail", "account", "CallRail's id of the account"),
    "tracking_number": Given("callrail", NUMBER, "the tracking number that its customers call"),
    "twilio_sid": Given("twilio", "account", "SID of the Twilio account"),
    "twilio_number": Given("twilio", NUMBER, "the Twilio number that texts come from"),
}
SECRETS = {
    "callrail_key": Given("callrail", "signing_key", "signing key of the company's webhooks"),
    "callrail_api_token": Given("callrail", "api_token", "token for CallRail's API"),
    "twilio_token": Given("twilio", "auth_token", "auth token of the Twilio account"),
}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class Tenant(msgspec.Struct, frozen=True):
    """A tenant, as far as a delivery needs to know it. `keys`: the current signing key, then the previous one."""

    id: str
    name: str
    hours: opening.Hours
    keys: tuple[str, ...] = ()


def is_id(text: str) -> bool:
    """Whether a tenant may be called that."""
    return _ID.fullmatch(text) is not None


class Access(msgspec.Struct, frozen=True):
    """What a provider's API is asked with on behalf of a tenant. `companies`: those that were registered as its own."""

    account: str
    token: str
    companies: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Access(account={self.account!r})"  # a token must not get into a traceback


class TextAccess(msgspec.Struct, frozen=True):
    """What Twilio is asked with to send a tenant's texts, and the hook path under which it reports of them."""

    account: str
    token: str
    number: str
    hook: str | None

    def __repr__(self) -> str:
        return f"TextAccess(account={self.account!r})"  # a token must not get into a traceback


def _tenant(vault: Vault, row: Row) -> Tenant:
    keys = tuple(vault.open(key) for key in (row["current_key"], row["previous_key"]) if key)
    return Tenant(row["id"], row["name"], opening.parse(row["hours"], row["timezone"], row["holidays"]), keys)


async def routed(system: Session, vault: Vault, provider: str, identities: Sequence[str]) -> tuple[Tenant, ...]:
    """The tenants these identities (`kind:value`) belong to; several when a delivery contradicts itself. Raises
    StoreUnavailable, also when a key cannot be decrypted.
    """
    rows = queries().tenants.routed(system, provider=provider, identities=list(identities))
    return tuple([_tenant(vault, row) async for row in rows])


async def by_id(system: Session, vault: Vault, tenant_id: str, provider: str) -> Tenant | None:
    """One tenant with its keys for a provider."""
    row = await queries().tenants.by_id(system, id=tenant_id, provider=provider)
    return _tenant(vault, row) if row else None


async def access(system: Session, vault: Vault, tenant_id: str, provider: str) -> Access | None:
    """How to ask a provider's API for a tenant; None when its account or token is not there. The one place where the
    token is read.
    """
    row = await queries().tenants.provider_access(system, id=tenant_id, provider=provider)
    return Access(row["account"], vault.open(row["token"]), tuple(row["companies"])) if row else None


async def text_access(system: Session, vault: Vault, tenant_id: str) -> TextAccess | None:
    """How to send a tenant's texts through Twilio; None when its account, token or number is not there."""
    row = await queries().tenants.text_access(system, id=tenant_id)
    return TextAccess(row["account"], vault.open(row["token"]), row["number"], row["hook"]) if row else None


async def owners(system: Session, provider: str, identities: Sequence[str]) -> dict[str, str]:
    """Whose these identities (`kind:value`) are; those that are nobody's are left out."""
    rows = queries().tenants.owners(system, provider=provider, identities=list(identities))
    return {row["identity"]: row["tenant_id"] async for row in rows}


async def exists(system: Session, tenant_id: str) -> bool:
    """Whether there is such a tenant; the self-probe's is none of anybody's."""
    return tenant_id != PROBE and await queries().tenants.by_id(system, id=tenant_id, provider="") is not None


async def add(
    system: Session,
    vault: Vault,
    tenant_id: str,
    name: str,
    zone: str,
    hours: str,
    given: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
) -> str:
    """Register a tenant with `given` of ROUTES and SECRETS, and `more` of its settings; its hook path. Raises Conflict,
    InvalidInput.
    """
    _check_id(tenant_id)
    settings = check_settings({**(more or {}), "name": name, "timezone": zone, "hours": hours})
    hook = secrets.token_urlsafe(HOOK_BYTES)
    routes, credentials = _sorted_out(vault, given)
    routes.append({"provider": "callrail", "kind": "hook", "value": hook})
    rows = {"settings": _json(settings), "routes": _json(routes), "credentials": _json(credentials)}
    await queries().tenants.add(system, id=tenant_id, **rows)
    return hook


async def provision(system: Session, tenant_id: str, name: str, zone: str, stamp: str) -> None:
    """Register a tenant that a provider of identities tells of, with the default hours and no secrets, or rename it. A
    `stamp` that is not greater than that of the last name changes nothing. Raises InvalidInput.
    """
    _check_id(tenant_id)
    hook = secrets.token_urlsafe(HOOK_BYTES)
    told = {"id": tenant_id, "name": name, "timezone": zone, "stamp": stamp}
    await queries().tenants.provision(system, **told, hours=opening.DEFAULT, hook=hook)


async def change(
    system: Session, vault: Vault, tenant_id: str, settings: Mapping[str, Any], given: Mapping[str, str]
) -> None:
    """Change what is named (settings.CHECKS; ROUTES, SECRETS); a secret that is replaced stays valid as the previous
    one. Raises NotFound, Conflict, InvalidInput.
    """
    checked = check_settings(settings)
    routes, credentials = _sorted_out(vault, given)
    if not await exists(system, tenant_id):
        raise NotFound(f"There is no tenant {tenant_id}.")
    rows = {"settings": _json(checked), "routes": _json(routes), "credentials": _json(credentials)}
    await queries().tenants.change(system, id=tenant_id, **rows)


async def every(system: Session, tenant_id: str | None = None) -> list[Row]:
    """All tenants but the self-probe's, or one, with their settings and where they stand."""
    return [row async for row in queries().tenants.every(system, id=tenant_id, probe=PROBE)]


async def secrets_of(system: Session, tenant_id: str) -> list[Row]:
    """Which secrets a tenant has (provider, name, rotated_at, whether a previous one is accepted), never what they are.
    Raises NotFound.
    """
    if not await exists(system, tenant_id):
        raise NotFound(f"There is no tenant {tenant_id}.")
    return [row async for row in queries().tenants.secrets_of(system, id=tenant_id)]


async def retire(system: Session, tenant_id: str, secret: str) -> None:
    """Accept the previous one of a secret (of SECRETS) no longer. Raises NotFound when there is none."""
    provider, name, _ = SECRETS[secret]
    if not await queries().tenants.retire(system, id=tenant_id, provider=provider, name=name):
        raise NotFound(f"Tenant {tenant_id} has no previous {secret.replace('_', '-')}.")


async def reseal(system: Session, vault: Vault) -> int:
    """Encrypt every stored secret with the first key; how many there are. Raises StoreUnavailable."""
    rows = [row async for row in queries().tenants.every_secret(system)]
    for row in rows:
        sealed = {name: row[name] and vault.reseal(row[name]) for name in ("current", "previous")}
        await queries().tenants.reseal(system, **row, **{f"new_{name}": value for name, value in sealed.items()})
    return len(rows)


def _check_id(tenant_id: str) -> None:
    if not is_id(tenant_id):
        raise InvalidInput(f"id: {tenant_id!r} must be letters, digits, - and _, at most 63 of them")
    if tenant_id == PROBE:
        raise InvalidInput(f"id: {PROBE} is reserved for the self-probe")


def _sorted_out(vault: Vault, given: Mapping[str, str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    routes, credentials = [], []
    for name, value in given.items():
        if name in ROUTES:
            provider, kind, _ = ROUTES[name]
            number = opening.e164(value) if kind == NUMBER else value
            if not number:
                raise InvalidInput(f"{name.replace('_', '-')}: {value!r} is no phone number such as +12125550123")
            routes.append({"provider": provider, "kind": kind, "value": number})
        elif name in SECRETS:
            provider, credential, _ = SECRETS[name]
            credentials.append({"provider": provider, "name": credential, "secret": vault.seal(value)})
        else:
            raise InvalidInput(f"{name}: not a setting of a tenant")
    return routes, credentials


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
