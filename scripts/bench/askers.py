"""Clients of the HTTP API that cost next to nothing, since they share the machine with what they measure. Asker asks
one thing after the other on a connection of its own; Poster posts at any moment, on a connection that is free or new.
"""

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from scripts.bench.measure import median, percentile

END = b"\r\n\r\n"
LENGTH = b"content-length: "


class Answers(msgspec.Struct):
    """What came back."""

    latencies: list[float] = []
    statuses: dict[int, int] = {}
    size: int = 0  # bytes of the bodies
    took: float = 0.0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return sum(count for status, count in self.statuses.items() if status in {200, 304}) / self.took

    @property
    def errors(self) -> int:
        """Answers that were none."""
        return sum(count for status, count in self.statuses.items() if status not in {200, 304})

    def told(self) -> str:
        """In a line."""
        p50, p95, p99 = (percentile(self.latencies, share) * 1000 for share in (0.5, 0.95, 0.99))
        return f"{self.rate:,.0f}/s, p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms, errors {self.errors}"

    @property
    def p50(self) -> float:
        """The median, in milliseconds."""
        return median(self.latencies) * 1000


def get(base: str, path: str, token: str) -> bytes:
    """A request as it goes over the wire."""
    host = urlsplit(base).netloc
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def post(base: str, path: str, body: bytes, **headers: str) -> bytes:
    """The same of a JSON body."""
    given = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(base).netloc}\r\nContent-Type: application/json\r\n{given}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Wire(asyncio.Protocol):
    """A connection that finds the end of each answer."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected = 0  # bytes of the answer that is coming, once that is known
        self._length = 0  # of its body

    def answered(self, status: int, length: int) -> None:
        """An answer is there, whole."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        buffer = self._buffer
        buffer += data
        if not self._expected:
            head = buffer.find(END)
            if head < 0:
                return
            fields = bytes(buffer[:head]).lower()
            start = fields.find(LENGTH)
            self._length = int(fields[start + len(LENGTH) :].partition(b"\r\n")[0]) if start >= 0 else 0
            self._expected = head + len(END) + self._length
        if len(buffer) >= self._expected:
            status = int(buffer[9:12])
            del buffer[: self._expected]
            self._expected = 0
            self.answered(status, self._length)


class Asker(Wire):
    """One client."""

    _asked = 0.0

    def __init__(
        self, ask: Callable[[], bytes], answers: Answers, until: float, done: asyncio.Future[None], every: float
    ) -> None:
        super().__init__()
        self._ask = ask
        self._answers = answers
        self._until = until
        self._done = done
        self._every = every

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = transport
        self._next()

    def answered(self, status: int, length: int) -> None:
        """Note it, and go on."""
        self._answers.latencies.append(time.monotonic() - self._asked)
        self._answers.size += length
        self._answers.statuses[status] = self._answers.statuses.get(status, 0) + 1
        self._next()

    def connection_lost(self, _: Exception | None) -> None:
        """The end; before its time it counts as an error."""
        if not self._done.done():
            self._answers.statuses[0] = self._answers.statuses.get(0, 0) + 1
            self._done.set_result(None)

    def _next(self) -> None:
        now = time.monotonic()
        # From when it was due: a late answer makes the next one wait.
        self._asked = self._asked + self._every if self._every and self._asked else now
        if now >= self._until:
            self._done.set_result(None)
            self._transport.close()
        elif self._asked > now:
            asyncio.get_running_loop().call_later(self._asked - now, self._write)
        else:
            self._write()

    def _write(self) -> None:
        self._transport.write(self._ask())  # type: ignore[attr-defined]


async def ask(base: str, what: Callable[[], bytes], *, clients: int, seconds: float, every: float = 0.0) -> Answers:
    """So many clients ask for `what`, for so long; each as soon as it has its answer, or `every` so many seconds."""
    url, loop, answers = urlsplit(base), asyncio.get_running_loop(), Answers()
    began = time.monotonic()
    ends = []
    for _ in range(clients):
        done = loop.create_future()
        ends.append(done)
        asker = Asker(what, answers, began + seconds, done, every)
        await loop.create_connection(lambda asker=asker: asker, url.hostname, url.port)
    await asyncio.gather(*ends)
    answers.took = time.monotonic() - began
    return answers


class Posted(msgspec.Struct):
    """What became of what was posted."""

    latencies: list[float] = []  # from when it was due
    statuses: dict[int, int] = {}  # 0: the connection ended first


class Poster:
    """Posts whenever it is told to, however many are on their way."""

    def __init__(self, base: str) -> None:
        self._url = urlsplit(base)
        self._free: list[_Post] = []
        self.posted = Posted()

    async def post(self, request: bytes, due: float) -> None:
        """Post, and wait for the answer."""
        done = asyncio.get_running_loop().create_future()
        wire = self._free.pop() if self._free else await self._connect()
        wire.send(request, done)
        status = await done
        self.posted.latencies.append(time.monotonic() - due)
        self.posted.statuses[status] = self.posted.statuses.get(status, 0) + 1
        if status:
            self._free.append(wire)

    async def _connect(self) -> "_Post":
        _, wire = await asyncio.get_running_loop().create_connection(_Post, self._url.hostname, self._url.port)
        return wire

    def close(self) -> None:
        """End all connections."""
        for wire in self._free:
            wire.close()


class _Post(Wire):
    _done: "asyncio.Future[int] | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, done: "asyncio.Future[int]") -> None:
        self._done = done
        self._transport.write(request)  # type: ignore[attr-defined]

    def answered(self, status: int, _length: int) -> None:
        self._end(status)

    def connection_lost(self, _: Exception | None) -> None:
        self._end(0)

    def close(self) -> None:
        self._transport.close()

    def _end(self, status: int) -> None:
        if self._done and not self._done.done():
            self._done.set_result(status)
