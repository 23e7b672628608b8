"""Who is asking: JSON Web Tokens (HS256) to a Principal. The tenant comes from the token alone."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import jwt
import msgspec
from aiohttp import web

from ottoai.config import Config
from ottoai.db import Session
from ottoai.domain import revocations
from ottoai.domain.revocations import Revocation
from ottoai.errors import StoreUnavailable, Unauthenticated
from ottoai.realtime.connection import User

logger = logging.getLogger(__name__)

ALGORITHM: Final = "HS256"
PROTOCOL_BEARER: Final = "bearer."  # pages can set no header: their token comes as one more protocol
LEEWAY: Final = 5  # seconds by which clocks may differ
MAX_TOKEN: Final = 8 * 1024  # bytes; real ones have a few hundred
CACHED: Final = 10_000  # verifying costs about 55 µs, a look-up nothing; past that the least used is dropped
MAX_TTL: Final = timedelta(days=30)
REFRESH: Final = 0.5  # seconds: a revocation has to be in force within one
NEVER: Final = datetime.fromtimestamp(0, UTC)
DEFAULT_TTL: Final = timedelta(hours=1)


class Principal(msgspec.Struct, frozen=True):
    """An authenticated user of one tenant. `issued_at` is Unix time."""

    tenant_id: str
    user_id: str
    role: str
    issued_at: float
    expires_at: datetime


class TokenExpired(Unauthenticated):
    """The token has expired: get a new one."""


class TokenRevoked(Unauthenticated):
    """The token was revoked: get a new one."""


class Revoked:
    """What was revoked, as this process knows it: all of it, never older than REFRESH seconds while the database
    answers.
    """

    def __init__(self) -> None:
        self._valid_after: dict[tuple[str | None, str | None], float] = {}
        self._seen: datetime | None = None

    def check(self, user: User) -> None:
        """Raise TokenRevoked when the token does not count any more, StoreUnavailable when that is not known yet."""
        if self._seen is None:
            raise StoreUnavailable
        known, tenant, who = self._valid_after, user.tenant_id, user.user_id
        if any(user.issued_at <= known.get(key, -1.0) for key in ((tenant, None), (tenant, who), (None, who))):
            raise TokenRevoked

    async def refresh(self, system: Session) -> tuple[Revocation, ...]:
        """Learn what was revoked since; that. Raises StoreUnavailable."""
        found = await revocations.changed(system, self._seen or NEVER)
        known = self._valid_after
        news = tuple(r for r in found if r.valid_after.timestamp() > known.get((r.tenant_id, r.user_id), -1.0))
        known.update({(r.tenant_id, r.user_id): r.valid_after.timestamp() for r in news})
        self._seen = max((r.revoked_at for r in found), default=self._seen or NEVER)
        return news

    async def watch(self, system: Session, tell: Callable[[Revocation], None]) -> None:
        """Learn for ever, and tell of each."""
        while True:
            try:
                for revocation in await self.refresh(system):
                    tell(revocation)
            except StoreUnavailable as error:
                logger.debug("Revocations not readable", extra={"error": error.detail})
            await asyncio.sleep(REFRESH)


class Tokens:
    """Verifies tokens, each once: what was verified is remembered until it expires or is revoked."""

    def __init__(self, config: Config, revoked: Revoked) -> None:
        self._config = config
        self._revoked = revoked
        self._verified: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()  # by digest: tokens are long

    def verify(self, token: str) -> Principal:
        """Whose token this is. Raises Unauthenticated (TokenExpired, TokenRevoked), saying what is wrong with it, and
        StoreUnavailable.
        """
        digest = sha256(token.encode(errors="surrogatepass")).digest()
        expires, principal = self._verified.get(digest) or (0.0, None)
        if principal is None or time.time() >= expires:
            principal = self._principal(self.claims(token))
            self._verified[digest] = (principal.expires_at.timestamp(), principal)
            if len(self._verified) > CACHED:
                self._verified.popitem(last=False)
        self._verified.move_to_end(digest)
        self._revoked.check(principal)
        return principal

    def check(self, principal: Principal) -> None:
        """Whether what was verified a while ago still counts. Raises TokenExpired, TokenRevoked."""
        if time.time() >= principal.expires_at.timestamp():
            raise TokenExpired
        self._revoked.check(principal)

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a genuine token. Raises Unauthenticated."""
        if len(token) > MAX_TOKEN:
            raise Unauthenticated("The token is too long.")
        config = self._config
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                config.jwt_secret,
                algorithms=[ALGORITHM],
                leeway=LEEWAY,
                issuer=config.jwt_issuer or None,
                options={"require": ["exp", "iat", "sub"], "verify_aud": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenExpired from error
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(f"The token is not valid: {error}.") from error
        parties = config.jwt_authorized_parties
        if parties and claims.get("azp", parties[0]) not in parties:
            raise Unauthenticated("The token is not valid: its azp is none of ours.")
        return claims

    @staticmethod
    def _principal(claims: Mapping[str, Any]) -> Principal:
        nested = claims.get("o")
        orgs = {org for org in (claims.get("org_id"), nested.get("id") if isinstance(nested, dict) else None) if org}
        if len(orgs) != 1:
            raise Unauthenticated("The token is not valid: it must name one org (org_id or o.id).")
        org = orgs.pop()
        role = claims.get("org_role") or (nested.get("rol") if isinstance(nested, dict) else None) or "member"
        if not all(isinstance(text, str) and text and "\x00" not in text for text in (org, claims["sub"])):
            raise Unauthenticated("The token is not valid: org and sub must be text.")
        try:
            expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise Unauthenticated("The token is not valid: its exp is out of range.") from error
        return Principal(org, claims["sub"], str(role), float(claims["iat"]), expires_at)


def issue(config: Config, org: str, user: str, role: str, ttl: timedelta) -> str:
    """A token of our own, for operators and tests."""
    now = datetime.now(UTC)
    claims = {"sub": user, "org_id": org, "org_role": role, "iat": now, "exp": now + ttl}
    if config.jwt_issuer:
        claims["iss"] = config.jwt_issuer
    return jwt.encode(claims, config.jwt_secret, ALGORITHM)


def bearer(request: web.Request) -> str | None:
    """The token of the Authorization header, if there is one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


def presented(request: web.Request) -> str | None:
    """The token that a request comes with: in the Authorization header, or among the protocols of a WebSocket."""
    return bearer(request) or next(
        (word.removeprefix(PROTOCOL_BEARER) for word in protocols(request) if word.startswith(PROTOCOL_BEARER)), None
    )


def protocols(request: web.Request) -> list[str]:
    """The protocols that a WebSocket's handshake offers."""
    return [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if word.strip()]
