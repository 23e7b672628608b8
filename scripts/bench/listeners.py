"""A thousand cheap clients in one process: they parse frame headers only, so that the load does not measure itself."""

import asyncio
import base64
import os
import time
from collections.abc import Callable
from urllib.parse import urlsplit

EVENT = b'{"type":"event"'
JOINED = b'{"type":"subscribe_result"'

OnFrame = Callable[[memoryview, float], None]


class Listener(asyncio.Protocol):
    """One WebSocket that joins a channel and hands every event's frame, with its time of arrival, to `on_frame`."""

    def __init__(self, host: str, token: str, channel: str, on_frame: OnFrame) -> None:
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self._host = host
        self._token = token
        self._channel = channel
        self._on_frame = on_frame
        self._buffer = bytearray()
        self._upgraded = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /ws HTTP/1.1", f"Host: {self._host}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Authorization: Bearer {self._token}", "", "",
        )  # fmt: skip
        transport.write("\r\n".join(lines).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        """The server went."""
        self.closed = True
        if not self.joined.done():
            self.joined.set_exception(exc or ConnectionError("closed before it joined"))

    def data_received(self, data: bytes) -> None:
        """Take frames apart."""
        now = time.time()
        self._buffer += data
        if not self._upgraded:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                self.joined.set_exception(ConnectionError(head.decode(errors="replace")[:200]))
                return
            self._upgraded = True
            self._buffer = rest
            self._send(0x1, b'{"type":"subscribe","channel":"%s"}' % self._channel.encode())
        self._frames(now)

    def _frames(self, now: float) -> None:
        buffer, start, end = self._buffer, 0, len(self._buffer)
        view = memoryview(buffer)
        while end - start >= 2:
            opcode, size, begin = buffer[start] & 15, buffer[start + 1], start + 2
            if size == 126:
                size, begin = int.from_bytes(buffer[start + 2 : start + 4]), start + 4
            elif size == 127:
                size, begin = int.from_bytes(buffer[start + 2 : start + 10]), start + 10
            if end < begin + size or (size >= 126 and end < begin):
                break
            if opcode == 9:
                self._send(0xA, bytes(view[begin : begin + size]))
            elif opcode == 1:
                if buffer.startswith(EVENT, begin):
                    self._on_frame(view[begin : begin + size], now)
                elif buffer.startswith(JOINED, begin) and not self.joined.done():
                    self.joined.set_result(None)
            start = begin + size
        view.release()
        del buffer[:start]

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._transport is not None:  # a mask of zeros is a mask: the payload goes as it is
            self._transport.write(bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload)

    def close(self) -> None:
        """Go away."""
        if self._transport is not None:
            self._transport.abort()


async def crowd(base: str, tokens: list[str], channel: str, on_frame: OnFrame) -> list[Listener]:
    """As many joined listeners as there are tokens."""
    url = urlsplit(base)
    loop = asyncio.get_running_loop()
    listeners: list[Listener] = []
    for first in range(0, len(tokens), 100):
        batch = [Listener(url.netloc, token, channel, on_frame) for token in tokens[first : first + 100]]
        await asyncio.gather(
            *(loop.create_connection(lambda one=one: one, url.hostname, url.port) for one in batch)  # type: ignore[misc]
        )
        await asyncio.gather(*(one.joined for one in batch))
        listeners += batch
    return listeners
