"""Who is asking: JSON Web Tokens to a Principal. The tenant comes from the token alone.

The signature is checked here, what a token says is read in claims.py, and jwks.py has the keys of others.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ottoai.config import Config
from ottoai.db import Session
from ottoai.domain import revocations
from ottoai.domain.revocations import Revocation
from ottoai.domain.roles import Role
from ottoai.domain.tenants import PROBE
from ottoai.errors import Forbidden, InvalidInput, StoreUnavailable, Unauthenticated
from ottoai.realtime.connection import User
from ottoai.web import jwks
from ottoai.web.claims import Principal, principal_of, refused
from ottoai.web.jwks import Key, KeySet

logger = logging.getLogger(__name__)

PROTOCOL_BEARER: Final = "bearer."  # pages can set no header: their token comes as one more protocol
ALGORITHM: Final = "HS256"  # of our own tokens; those of others: jwks.ALGORITHM
LEEWAY: Final = 5  # seconds by which clocks may differ
MAX_TOKEN: Final = 8 * 1024  # bytes; real ones have a few hundred
CACHED: Final = 10_000  # verifying costs about 55 µs, a look-up nothing; past that the least used is dropped
REFRESH: Final = 0.5  # seconds: a revocation has to be in force within one
OVERLAP: Final = timedelta(seconds=10)  # what was revoked earlier may be committed later, by the 5 s of a statement
NEVER: Final = datetime.fromtimestamp(0, UTC)


class TokenExpired(Unauthenticated):
    """The token has expired: get a new one."""


class TokenRevoked(Unauthenticated):
    """The token was revoked: get a new one."""


class Revoked:
    """What was revoked, as this process knows it: all of it, never older than REFRESH seconds while the database
    answers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._valid_after: dict[tuple[str | None, str | None], float] = {}
        self._seen: datetime | None = None  # the latest that was heard of
        self._heard = 0.0  # when it was
        self._settled = False  # nothing that was revoked before it can be committed any more

    def check(self, user: User) -> None:
        """Raise TokenRevoked when the token does not count any more, StoreUnavailable when that is not known yet."""
        if self._seen is None:
            raise StoreUnavailable
        known, tenant, who = self._valid_after, user.tenant_id, user.user_id
        if any(user.issued_at <= known.get(key, -1.0) for key in ((tenant, None), (tenant, who), (None, who))):
            raise TokenRevoked

    async def refresh(self, system: Session) -> tuple[Revocation, ...]:
        """Learn what was revoked since; that. Raises StoreUnavailable."""
        seen, began = self._seen or NEVER, self._clock()
        found = await revocations.changed(system, seen if self._settled else seen - OVERLAP)
        known = self._valid_after
        news = tuple(r for r in found if r.valid_after.timestamp() > known.get((r.tenant_id, r.user_id), -1.0))
        known.update({(r.tenant_id, r.user_id): r.valid_after.timestamp() for r in news})
        latest = max((r.revoked_at for r in found), default=seen)
        if latest > seen:
            self._heard, self._settled = self._clock(), False
        elif began >= self._heard + OVERLAP.total_seconds():  # so what was committed until then has been read just now
            self._settled = True
        self._seen = max(self._seen or NEVER, latest)
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


class _Verified(NamedTuple):
    """A token that was found genuine."""

    principal: Principal
    until: float  # Unix time
    key: Key | None  # what it was signed with; None: JWT_SECRET


class Tokens:
    """Verifies tokens, each once: what was verified counts until it expires, is revoked, or its key is withdrawn.

    How a token is verified follows from its `alg` and from what is configured: RS256 with the key of the set that it
    names, HS256 with JWT_SECRET, nothing else. A public key is never used as a secret.
    """

    def __init__(self, config: Config, revoked: Revoked, keys: KeySet | None) -> None:
        self._config = config
        self._revoked = revoked
        self._keys = keys
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()  # by digest: tokens are long

    async def verify(self, token: str) -> Principal:
        """Whose token this is. Waits only when it names a key that is not known. Raises Unauthenticated (TokenExpired,
        TokenRevoked), saying what is wrong with it, and StoreUnavailable.
        """
        digest = sha256(token.encode(errors="surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is None or time.time() >= known.until or self._withdrawn(known.key):
            self._verified.pop(digest, None)
            known = self._verified[digest] = await self._verify(token)
            if len(self._verified) > CACHED:
                self._verified.popitem(last=False)
        self._verified.move_to_end(digest)
        self._revoked.check(known.principal)
        return known.principal

    def check(self, principal: Principal) -> None:
        """Whether what was verified a while ago still counts. Raises TokenExpired, TokenRevoked."""
        if time.time() >= principal.expires_at.timestamp():
            raise TokenExpired
        self._revoked.check(principal)

    def _withdrawn(self, key: Key | None) -> bool:
        return key is not None and (self._keys is None or self._keys.get(key.kid) is not key)

    async def _verify(self, token: str) -> _Verified:
        if len(token) > MAX_TOKEN:
            raise Unauthenticated("The token is too long.")
        key, secret = await self._key_for(token)
        if key is not None:
            claims = self._claims(token, key.public, jwks.ALGORITHM)
        else:
            claims = self._claims(token, secret, ALGORITHM)
        principal = principal_of(claims)
        return _Verified(principal, principal.expires_at.timestamp(), key)

    async def _key_for(self, token: str) -> tuple[Key | None, str]:
        """The public key, or else the secret, that the token has to be verified with."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, UnicodeError) as error:
            raise refused(str(error)) from error
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == jwks.ALGORITHM and self._keys is not None:
            if not kid:
                raise refused("it does not say which key it is signed with (kid)")
            return await self._keys.find(kid), ""
        if algorithm == ALGORITHM and self._config.jwt_secret:
            if kid and self._keys is not None and self._keys.get(kid) is not None:
                raise refused(f"the key it names signs with {jwks.ALGORITHM} only")
            return None, self._config.jwt_secret
        raise refused("its algorithm is none that is accepted here")

    def _claims(self, token: str, key: RSAPublicKey | str, algorithm: str) -> dict[str, Any]:
        config = self._config
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                leeway=LEEWAY,
                issuer=config.jwt_issuer or None,
                options={"require": ["exp", "iat", "sub"], "verify_aud": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenExpired from error
        except jwt.InvalidTokenError as error:
            raise refused(str(error)) from error
        parties = config.jwt_authorized_parties
        if parties and claims.get("azp", parties[0]) not in parties:
            raise refused("its azp is none of ours")
        return claims


def demand(principal: Principal, *roles: Role) -> None:
    """Raise Forbidden unless the user has one of these roles: `demand(request[keys.PRINCIPAL], Role.MANAGER)`."""
    if principal.role not in roles:
        raise Forbidden(f"This needs the role {' or '.join(roles)}; your token says {principal.role}.")


def issue(config: Config, org: str, user: str, role: Role, ttl: timedelta) -> str:
    """A token of our own, for operators and tests. Raises InvalidInput without JWT_SECRET, and for a tenant without
    users.
    """
    if not config.jwt_secret:
        raise InvalidInput("Tokens cannot be issued here: JWT_SECRET is not set. They come from Clerk alone.")
    if org == PROBE:
        raise InvalidInput(f"Nobody has a token for {PROBE}: it is the self-probe's.")
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
