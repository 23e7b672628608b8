"""The process of WebSocket listeners: what they recorded together, and what benchmarks let them do."""

import time
from array import array
from collections import Counter
from typing import Any

from scripts.bench.crowd import Pool
from scripts.bench.listeners import Listener

RETRY = 0.5  # seconds until a client that was refused tries again


class Audience(Pool):
    """Listeners, by the methods that benchmarks ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Listener] = []
        self.latencies = array("d")
        self.returns = array("d")  # seconds from a close to the next subscription
        self.calls: list[tuple[str, float]] = []  # (external id, when its call was heard of)
        self.counted: Counter[str] = Counter()
        self.closes: list[tuple[float, str]] = []
        self._elsewhere = ""
        self._silent: list[Listener] = []
        self._again: list[tuple[float, Listener]] = []

    def join(self, base: str, tickets: list[tuple[str, str]], receive_buffer: int = 0) -> int:
        """Connect a listener for each (token, channel); how many there are now."""
        coming = [Listener(self, token, channel, receive_buffer) for token, channel in tickets]
        self.open_all(coming, lambda one: one.enter(base))
        self.listeners += coming
        return len(self.listeners)

    def take(self) -> dict[str, Any]:
        """What was recorded since it was last taken."""
        taken = dict.fromkeys(("events", "missing", "repeated", "refused", "pings", "reconnect"), 0) | self.counted
        taken |= {"latencies": self.latencies, "calls": self.calls, "closes": self.closes, "cpu": self.cpu()}
        taken["returns"] = self.returns
        taken["open"] = sum(one.joined for one in self.listeners)
        self.latencies, self.calls, self.closes, self.counted = array("d"), [], [], Counter()
        self.returns = array("d")
        return taken

    def reach(self, heads: dict[str, int], seconds: float) -> int:
        """Read until everyone has the last event of its channel; how many have not within that time."""
        self.until(lambda: not self._behind(heads), seconds)
        return self._behind(heads)

    def _behind(self, heads: dict[str, int]) -> int:
        return sum(not one.joined or (one.seq or 0) < heads[one.channel] for one in self.listeners)

    def stall(self) -> int:
        """Those with a small receive buffer stop reading."""
        self._silent = [one for one in self.listeners if not one.timed]
        for one in self._silent:
            self.remove(one)
        return len(self._silent)

    def resume(self) -> None:
        """They read again."""
        for one in self._silent:
            self.add(one)
        self._silent = []

    def move_to(self, base: str) -> None:
        """From now on, whoever is closed connects there at once."""
        self._elsewhere = base

    def ended(self, listener: Listener, why: str) -> None:
        """A listener's socket is gone."""
        listener.joined = False
        listener.ended_at = time.monotonic()
        self.closes.append((listener.ended_at, why))
        if self._elsewhere:
            self._again.append((listener.ended_at, listener))

    def poll(self, seconds: float) -> None:
        """One turn, and the reconnects that are due."""
        super().poll(seconds)
        due, self._again = self._again, []
        for at, listener in due:
            if at > time.monotonic():
                self._again.append((at, listener))
                continue
            try:
                listener.enter(self._elsewhere)
            except OSError:
                self._again.append((time.monotonic() + RETRY, listener))
