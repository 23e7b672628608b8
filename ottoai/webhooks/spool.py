"""Where deliveries wait while PostgreSQL is away: one file each, on a disk that outlives the process.

A delivery is kept when its file and the folder that names it are both on the disk (fsync), and not before. Each process
has a folder of its own below SPOOL_DIR, held by a lock; whoever is alive also empties the folders of the dead.
"""

import asyncio
import fcntl
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import psutil

from ottoai.background import running
from ottoai.errors import StoreUnavailable
from ottoai.metrics import Metrics
from ottoai.vault import SecretUnreadable
from ottoai.webhooks.delivery import Raw

log = logging.getLogger(__name__)

WRITERS: Final = 4  # files written at the same time: disks join such writes into one
WITHIN: Final = 2.0  # seconds; a disk that takes longer is as good as none
UNVERIFIED: Final = (
    0.25  # share of the room for deliveries whose signature could not be checked: anybody can send those
)
VOLATILE: Final = frozenset({"tmpfs", "ramfs"})  # kept in memory: gone when the machine is
LOOK_EVERY: Final = 1.0  # seconds between two looks whether there is something to take in, and whether that works again
ADOPT_EVERY: Final = 10  # looks between two for the folders of processes that died
# Seconds until a delivery whose tenant's secret cannot be read is tried again: only an operator can mend that, and
# thousands may wait.
TRY_LOCKED: Final = 15.0
FILE_COST: Final = 4096  # bytes that a file takes at least
SUFFIX: Final = ".delivery"

# Takes a delivery in; raises StoreUnavailable when that does not work yet, SecretUnreadable when not for its tenant.
Take = Callable[[Raw], Awaitable[None]]


class SpoolFull(StoreUnavailable):
    """The delivery cannot be kept: send it again."""


class Spool:
    """One process's end of the spool."""

    def __init__(self, root: Path, most: int, metrics: Metrics) -> None:
        self._root = root
        self._most = most  # bytes
        self._metrics = metrics
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="spool")
        self._folder = root
        self._lock = -1
        self._number = 0
        # What is kept in the own folder or being written to it: its size, and how much of that is not verified.
        self._sizes: dict[Path, tuple[int, int]] = {}
        self._bytes = self._loose = 0
        self._ready: set[Path] = set()  # what of it can be taken in
        self._locked: dict[Path, float] = {}  # whose tenant's secret cannot be read: when each is tried again
        self.trouble: str | None = "not opened"  # why nothing can be kept

    def open(self) -> None:
        """Take a folder. What is wrong with the disk is said in `trouble`, and in the log."""
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if (kind := filesystem(self._root)) in VOLATILE:
                self.trouble = f"{kind} does not outlive the machine"
            else:
                self._folder, self._lock = self._own()
                for path in _waiting(self._folder):
                    self._account(path, (_cost(path), 0))
                    self._ready.add(path)
                self.trouble = None
        except OSError as error:
            self.trouble = str(error)
        if self.trouble:
            log.error("Spool not usable: without PostgreSQL webhooks are answered 503", extra={"cause": self.trouble})
        self._show()

    def close(self) -> None:
        """Let another process have what still waits."""
        self._writers.shutdown(wait=False)  # a disk that does not answer must not hold up the end
        if self._lock >= 0:
            os.close(self._lock)

    async def put(self, raw: Raw, *, verified: bool) -> None:
        """Keep a delivery; it is on the disk when this returns. Raises SpoolFull when it could not be kept."""
        if self.trouble:
            raise SpoolFull
        data = msgspec.msgpack.encode(raw)
        size = max(len(data), FILE_COST)
        loose = 0 if verified else size
        if self._bytes + size > self._most or self._loose + loose > self._most * UNVERIFIED:
            log.error("Spool full", extra={"waiting": len(self._sizes), "verified": verified})
            raise SpoolFull
        self._number += 1
        path = self._folder / f"{time.time_ns():020}-{self._number:06}{SUFFIX}"
        self._account(path, (size, loose))  # from now on, so that the bound holds whatever is being written
        writing = asyncio.get_running_loop().run_in_executor(self._writers, _write, path, data)
        writing.add_done_callback(lambda done: self._written(path, done))
        try:
            async with asyncio.timeout(WITHIN):
                await asyncio.shield(writing)
        except (OSError, TimeoutError) as error:
            # One that is written later, when the disk answers again, is taken in, which does no harm.
            log.error("Spool cannot be written", extra={"cause": str(error) or "the disk does not answer"})  # noqa: TRY400
            raise SpoolFull from error

    def _written(self, path: Path, done: "asyncio.Future[None]") -> None:
        if done.cancelled() or done.exception():
            self._forget(path)
        else:
            self._ready.add(path)

    def _account(self, path: Path, sizes: tuple[int, int]) -> None:
        self._sizes[path] = sizes
        self._bytes += sizes[0]
        self._loose += sizes[1]
        self._show()

    def _forget(self, path: Path) -> None:
        size, loose = self._sizes.pop(path, (0, 0))
        self._bytes -= size
        self._loose -= loose
        self._ready.discard(path)
        self._show()

    async def drain(self, take: Take) -> None:
        """Take in for ever what waits, whenever that works."""
        for look in itertools.count():
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.drain_once(take)
                if look % ADOPT_EVERY == 0:
                    await self.adopt_once(take)
            except StoreUnavailable:
                continue
            except OSError as error:
                log.error("Spool cannot be read", extra={"cause": str(error)})  # noqa: TRY400

    async def drain_once(self, take: Take) -> int:
        """Take in what waits here, in the order of its arrival; how many. Raises StoreUnavailable, OSError."""
        taken = 0
        for path in sorted(self._ready):
            taken += await self._take(path, take)
            if path not in self._locked:
                self._forget(path)
        if taken:
            log.info("Spooled webhooks taken in", extra={"count": taken})
        return taken

    async def adopt_once(self, take: Take) -> int:
        """Take in what processes left behind that are no more; how many. Raises StoreUnavailable, OSError."""
        taken = 0
        for folder in await asyncio.to_thread(_folders, self._root):
            if folder == self._folder or (lock := _try_lock(folder)) is None:
                continue
            try:
                for path in await asyncio.to_thread(_waiting, folder):
                    taken += await self._take(path, take)
            finally:
                os.close(lock)
        if taken:
            log.info("Spooled webhooks of a dead process taken in", extra={"count": taken})
        return taken

    async def _take(self, path: Path, take: Take) -> bool:
        """Take one in; whether it was. One whose tenant's secret cannot be read stays, and holds up no other."""
        if time.monotonic() < self._locked.get(path, 0.0):
            return False
        data = await asyncio.to_thread(path.read_bytes)
        try:
            raw = msgspec.msgpack.decode(data, type=Raw)
        except msgspec.MsgspecError as error:
            log.error("Spooled webhook not readable; set aside", extra={"file": path.name, "cause": str(error)})  # noqa: TRY400
            await asyncio.to_thread(path.rename, path.with_suffix(".unreadable"))
            return False
        try:
            await take(raw)
        except SecretUnreadable as error:
            if path not in self._locked:
                extra = {"file": path.name, "provider": raw.provider, "kind": raw.kind, "cause": error.detail}
                log.error("Spooled webhook waits for its tenant's secret", extra=extra)  # noqa: TRY400
            self._locked[path] = time.monotonic() + TRY_LOCKED
            return False
        self._locked.pop(path, None)
        await asyncio.to_thread(path.unlink, missing_ok=True)
        return True

    def _own(self) -> tuple[Path, int]:
        """The first folder that no living process holds, which may have waiting deliveries, and its lock."""
        for number in range(1000):
            folder = self._root / f"{number:03}"
            folder.mkdir(exist_ok=True, mode=0o700)
            if (lock := _try_lock(folder)) is not None:
                return folder, lock
        raise OSError(f"all folders below {self._root} are taken")

    def _show(self) -> None:
        self._metrics.webhook_spool_deliveries.set(len(self._sizes))
        self._metrics.webhook_spool_bytes.set(self._bytes)
        self._metrics.webhook_spool_usable.set(0 if self.trouble else 1)


def filesystem(path: Path) -> str:
    """The type of the file system that holds a path; empty when it is not known."""
    real = path.resolve()
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[place] for place in (real, *real.parents) if place in mounts), "")


def _write(path: Path, data: bytes) -> None:
    """Write a file such that it is there whole, or not at all, whatever dies."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:  # readable by the owner alone, as its folder is
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _waiting(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.iterdir()) if path.is_dir())


def _cost(path: Path) -> int:
    return max(path.stat().st_size, FILE_COST)


def _try_lock(folder: Path) -> int | None:
    """A lock on a folder that ends with the process; None when another one holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None


@asynccontextmanager
async def open_spool(folder: str, megabytes: int, metrics: Metrics, take: Take) -> AsyncIterator[Spool | None]:
    """A spool that is emptied by `take`; None when no folder is given."""
    if not folder:
        yield None
        return
    spool = Spool(Path(folder), megabytes * 1024 * 1024, metrics)
    await asyncio.to_thread(spool.open)
    try:
        async with running(lambda: spool.drain(take)):
            yield spool
    finally:
        await asyncio.to_thread(spool.close)
