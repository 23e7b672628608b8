"""A client of the live protocol in Python: what `tail`, the demo, the tests and the benchmarks connect with."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec

from ottoai.realtime.messages import CLOSES, PROTOCOL

TIMEOUT: Final = 10.0  # seconds to connect, and for an answer to a message
BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts, each with jitter
AT_ONCE: Final = 0.05  # the pause where none is needed: not everybody in the same moment
SILENCE: Final = 3600.0  # seconds without a message; aiohttp answers the server's pings, which end what is dead
REACTIONS: Final = {close.code: close.client for close in CLOSES}

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
    """A channel's events without a gap or a repetition, across lost connections and expiring tokens.

    `token` is a token, or a function that gives a fresh one whenever it is needed.
    """

    def __init__(self, base: str, token: str | Callable[[], str], channel: str, since: str | int | None = None) -> None:
        self._base = base
        self._token = token
        self._channel = channel
        self._since = since
        self._epoch = 0
        self._seen = 0
        self._failures = 0  # since the channel was last joined

    async def events(self) -> AsyncIterator[Message]:
        """Every message of interest: subscribe results and events. Ends when the channel is refused; raises Closed, or
        aiohttp.WSServerHandshakeError, when the server refuses for good.
        """
        while True:
            try:
                async with connect(self._base, self._fresh()) as socket:
                    async for message in self._follow(socket):
                        yield message
                        if message.get("success") is False and message["retry_after"] is None:
                            return
            except Closed as closed:
                await self._pause(closed)
            except aiohttp.WSServerHandshakeError as refused:
                if 400 <= refused.status < 500 and refused.status != HTTPStatus.TOO_MANY_REQUESTS:
                    raise
                await self._pause()
            except (aiohttp.ClientError, TimeoutError, OSError):
                await self._pause()

    async def _follow(self, socket: Socket) -> AsyncIterator[Message]:
        result = await socket.subscribe(self._channel, self._since)
        while result["retry_after"] is not None:
            await asyncio.sleep(result["retry_after"])
            result = await socket.subscribe(self._channel, self._since)
        self._failures = 0
        if result["success"]:
            self._epoch = result["epoch"]
            if not result["recovered"]:
                self._went_to(result["seq"])
        yield result
        while True:
            message = await socket.receive(SILENCE)
            if message["type"] == "auth_expiring":
                await socket.send(type="auth", token=self._fresh())
            elif message["type"] == "unsubscribe_result":
                yield message | {"success": False, "retry_after": None}  # the right to it is lost
            elif message["type"] == "event":
                if message["seq"] is not None:
                    if message["seq"] <= self._seen:
                        continue
                    self._went_to(message["seq"])
                yield message

    def _went_to(self, seq: int) -> None:
        self._seen = seq
        self._since = f"{self._epoch}.{seq}"

    def _fresh(self) -> str:
        return self._token if isinstance(self._token, str) else self._token()

    async def _pause(self, closed: Closed | None = None) -> None:
        """Wait as the table of close codes says before connecting again. Raises Closed when that would not help."""
        reaction = REACTIONS.get(closed.code or 0, "back off") if closed else "back off"
        renewable = not isinstance(self._token, str)
        if closed and (reaction == "stop" or (reaction == "new token" and (self._failures or not renewable))):
            raise closed
        pause = BACKOFF[min(self._failures, len(BACKOFF) - 1)]
        if reaction != "back off" and not self._failures:
            pause = AT_ONCE
        self._failures += 1
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
