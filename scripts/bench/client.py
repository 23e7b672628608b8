"""One raw socket of a crowd."""

import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from scripts.bench.crowd import Pool

CONNECT_WITHIN = 5.0


class Client:
    """A socket that speaks first: each step sends bytes and waits for a marker; what comes then is `taken`."""

    def __init__(self, pool: "Pool", receive_buffer: int = 0) -> None:
        self.pool = pool
        self.receive_buffer = receive_buffer
        self.joined = False
        self.failed = ""
        self._steps: list[tuple[bytes, bytes]] = []
        self._reply = b""

    def connect(self, base: str, steps: list[tuple[bytes, bytes]]) -> None:
        """Begin, or begin again. Raises OSError."""
        url = urlsplit(base)
        self.socket = socket.socket()
        self.socket.settimeout(CONNECT_WITHIN)
        if self.receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self.socket.connect((url.hostname, url.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.receive = self.socket.recv_into
        self.fd = self.socket.fileno()
        self._steps, self._reply, self.failed = list(steps), b"", ""
        self.pool.add(self)
        self.send(self._steps[0][0])

    def ready(self) -> None:
        """There is something to read."""
        pool = self.pool
        try:
            size = self.receive(pool.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.end("lost")
        elif self._steps:
            self._step(bytes(pool.view[:size]))
        else:
            self.taken(size)

    def _step(self, data: bytes) -> None:
        self._reply += data
        if self._reply.startswith(b"HTTP/1.1 ") and b" 101 " not in self._reply[:16]:
            self.end(self._reply[:200].decode(errors="replace"))
            return
        while self._steps and self._steps[0][1] in self._reply:
            self._reply = self._reply.partition(self._steps[0][1])[2]
            del self._steps[0]
            if self._steps:
                self.send(self._steps[0][0])
        if self._steps:
            return
        rest, self._reply = self._reply, b""
        self.pool.view[: len(rest)] = rest
        self.opened()
        if rest:
            self.taken(len(rest))

    def opened(self) -> None:
        """The last step was answered."""
        self.joined = True

    def taken(self, size: int) -> None:
        """So many bytes are in the pool's buffer."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Write something small, which the kernel always takes."""
        with contextlib.suppress(OSError):
            self.socket.send(data)

    def end(self, why: str) -> None:
        """Go away."""
        self.failed = why
        self.pool.remove(self)
        self.socket.close()
