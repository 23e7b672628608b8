"""Runs a set of processes side by side: output gathered, the dead restarted, all stopped together.

Knows nothing of what they are; ottoai/dev says that. One thread, which waits for output and looks at the processes
between times. honcho only parses the Procfile: as a runner it ends all when one ends, kills after 5 s, and leaves
orphans when it is killed itself.
"""

import io
import logging
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from honcho.environ import parse_procfile

from ottoai.log import JsonLines

GRACE_SECONDS = 35.0  # the processes promise to end within 30 s
FIRST_DELAY = 0.5
LONGEST_DELAY = 10.0
STEADY_SECONDS = 30.0  # one that ran this long has recovered: its next failure is a first one again
TICK_SECONDS = 0.1
CHUNK_BYTES = 65536
LONGEST_LINE = 1_000_000  # past this an unfinished line is passed on in pieces rather than gathered
COLOURS = (36, 33, 35, 32, 34, 31)
# Their stores are children of the same parent and die in the same moment, so there is nothing to drain into: KILL.
# `setpriv` sets it in the child itself, after the fork, where Python may not safely run code of its own.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


def read_procfile(path: Path) -> dict[str, str]:
    """Name and command of each process, in order."""
    return dict(parse_procfile(path.read_text()).processes)


@dataclass(slots=True)
class Child:
    """One process of the set, through all its lives."""

    name: str
    command: str
    colour: int
    running: "subprocess.Popen[bytes] | None" = None
    unfinished: bytes = b""
    started: float = 0.0
    next_start: float = 0.0
    delay: float = field(default=FIRST_DELAY)


class Supervisor:
    """Start with `run()`, end with `request_stop()` from a signal handler or another thread."""

    def __init__(
        self,
        commands: Mapping[str, str],
        *,
        cwd: Path,
        environ: Mapping[str, str],
        out: BinaryIO | None = None,
        colour: bool = False,
        on_tick: "Callable[[Supervisor], None]" = lambda _: None,
    ) -> None:
        self._children = [
            Child(name, command, COLOURS[number % len(COLOURS)])
            for number, (name, command) in enumerate(commands.items())
        ]
        self._cwd = cwd
        self._environ = environ
        self._out = out or sys.stdout.buffer
        self._colour = colour
        self._on_tick = on_tick
        self._width = max(len(name) for name in [*commands, "otto"])
        self._selector = selectors.DefaultSelector()
        self._prefix = _prefix(environ)
        self._stop_requests = 0
        self._lines = JsonLines("otto")

    def request_stop(self) -> None:
        """Stop all, in an orderly way; asked again, at once."""
        self._stop_requests += 1

    def run(self) -> None:
        """Keep all running until asked to stop, then stop them."""
        try:
            while not self._stop_requests:
                now = time.monotonic()
                for child in self._children:
                    self._look_after(child, now)
                self._forward_output()
                self._on_tick(self)
        finally:
            self._stop()
            self._selector.close()

    def say(self, text: str, level: int = logging.INFO) -> None:
        """A line of the supervisor's own, among the others' and like them."""
        record = logging.LogRecord(__name__, level, __file__, 0, text, None, None)
        self._write("otto", 37, self._lines.format(record).encode())

    def show(self, text: str) -> None:
        """A text of more than one line, without the column of names."""
        self._put(text.encode() + b"\n")

    def _look_after(self, child: Child, now: float) -> None:
        if child.running is None:
            if now >= child.next_start:
                self._start(child, now)
            return
        code = child.running.poll()
        if code is None:
            return
        if now - child.started >= STEADY_SECONDS:
            child.delay = FIRST_DELAY
        text = f"{child.name} {_how(code)} after {now - child.started:.1f} s; starting it again in {child.delay:g} s"
        self.say(text, logging.WARNING)
        child.running = None
        child.next_start = now + child.delay
        child.delay = min(child.delay * 2, LONGEST_DELAY)

    def _start(self, child: Child, now: float) -> None:
        # A pipe of our own: what a dead process's own children still hold open must not hide that it died.
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        child.started = now
        try:
            child.running = subprocess.Popen(
                [*self._prefix, *shlex.split(child.command)],
                cwd=self._cwd,
                env=dict(self._environ),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor alone
            )
        finally:
            os.close(theirs)
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _forward_output(self, timeout: float = TICK_SECONDS) -> None:
        for key, _ in self._selector.select(timeout):
            child: Child = key.data
            chunk = os.read(key.fd, CHUNK_BYTES)
            *lines, child.unfinished = (child.unfinished + chunk).split(b"\n")
            if child.unfinished and (not chunk or len(child.unfinished) > LONGEST_LINE):
                lines.append(child.unfinished)
                child.unfinished = b""
            for line in lines:
                self._write(child.name, child.colour, line)
            if not chunk:
                self._selector.unregister(key.fd)
                os.close(key.fd)

    def _write(self, name: str, colour: int, line: bytes) -> None:
        column = f"{name:<{self._width}} | "
        if self._colour:
            column = f"\x1b[{colour}m{column}\x1b[0m"
        self._put(column.encode() + line + b"\n")

    def _put(self, data: bytes) -> None:
        try:
            self._out.write(data)
            self._out.flush()
        except BrokenPipeError:  # nobody reads us any more, as in `make run | head`
            self._out = io.BytesIO()
            self.request_stop()

    def _stop(self) -> None:
        """SIGTERM to all at once; SIGKILL, to their children too, after the grace or a second request."""
        running = [child.running for child in self._children if child.running and child.running.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while any(process.poll() is None for process in running):
            if time.monotonic() > deadline or self._stop_requests > 1:
                break
            self._forward_output()
        for process in running:
            _kill_group(process)
        self._forward_output(0)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # all gone, as they should be
    process.wait()


def _prefix(environ: Mapping[str, str]) -> tuple[str, ...]:
    argv = [*DIE_WITH_PARENT, "true"]
    try:
        probe = subprocess.run(argv, env=dict(environ), capture_output=True, timeout=10, check=False)
    except OSError:
        return ()
    return () if probe.returncode else DIE_WITH_PARENT


def _how(code: int) -> str:
    return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
