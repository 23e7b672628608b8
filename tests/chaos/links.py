"""The network, as far as it can fail: a TCP proxy whose links are reset, cut in the middle of a frame, held up, or dark
while either end believes in them.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum

HOST = "127.0.0.1"
BACKLOG = 1024
BUFFER = 64 * 1024  # of the socket towards the server: a larger one would hide that nobody reads
CONNECT_WITHIN = 2.0
RST = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all: closing resets


class State(Enum):
    OPEN = 1
    HELD = 2  # nothing is read: what is sent piles up, and may go on later
    SWALLOWED = 3  # all is read and nothing passed on


class End(asyncio.Protocol):
    """One end of a link."""

    def __init__(self, link: "Link") -> None:
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.full = False  # it takes no more for now
        self.gone = False

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.link.opened(self)

    def data_received(self, data: bytes) -> None:
        self.link.carry(self, data)

    def pause_writing(self) -> None:
        self.full = True
        self.link.flow()

    def resume_writing(self) -> None:
        self.full = False
        self.link.flow()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self.link.lost(self)

    def close(self, *, reset: bool = False) -> None:
        if self.transport is None or self.gone:
            return
        if not reset:
            self.transport.close()
            return
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        self.transport.abort()


class Link:
    """A client's connection and the one that was opened to the server for it."""

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.near, self.far = End(self), End(self)  # the client's, the server's
        self.port = 0  # of the server, once it has answered
        self.state = State.OPEN
        self.changed = time.monotonic()
        self.cut_after: int | None = None  # bytes of the server's next ones that still pass

    def opened(self, end: End) -> None:
        if end is self.near:
            self.proxy.links.add(self)
            self.flow()
            self.proxy.spawn(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for port in () if self.proxy.refusing else self.proxy.choose():
            one = socket.socket()
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            try:
                async with asyncio.timeout(CONNECT_WITHIN):
                    await loop.sock_connect(one, (HOST, port))
            except (OSError, TimeoutError):
                one.close()
                continue
            except BaseException:
                one.close()
                raise
            await loop.create_connection(lambda: self.far, sock=one)
            self.port = port
            break
        if self.near.gone:
            self.far.close()
        elif self.port:
            self.flow()
        else:
            self.reset()

    def flow(self) -> None:
        """Read from each end, as long as the other one takes it."""
        for end, other in ((self.near, self.far), (self.far, self.near)):
            if end.transport is None or end.gone:
                continue
            if self.state is not State.HELD and other.transport is not None and not other.full:
                end.transport.resume_reading()
            else:
                end.transport.pause_reading()

    def carry(self, end: End, data: bytes) -> None:
        other = self.far if end is self.near else self.near
        if self.state is State.SWALLOWED or other.gone or other.transport is None:
            return
        if self.cut_after is not None and end is self.far:
            other.transport.write(data[: self.cut_after])
            self.reset()
        else:
            other.transport.write(data)

    def lost(self, end: End) -> None:
        other = self.far if end is self.near else self.near
        if self.state is State.OPEN:
            other.close()
        elif self.state is State.SWALLOWED and end is self.far:
            self.proxy.noticed += 1
        if other.gone or other.transport is None:
            self.proxy.links.discard(self)

    def darken(self, state: State) -> None:
        """From now on neither end hears of the other, not even of its end."""
        self.state = state
        self.changed = time.monotonic()
        self.flow()

    def release(self) -> None:
        """Go on where it was held."""
        self.state = State.OPEN
        self.flow()
        for end, other in ((self.near, self.far), (self.far, self.near)):
            if end.gone:
                other.close()

    def reset(self) -> None:
        """End it at once, for both."""
        self.state = State.OPEN
        self.near.close(reset=True)
        self.far.close(reset=True)


class Proxy:
    """One address. `choose` says which ports stand behind it, in the order in which to try them."""

    def __init__(self, choose: Callable[[], Iterable[int]]) -> None:
        self.choose = choose
        self.links: set[Link] = set()
        self.refusing = False
        self.noticed = 0  # dark links that the server ended
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self).near, HOST, 0, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    def spawn(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def working(self) -> list[Link]:
        """The links that carry."""
        return [link for link in self.links if link.state is State.OPEN and link.port]

    def reap(self, older: float) -> None:
        """Give up what has been dark for so long."""
        before = time.monotonic() - older
        for link in [link for link in self.links if link.state is not State.OPEN and link.changed < before]:
            link.reset()

    def reset_all(self) -> None:
        for link in list(self.links):
            link.reset()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.reset_all()
        await asyncio.sleep(0)
