"""Thousands of sockets in a process of their own, in one epoll loop: cheap enough that the load hardly measures itself.

`Pool` is that process; `crowd` starts it and hands out an `ask`, by which its methods are called from the benchmark.
"""

import asyncio
import multiprocessing
import select
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any

from scripts.bench.client import Client

BUFFER = 1024 * 1024
IN_FLIGHT = 100  # connections being opened at once: less than any server's backlog
STARTUP = 60.0

Ask = Callable[..., Any]


class Pool:
    """The process of the sockets. What the benchmark asks for are its methods."""

    def __init__(self) -> None:
        self.buffer = bytearray(BUFFER)
        self.view = memoryview(self.buffer)
        self.poller = select.epoll()
        self.clients: dict[int, Client] = {}

    def add(self, client: Client) -> None:
        """Read this socket whenever something came."""
        self.clients[client.fd] = client
        self.poller.register(client.fd, select.EPOLLIN)

    def remove(self, client: Client) -> None:
        """Read it no longer."""
        if self.clients.pop(client.fd, None) is not None:
            self.poller.unregister(client.fd)

    def poll(self, seconds: float) -> None:
        """One turn."""
        clients = self.clients
        for fd, _ in self.poller.poll(seconds):
            client = clients.get(fd)
            if client is not None:
                client.ready()

    def until(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Turn until this is so; whether it came to be."""
        deadline = time.monotonic() + seconds
        looked = 0.0
        while (now := time.monotonic()) < deadline:
            if now - looked > 0.02:
                if reached():
                    return True
                looked = now
            self.poll(0.01)
        return reached()

    def open_all(self, clients: Sequence[Client], open_one: Callable[[Any], None], seconds: float = 60.0) -> None:
        """Connect one batch after the other, until all have joined. Raises ConnectionError."""
        for first in range(0, len(clients), IN_FLIGHT):
            batch = clients[first : first + IN_FLIGHT]
            for client in batch:
                open_one(client)
            self.until(lambda batch=batch: all(one.joined or one.failed for one in batch), seconds)  # type: ignore[misc]
            if missing := [one for one in batch if not one.joined]:
                raise ConnectionError(
                    f"{len(missing)} of {len(batch)} did not join: {missing[0].failed or 'no answer'}"
                )

    def cpu(self) -> float:
        """Processor time of this process."""
        return time.process_time()

    def serve(self, control: Connection) -> None:
        """Do what is asked, and read meanwhile, until the other end goes."""
        self.poller.register(control.fileno(), select.EPOLLIN)
        while True:
            self.poll(1.0)
            while control.poll():
                try:
                    name, words = control.recv()
                except EOFError:
                    return
                try:
                    answer = getattr(self, name)(**words)
                except Exception as error:  # noqa: BLE001 - the benchmark is told
                    answer = error
                control.send(answer)


def _main(kind: type[Pool], control: Connection) -> None:
    kind().serve(control)


@asynccontextmanager
async def crowd(kind: type[Pool]) -> AsyncIterator[Ask]:
    """A process with such a pool. `await ask("method", …)` calls it there."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(kind, theirs), daemon=True)
    process.start()
    theirs.close()

    async def ask(name: str, **words: Any) -> Any:
        ours.send((name, words))
        answer = await asyncio.to_thread(ours.recv)
        if isinstance(answer, Exception):
            raise answer
        return answer

    try:
        yield ask
    finally:
        ours.close()
        process.join(STARTUP)
