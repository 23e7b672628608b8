"""Requests to Twilio's API, on the worker's event loop: what Twilio's package is given to send them with."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, encode_basic_auth
from twilio.http import AsyncHttpClient
from twilio.http.response import Response

log = logging.getLogger(__name__)

CONNECT_WITHIN: Final = 6.0  # seconds, less than a text may take: what was not connected was certainly not handed over


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
            return Response(response.status, await response.text(), response.headers)


@asynccontextmanager
async def open_http() -> AsyncIterator[Http]:
    """The connections to Twilio."""
    patience = ClientTimeout(total=None, connect=CONNECT_WITHIN)
    async with ClientSession(cookie_jar=DummyCookieJar(), timeout=patience) as session:
        yield Http(session)
