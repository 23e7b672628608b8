"""A client of the live protocol in Python: what `tail`, the demo, the tests and the benchmarks connect with."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import msgspec

from ottoai.realtime.messages import PROTOCOL, CloseCode

TIMEOUT: Final = 10.0  # seconds to connect, and for an answer to a message
BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts, each with jitter
FINAL: Final = {CloseCode.BAD_MESSAGES, CloseCode.FORBIDDEN, CloseCode.UNAUTHENTICATED}

Message = dict[str, Any]


class Closed(Exception):
    """The server closed the connection; `code` says why."""

    def __init__(self, code: int | None) -> None:
        self.code = code
        super().__init__(f"closed with {code}")


class Socket:
    """One connection. Messages come out in the order in which they came in."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = socket
        self.welcome: Message = {}
        self._kept: list[Message] = []

    async def send(self, **message: Any) -> None:
        """Send one message."""
        await self.raw.send_str(msgspec.json.encode(message).decode())

    async def receive(self, timeout: float = TIMEOUT) -> Message:
        """The next message of any type. Raises Closed, TimeoutError."""
        if self._kept:
            return self._kept.pop(0)
        return await self._next(timeout)

    async def _next(self, timeout: float) -> Message:
        async with asyncio.timeout(timeout):
            message = await self.raw.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Closed(self.raw.close_code)
        decoded: Message = msgspec.json.decode(message.data)
        return decoded

    async def answer(self, kind: str, timeout: float = TIMEOUT) -> Message:
        """The next message of this type; others that come before it are kept for `receive`."""
        while True:
            message = await self._next(timeout)
            if message["type"] == kind:
                return message
            self._kept.append(message)

    async def event(self, timeout: float = TIMEOUT) -> Message:
        """The next event; other messages before it are passed over."""
        while True:
            message = await self.receive(timeout)
            if message["type"] == "event":
                return message

    async def subscribe(self, channel: str, since: str | int | None = None) -> Message:
        """Join a channel; its result."""
        extra = {} if since is None else {"since": since}
        await self.send(type="subscribe", channel=channel, **extra)
        return await self.answer("subscribe_result")


@asynccontextmanager
async def connect(base: str, token: str | None = None, **options: Any) -> AsyncIterator[Socket]:
    """Open a socket at an API's address (http…). The token goes into the Authorization header; without one the caller
    sends it as the first message. Raises aiohttp.WSServerHandshakeError when refused.
    """
    headers: Mapping[str, str] = {"Authorization": f"Bearer {token}"} if token else {}
    url = base.rstrip("/") + "/ws"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers=headers, protocols=[PROTOCOL], max_msg_size=0, **options) as raw,
    ):
        socket = Socket(raw)
        if token:
            socket.welcome = await socket.answer("welcome")
        yield socket


class Follower:
    """A channel's events without a gap or a repetition, across lost connections."""

    def __init__(self, base: str, token: str, channel: str, since: str | int | None = None) -> None:
        self._base = base
        self._token = token
        self._channel = channel
        self._since = since

    async def events(self) -> AsyncIterator[Message]:
        """Every message of interest: subscribe results and events. Ends only when the server refuses for good."""
        attempt = 0
        while True:
            try:
                async with connect(self._base, self._token) as socket:
                    result = await socket.subscribe(self._channel, self._since)
                    yield result
                    if not result["success"]:
                        return
                    attempt = 0
                    epoch = result["epoch"]
                    self._since = self._since if result["recovered"] else f"{epoch}.{result['seq']}"
                    while True:
                        event = await socket.event(timeout=3600)
                        if event["seq"] is not None:
                            self._since = f"{epoch}.{event['seq']}"
                        yield event
            except Closed as closed:
                if closed.code in FINAL:
                    raise
            except aiohttp.WSServerHandshakeError as error:
                if 400 <= error.status < 500:
                    raise
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            pause = BACKOFF[min(attempt, len(BACKOFF) - 1)]
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            attempt += 1
