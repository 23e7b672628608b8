"""Requests to Twilio's API, on the worker's event loop: what Twilio's package is given to send them with."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import ClientPayloadError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, encode_basic_auth
from twilio.http import AsyncHttpClient
from twilio.http.response import Response

log = logging.getLogger(__name__)

CONNECT_WITHIN: Final = 6.0  # seconds, less than a text may take: what was not connected was certainly not handed over
MAX_BODY: Final = 1024 * 1024  # bytes of an answer; a page of listed texts has some 50 KiB


class Http(AsyncHttpClient):  # type: ignore[misc]  # the package carries no types
    """What Twilio's package sends its requests with. The package's own logs phones and words, keeps the last request,
    and goes by parts of aiohttp that are to be removed.
    """

    def __init__(self, session: ClientSession) -> None:
        super().__init__(log, True, None)
        self._session = session

    async def request(
        self,
        method: str,
        url: str,
        params: dict[str, object] | None = None,
        data: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the package's interface; callers have their own
        allow_redirects: bool = False,
    ) -> Response:
        """See AsyncHttpClient."""
        headers = {**(headers or {}), **({"Authorization": encode_basic_auth(*auth)} if auth else {})}
        given: dict[str, Any] = {"params": params, "data": data, "headers": headers}
        async with self._session.request(method, url, allow_redirects=allow_redirects, **given) as response:
            return Response(response.status, await _text(response), response.headers)


async def _text(response: ClientResponse) -> str:
    """The answer. Raises ClientPayloadError when it is too large to be one."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_BODY:
            raise ClientPayloadError(f"the answer has more than {MAX_BODY} bytes")
    return body.decode(errors="replace")


@asynccontextmanager
async def open_http() -> AsyncIterator[Http]:
    """The connections to Twilio."""
    patience = ClientTimeout(total=None, connect=CONNECT_WITHIN)
    # What is not asked to be compressed and is not decompressed cannot grow past MAX_BODY.
    headers = {"Accept-Encoding": "identity"}
    async with ClientSession(
        cookie_jar=DummyCookieJar(), timeout=patience, headers=headers, auto_decompress=False
    ) as session:
        yield Http(session)
