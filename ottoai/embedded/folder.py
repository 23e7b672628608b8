"""The data folder of the embedded servers: one user at a time, generated values kept, ports remembered.

Not about processes; those are in process.py.
"""

import fcntl
import os
import random
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ottoai.errors import Conflict, OttoError

# Below the range that the kernel hands out to outgoing connections (from 32768): in that range a client that
# retries a stopped server can be given the server's own port as its source, connect to itself and keep it taken.
PORTS = range(20000, 32000)
PORT_TRIES = 50


class FolderInUse(Conflict):
    """The data folder is in use."""


def make_folder(path: Path) -> Path:
    """Make a folder that only its owner can look into."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def lock(data_dir: Path, name: str) -> Iterator[None]:
    """Hold `name` of the folder. The kernel lets go of it with the process, whatever way that ends."""
    with (make_folder(data_dir) / f"{name}.lock").open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            holder = held.read().strip() or "unknown"
            raise FolderInUse(
                f"{data_dir} is in use by another process (pid {holder}). Stop that one, or choose a folder of your "
                "own with DATA_DIR."
            ) from None
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def remembered(data_dir: Path, name: str, make: Callable[[], str] = lambda: secrets.token_hex(32)) -> str:
    """The value kept under `name`; made and kept at the first call. Only the owner can read it."""
    path = make_folder(data_dir / "secrets") / name
    if path.exists():
        return path.read_text().strip()
    value = make()
    remember(data_dir, name, value)
    return value


def remember(data_dir: Path, name: str, value: str) -> None:
    """Keep `value` under `name`."""
    write_private(make_folder(data_dir / "secrets") / name, value + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    draft.replace(path)


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not count
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def remembered_port(data_dir: Path, name: str) -> int:
    """The port this server had last time; another one, remembered from now on, when that is taken."""
    port = int(remembered(data_dir, name, lambda: "0"))
    if port and port_is_free(port):
        return port
    port = any_port()
    remember(data_dir, name, str(port))
    return port


def any_port() -> int:
    """A port that nobody listens on, and that no outgoing connection is given meanwhile. Raises OttoError."""
    for _ in range(PORT_TRIES):
        port = random.SystemRandom().choice(PORTS)  # whoever seeded `random` alike would be given the same
        if port_is_free(port):
            return port
    raise OttoError(f"No free port was found between {PORTS.start} and {PORTS.stop}.")


def link_program(data_dir: Path, program: Path, name: str) -> None:
    """Offer a program in `data_dir/bin`, which users put on their PATH."""
    link = make_folder(data_dir / "bin") / name
    if not link.is_symlink() or link.readlink() != program:
        link.unlink(missing_ok=True)
        link.symlink_to(program)
