"""Asks CallRail's API. Trusts nothing it gets: every answer is bounded in time and size, and no redirect is followed,
since the token would go along. What to ask and how to read the answer is in callrail_list.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from ottoai import __version__
from ottoai.config import Config
from ottoai.domain.tenants import Access
from ottoai.errors import ProviderFailed
from ottoai.webhooks.callrail_list import Page, Span, query, read_page

CONNECT_TIMEOUT: Final = 3.0  # seconds; a healthy server takes a fraction of one
REQUEST_TIMEOUT: Final = 8.0  # seconds for a whole answer: a full page takes one or two
MAX_BODY: Final = 2 * 1024 * 1024  # bytes; a full page has some 300 KiB
CHUNK: Final = 64 * 1024
ATTEMPTS: Final = 3  # at a page; what fails thrice is left to the next run
FIRST_WAIT: Final = 0.5  # seconds before the second attempt, doubling, spread
# CallRail counts by the hour and the day and does not document that it says when to come back.
RATE_LIMITED_WAIT: Final = 600
LONGEST_WAIT: Final = 3600  # no answer of a server puts us off for longer: to ask once an hour costs nothing


class Api:
    """CallRail's API at one address."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base.rstrip("/")

    async def calls(self, access: Access, span: Span, page: int, company: str | None) -> Page:
        """A page of an account's calls. Raises ProviderFailed."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return read_page(await self._get(access, query(span, page, company)))
            except ProviderFailed as failed:
                if failed.reason != "unavailable" or attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * FIRST_WAIT * 2**attempt)  # noqa: S311 - spreads load
        raise AssertionError("the last attempt returns or raises")

    async def _get(self, access: Access, parameters: dict[str, str]) -> bytes:
        account = quote(access.account, safe="")
        url = URL(f"{self._base}/v3/a/{account}/calls.json", encoded=True).with_query(parameters)
        headers = {"Authorization": f'Token token="{_printable(access.token)}"'}
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                _check(response)
                return await _body(response)
        except TimeoutError as error:
            raise ProviderFailed("unavailable", "CallRail did not answer in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            detail = f"CallRail was not reached or broke off ({type(error).__name__})."
            raise ProviderFailed("unavailable", detail) from error


@asynccontextmanager
async def open_api(config: Config, at_once: int) -> AsyncIterator[Api]:
    """The API as configured, with so many connections at most."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=at_once),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),  # tenants share the session, and nothing of one may reach another
        # A small compressed answer could be an endless one. Pages are small enough as they are, and one that comes
        # compressed all the same is no list.
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"ottoai/{__version__}"},
        auto_decompress=False,
    )
    async with session:
        yield Api(session, config.callrail_api_url)


def _printable(token: str) -> str:
    if not token.isascii() or not token.isprintable() or '"' in token:
        raise ProviderFailed("unauthorized", "The API token holds a character that no token has.")
    return token


def _check(response: aiohttp.ClientResponse) -> None:
    """Raise ProviderFailed unless the answer is a page's."""
    match response.status:
        case 200:
            return
        case 401 | 403 as status:
            raise ProviderFailed("unauthorized", f"CallRail refuses the API token ({status}).")
        case 429:
            wait = _seconds(response.headers.get("Retry-After", ""))
            raise ProviderFailed("rate_limited", "CallRail wants fewer requests (429).", retry_after=wait)
        case status if status >= 500 or status == 408:
            raise ProviderFailed("unavailable", f"CallRail answered with {status}.")
        case 404:
            raise ProviderFailed("invalid", "CallRail knows no such account (404).")
        case status:
            raise ProviderFailed("invalid", f"CallRail answered with {status}.")


def _seconds(retry_after: str) -> int:
    """How long to wait; of a date, or of nonsense, as long as when nothing is told."""
    told = retry_after.strip()
    seconds = int(told) if told.isascii() and told.isdecimal() and len(told) < 10 else RATE_LIMITED_WAIT
    return min(max(seconds, 1), LONGEST_WAIT)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for chunk in response.content.iter_chunked(CHUNK):
        size += len(chunk)
        if size > MAX_BODY:
            raise ProviderFailed("invalid", f"CallRail's answer is larger than {MAX_BODY // 1024 // 1024} MiB.")
        parts.append(chunk)
    return b"".join(parts)
