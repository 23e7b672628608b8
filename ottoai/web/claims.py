"""What a genuine token says, as a Principal. Pure: whether it is genuine is the matter of auth.py.

The org is read from both kinds of Clerk's session tokens: `org_id` and `org_role`, or (v2) `o.id` and `o.rol`. Tokens
issued here have the first form.
"""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from ottoai.domain.roles import Role, role_of
from ottoai.domain.tenants import PROBE
from ottoai.errors import Unauthenticated

_Said = TypeVar("_Said", bound=str)

MAX_ID: Final = 200  # characters of a user's or tenant's id; real ones have about 30


class Principal(msgspec.Struct, frozen=True):
    """An authenticated user of one tenant. `issued_at` is Unix time."""

    tenant_id: str
    user_id: str
    role: Role
    issued_at: float
    expires_at: datetime


class _Org(msgspec.Struct, frozen=True):
    id: str | None = None
    rol: str | None = None


class _Claims(msgspec.Struct, frozen=True):
    """The claims that are read; exact types, so that "9" is no time and 7 no id."""

    exp: float
    iat: float
    sub: str
    org_id: str | None = None
    org_role: str | None = None
    o: _Org | None = None


def principal_of(claims: Mapping[str, Any]) -> Principal:
    """Whose token it is. Raises Unauthenticated, naming the claim that is missing or makes no sense."""
    try:
        read = msgspec.convert(claims, _Claims)
    except msgspec.ValidationError as error:
        raise refused(str(error)) from error
    nested = read.o or _Org()
    org = _one("org (org_id or o.id)", read.org_id, nested.id)
    if org is None:
        raise refused("it names no org (org_id or o.id)")
    for name, text in (("sub", read.sub), ("org", org)):
        # What is not printable (a NUL, half a surrogate pair) fits into no column and no log line.
        if not text or len(text) > MAX_ID or not text.isprintable():
            raise refused(f"its {name} is no id")
    if org == PROBE:
        raise refused("its org is none that has users")
    role = _one("role (org_role or o.rol)", *(role_of(word) if word else None for word in (read.org_role, nested.rol)))
    try:
        expires_at = datetime.fromtimestamp(read.exp, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise refused("its exp is out of range") from error
    # One string for all of a tenant: there is one of these for each socket.
    return Principal(sys.intern(org), read.sub, role or Role.MEMBER, float(read.iat), expires_at)


def _one(what: str, *said: _Said | None) -> _Said | None:
    """What is said, if it is said at all. Raises Unauthenticated when it is said twice and differently."""
    found = {each for each in said if each}
    if len(found) > 1:
        raise refused(f"it names more than one {what}")
    return found.pop() if found else None


def refused(why: str) -> Unauthenticated:
    """The error for a token that cannot be accepted."""
    return Unauthenticated(f"The token is not valid: {why}.")
