"""A real PostgreSQL and a real Redis as child processes, out of wheels: for `make run` and the tests.

Both listen on loopback under generated passwords, so that plain `psql $DATABASE_URL` and `redis-cli -u $REDIS_URL`
reach them; ports, passwords and data live in one data folder. Not for production, which brings its own servers; only
`__main__` (through `ottoai.dev`) and the tests import this package.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ottoai.embedded.folder import FolderInUse, lock
from ottoai.embedded.postgres import PostgresServer, postgres
from ottoai.embedded.process import EmbeddedServerError
from ottoai.embedded.redis import RedisServer, redis

__all__ = [
    "EmbeddedServerError",
    "FolderInUse",
    "PostgresServer",
    "RedisServer",
    "Servers",
    "discover",
    "lock",
    "postgres",
    "read_env",
    "redis",
    "servers",
]

DEFAULT_DATA_DIR = ".data"


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the two servers answer. `notes` are sentences the person who started them should read."""

    database_url: str
    redis_url: str
    bin_dir: Path
    notes: tuple[str, ...]


@contextmanager
def servers(data_dir: Path, *, durable: bool = True) -> Iterator[Servers]:
    """Both servers, running inside the `with` block. `durable=False` trades safety from power cuts for speed."""
    with postgres(data_dir, durable=durable) as database, redis(data_dir) as store:
        yield Servers(database.url, store.url, database.bin_dir, database.notes + store.notes)


def read_env(data_dir: Path) -> dict[str, str]:
    """The variables in the file that `make run` writes for other terminals; none when there is no such file."""
    try:
        text = (data_dir / "env").read_text()
    except OSError:
        return {}
    pairs = (word.partition("=") for word in shlex.split(text, comments=True) if word != "export")
    return {name: value for name, _, value in pairs if name != "PATH"}  # PATH is there for shells only


def discover(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment, completed by what `make run` left for other terminals. Its own values win."""
    if environ.get("DATABASE_URL") and environ.get("REDIS_URL"):
        return dict(environ)
    given = {name: value for name, value in environ.items() if value}
    return read_env(data_dir_of(environ)) | given


def data_dir_of(environ: Mapping[str, str]) -> Path:
    """The data folder of this clone, as an absolute path."""
    return Path(os.path.abspath(environ.get("DATA_DIR") or DEFAULT_DATA_DIR))  # noqa: PTH100 - keeps symlinks
