"""The keys that RS256 tokens are signed with: the set at JWT_JWKS_URL, as this process knows it.

It is fetched without blocking the loop (PyJWT's own client would), by one fetch at a time for all who wait for it:
every few minutes, and at once for a key that is not known, though not again and again. What was fetched goes on
counting through an outage, for a day. What is done with a key is the matter of auth.py.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import aiohttp
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ottoai.background import end, running
from ottoai.config import Config
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.web.claims import refused

logger = logging.getLogger(__name__)

ALGORITHM: Final = "RS256"
MIN_BITS: Final = 2048  # RFC 7518 3.3
MAX_BITS: Final = 8192  # verifying costs more than proportionally; nobody signs with longer ones
MAX_SET: Final = 64 * 1024  # bytes of the answer; a real one has some 500 for each key


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the set is fetched, in seconds."""

    refresh: float = 300.0  # so long may a key count that was withdrawn
    retry: float = 10.0  # after a failure; with `timeout` well below the 30 s within which a new key has to count
    unknown: float = 5.0  # from the end of a fetch until a key that is not known may cause the next
    timeout: float = 5.0  # of a fetch
    wait: float = 2.0  # that a token waits for a fetch; it is better told 503 then
    stale: float = 24 * 3600.0  # from the last good fetch until its keys do not count any more


PACE: Final = Pace()


class Key(NamedTuple):
    """A public RSA key of the set. The same key stays the same object from one fetch to the next."""

    kid: str
    n: str  # modulus and exponent, as the set has them
    e: str
    public: RSAPublicKey


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    use: str
    kid: str
    n: str
    e: str
    alg: str = ALGORITHM


class KeySet:
    """The keys of one address. `find` is what tokens are verified with."""

    def __init__(self, url: str, session: aiohttp.ClientSession, metrics: Metrics, pace: Pace = PACE) -> None:
        self._url = url
        self._session = session
        self._metrics = metrics
        self._pace = pace
        self._keys: Mapping[str, Key] = MappingProxyType({})
        self._good_until = 0.0  # of what was fetched last
        self._current = False  # whether the last fetch succeeded
        self._not_before = 0.0  # when a key that is not known may cause the next fetch
        self._fetching: asyncio.Task[bool] | None = None

    def get(self, kid: str) -> Key | None:
        """The key of this id, if it is known and still counts."""
        return self._keys.get(kid) if time.monotonic() < self._good_until else None

    async def find(self, kid: str) -> Key:
        """The key of this id; the set is fetched first if it is not known. Raises Unauthenticated when there is none,
        StoreUnavailable when that cannot be told: a key that is not known may be a new one.
        """
        known = self.get(kid)
        if known is None:
            current = await self._look()
            known = self.get(kid)
            if known is None and not current:
                raise StoreUnavailable("The keys that tokens are signed with cannot be fetched; try again shortly.")
            if known is None:
                raise refused("the key it names (kid) is not among those that count")
        return known

    async def watch(self) -> None:
        """Fetch the set for ever."""
        while True:
            wait = self._pace.refresh if await self.refresh() else self._pace.retry
            await asyncio.sleep(wait * random.uniform(0.8, 1.0))  # noqa: S311 - lest all processes ask at once

    async def refresh(self) -> bool:
        """Fetch the set, or wait for the fetch that is under way; whether it was got."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch(), name="fetch-jwks")
        return await asyncio.shield(self._fetching)  # whoever gives up waiting does not end it for the others

    async def close(self) -> None:
        """End the fetch that is under way."""
        if self._fetching is not None:
            await end([self._fetching])

    async def _look(self) -> bool:
        """Fetch the set, unless that was just done; whether it is known as it is now."""
        if self._fetching is None and time.monotonic() < self._not_before:
            return self._current
        try:
            async with asyncio.timeout(self._pace.wait):
                return await self.refresh()
        except TimeoutError:
            return False

    async def _fetch(self) -> bool:
        result = "failed"
        try:
            async with asyncio.timeout(self._pace.timeout):
                body = await self._body()
            self._take(usable(body, self._keys))
            result = "ok"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if self._current or not self._not_before:  # said once for each outage
                logger.warning("Token keys cannot be fetched", extra={"error": error, "known": len(self._keys)})
            self._current = False
        finally:
            self._metrics.jwks_fetches_total.inc(result=result)
            self._not_before = time.monotonic() + self._pace.unknown
            self._fetching = None
        return self._current

    async def _body(self) -> bytes:
        # Redirects are not followed: the keys would be those of whatever address is told.
        async with self._session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"answered with status {response.status}")
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_SET:
                    raise ValueError(f"answered with more than {MAX_SET} bytes")
            return bytes(body)

    def _take(self, keys: Mapping[str, Key]) -> None:
        new, gone = sorted(keys.keys() - self._keys.keys()), sorted(self._keys.keys() - keys.keys())
        if new or gone or not self._current:
            logger.info("Token keys fetched", extra={"keys": len(keys), "new": new, "withdrawn": gone})
        self._keys = keys
        self._good_until = time.monotonic() + self._pace.stale
        self._current = True


def usable(body: bytes, known: Mapping[str, Key]) -> Mapping[str, Key]:
    """The keys of a set that can be used: RSA keys for signing, with an id, of a length that is safe. Others are passed
    over. Raises ValueError when it is no set, or has no such key: that is a mistake, and no reason to refuse everybody.
    """
    try:
        keys = msgspec.json.decode(body, type=dict[str, Any])["keys"]
    except (msgspec.DecodeError, KeyError, RecursionError) as error:
        raise ValueError(f"answered with no key set: {error!r}") from error
    found: dict[str, Key] = {}
    for item in keys if isinstance(keys, list) else ():
        key = _usable(item, known)
        if key is not None:
            found.setdefault(key.kid, key)
    if not found:
        raise ValueError("answered with a set that has no RSA key for signatures")
    return MappingProxyType(found)


def _usable(item: Any, known: Mapping[str, Key]) -> Key | None:
    try:
        told = msgspec.convert(item, _Jwk)
        if (told.kty, told.use, told.alg) != ("RSA", "sig", ALGORITHM) or not told.kid:
            return None
        same = known.get(told.kid)
        if same is not None and (same.n, same.e) == (told.n, told.e):
            return same
        # Nothing but the public half is handed on, whatever else the set says.
        public = jwt.PyJWK({"kty": "RSA", "n": told.n, "e": told.e}, ALGORITHM).key
    except (msgspec.ValidationError, jwt.PyJWTError, ValueError):
        return None
    usable = isinstance(public, RSAPublicKey) and MIN_BITS <= public.key_size <= MAX_BITS
    return Key(told.kid, told.n, told.e, public) if usable else None


@asynccontextmanager
async def open_keys(config: Config, metrics: Metrics, pace: Pace = PACE) -> AsyncIterator[KeySet | None]:
    """The keys of RS256 tokens, kept up to date; None when none are configured. Opens without waiting for them."""
    if not config.jwt_jwks_url:
        yield None
        return
    # What is not asked to be compressed and is not decompressed cannot grow past MAX_SET.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as session:
        keys = KeySet(config.jwt_jwks_url, session, metrics, pace)
        try:
            async with running(keys.watch):
                yield keys
        finally:
            await keys.close()
