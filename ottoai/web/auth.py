"""Who is asking: JSON Web Tokens (HS256) to a Principal. The tenant comes from the token alone."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
import msgspec
from aiohttp import web

from ottoai.config import Config
from ottoai.errors import Unauthenticated

ALGORITHM: Final = "HS256"
LEEWAY: Final = 5  # seconds by which clocks may differ
MAX_TOKEN: Final = 8 * 1024  # bytes; real ones have a few hundred
CACHED: Final = 10_000  # verifying costs about 55 µs, a look-up nothing; past that the least used is dropped
MAX_TTL: Final = timedelta(days=30)
DEFAULT_TTL: Final = timedelta(hours=1)


class Principal(msgspec.Struct, frozen=True):
    """An authenticated user of one tenant."""

    tenant_id: str
    user_id: str
    role: str
    expires_at: datetime


class TokenExpired(Unauthenticated):
    """The token has expired: get a new one."""


class Tokens:
    """Verifies tokens, each once: what was verified is remembered until it expires."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._verified: OrderedDict[str, tuple[float, Principal]] = OrderedDict()

    def verify(self, token: str) -> Principal:
        """Whose token this is. Raises Unauthenticated (TokenExpired), saying what is wrong with it."""
        known = self._verified.get(token)
        if known is not None and time.time() < known[0]:
            self._verified.move_to_end(token)
            return known[1]
        principal = self._principal(self.claims(token))
        self._verified[token] = (principal.expires_at.timestamp(), principal)
        if len(self._verified) > CACHED:
            self._verified.popitem(last=False)
        return principal

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
        return Principal(org, claims["sub"], str(role), expires_at)


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
