"""Sockets that count bytes: every event of a run is equally long, so the bytes tell how many came. One in ten is read
event by event. They work with any protocol whose bytes per event are constant: ours, and those of the peers.
"""

import re
import time
from array import array
from typing import Any

from scripts.bench.crowd import Client, Pool
from scripts.bench.listeners import client_frame

PARSED = 10  # one socket in so many is read event by event
SLACK = 16  # bytes that a server may send beside events during a run: pings
QUIET = 0.3  # seconds without a byte, before a run begins
STAMP = re.compile(rb'"n":"(\d{6})","sent":"(\d{10}\.\d{6})"')


def stamp(number: int, now: float) -> str:
    """What an event's data begin with, always equally long."""
    return f'"n":"{number:06}","sent":"{now:017.6f}"'


class Tap(Client):
    """Counts bytes."""

    bytes = 0
    pool: "Taps"

    def taken(self, size: int) -> None:
        """Count them."""
        self.bytes += size
        self.pool.last = time.monotonic()


class ParsedTap(Tap):
    """Also finds every event's number and time, and checks that they follow each other."""

    _rest = b""
    expected = 0

    def taken(self, size: int) -> None:
        """Look for stamps."""
        super().taken(size)
        pool = self.pool
        now = pool.last
        data = self._rest + pool.view[:size].tobytes()
        end = 0
        for found in STAMP.finditer(data):
            if int(found[1]) != self.expected:
                pool.disordered += 1
            self.expected = int(found[1]) + 1
            pool.latencies.append(now - float(found[2]))
            end = found.end()
        self._rest = data[max(end, len(data) - 64) :]


class Taps(Pool):
    """The sockets of a broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.taps: list[Tap] = []
        self.latencies = array("d")
        self.disordered = 0
        self.last = 0.0
        self._cpu = 0.0

    def join(self, base: str, steps: list[list[tuple[bytes, bytes]]]) -> None:
        """Connect a socket for each list of steps."""
        self.taps = [(Tap if n % PARSED else ParsedTap)(self) for n in range(len(steps))]
        ready = dict(zip(self.taps, steps, strict=True))
        self.open_all(self.taps, lambda tap: tap.connect(base, ready[tap]))

    def begin(self, *, pong: bool) -> None:
        """Forget what came so far. A pong that nobody asked for keeps a WebSocket from seeming silent."""
        for tap in self.taps:
            if pong:
                tap.send(client_frame(10, b""))
        self.last = time.monotonic()
        self.until(lambda: time.monotonic() - self.last > QUIET, 10.0)
        for tap in self.taps:
            tap.bytes = 0
            if isinstance(tap, ParsedTap):
                tap.expected = 0
        self.latencies, self.disordered, self._cpu = array("d"), 0, self.cpu()

    def finish(self, size: int, count: int, seconds: float) -> dict[str, Any]:
        """Read on until all have `count` events of `size` bytes, or the time is over; what was received."""
        self.until(lambda: all(tap.bytes >= size * count for tap in self.taps), seconds)
        return {
            "deliveries": sum(min(tap.bytes // size, count) for tap in self.taps),
            "complete": sum(0 <= tap.bytes - size * count < SLACK for tap in self.taps),
            "closed": sum(bool(tap.failed) for tap in self.taps),
            "disordered": self.disordered,
            "latencies": self.latencies,
            "last": self.last,
            "cpu": self.cpu() - self._cpu,
        }
