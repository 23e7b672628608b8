"""`make run`: everything on one machine, from nothing. Servers, schema, the Procfile's processes, a banner.

The only place that makes an environment a development one. Not used anywhere but on a developer's machine.
"""

import base64
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from ottoai import embedded
from ottoai.config import Config
from ottoai.dev.banner import Greeting, banner
from ottoai.dev.supervisor import Supervisor, read_procfile
from ottoai.embedded.folder import port_is_free, remembered, write_private
from ottoai.errors import OttoError

ROOT = Path(__file__).resolve().parents[2]
# What other terminals need to be told, see `embedded.discover`. PATH comes on top.
SHARED = (
    "DATABASE_URL",
    "REDIS_URL",
    "ENVIRONMENT",
    "HOST",
    "PORT",
    "DASHBOARD_PORT",
    "JWT_SECRET",
    "SECRET_KEYS",
    "JWT_JWKS_URL",
    "JWT_ISSUER",
    "JWT_AUTHORIZED_PARTIES",
    "OPS_USERS",
    "DEV_KEYS",
    "METRICS_TOKEN",
)


class PortTaken(OttoError):
    """A port is taken."""


def run(environ: Mapping[str, str], prepare: Callable[[Config], None]) -> int:
    """Run until Ctrl-C; the exit code. `prepare` brings the database up to date before the processes start."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, from here to the end
    data_dir = embedded.data_dir_of(environ)
    try:
        with ExitStack() as stack:
            stack.enter_context(embedded.lock(data_dir, "run"))
            environ = _complete(environ, data_dir)
            _check(environ)
            environ, notes = _start_servers(environ, data_dir, stack)
            config = Config.load(environ)
            write_private(data_dir / "env", _env_file(environ, data_dir))
            prepare(config)
            _supervise(environ, config, data_dir, notes)
            # From here on only the servers remain, whose stop is bounded: another Ctrl-C must not cut it short.
            _on_signals(signal.SIG_IGN)
    except KeyboardInterrupt:
        pass
    except (OttoError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _complete(environ: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """The environment with a developer's defaults under it. What the user set stays, but for where it listens: to this
    machine only, since development asks nobody who they are.
    """
    given = {name: value for name, value in environ.items() if value}
    for name, server in (("DATABASE_URL", "postgres"), ("REDIS_URL", "redis")):
        # After `. .data/env` the user's environment names our own servers; that must not look like foreign ones.
        if name in given and remembered(data_dir, f"{server}.password") in given[name]:
            del given[name]
    port = given.get("PORT", "8080")
    defaults = {
        "ENVIRONMENT": "development",
        "PORT": port,
        "DASHBOARD_PORT": str(int(port) + 1) if port.isdecimal() else "8081",
        "JWT_SECRET": remembered(data_dir, "jwt.secret"),
        "SECRET_KEYS": remembered(data_dir, "secret.keys", _secret_key),
        "SPOOL_DIR": str(data_dir / "spool"),
        "OPS_USERS": f"operator:{_ops_password(data_dir)}:operator",
    }
    fixed = {
        "DATA_DIR": str(data_dir),
        "HOST": "127.0.0.1",
        "TZ": "UTC",
        "PYTHONUNBUFFERED": "1",
        # `python` in the Procfile is this one.
        "PATH": f"{Path(sys.executable).parent}:{given.get('PATH', os.defpath)}",
    }
    return defaults | given | fixed


def _ops_password(data_dir: Path) -> str:
    return remembered(data_dir, "ops.password", lambda: secrets.token_urlsafe(12))  # short enough to type


def _secret_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _check(environ: Mapping[str, str]) -> None:
    """Refuse a bad configuration or a taken port before anything is started."""
    config = Config.load({"DATABASE_URL": "postgresql:", "REDIS_URL": "redis:"} | dict(environ))
    for name, port in (("PORT", config.port), ("DASHBOARD_PORT", config.dashboard_port)):
        if not port_is_free(port, config.host):
            raise PortTaken(
                f"Port {port} on {config.host} is taken by another program. Choose another one: "
                f"make run {name}={port + 10}"
            )


def _start_servers(environ: dict[str, str], data_dir: Path, stack: ExitStack) -> tuple[dict[str, str], tuple[str, ...]]:
    """Start the servers that the environment does not name; name them in it."""
    notes: tuple[str, ...] = ()
    if "DATABASE_URL" not in environ:
        database = stack.enter_context(embedded.postgres(data_dir))
        environ, notes = environ | {"DATABASE_URL": database.url}, notes + database.notes
    if "REDIS_URL" not in environ:
        store = stack.enter_context(embedded.redis(data_dir))
        environ, notes = environ | {"REDIS_URL": store.url}, notes + store.notes
    return environ, notes


def _env_file(environ: Mapping[str, str], data_dir: Path) -> str:
    lines = [f"export {name}={shlex.quote(environ[name])}" for name in SHARED if name in environ]
    path = f'export PATH={shlex.quote(str(data_dir / "bin"))}:"$PATH"'
    return "\n".join(["# Written by `make run` at every start, for other terminals.", *lines, path, ""])


def _supervise(environ: Mapping[str, str], config: Config, data_dir: Path, notes: tuple[str, ...]) -> None:
    password = _ops_password(data_dir)
    users = f"operator / {password}" if password in environ["OPS_USERS"] else "as in your OPS_USERS"
    greeting = Greeting(config, banner(config, data_dir, users, notes))
    commands = read_procfile(ROOT / "Procfile")
    supervisor = Supervisor(commands, cwd=ROOT, environ=environ, colour=sys.stdout.isatty(), on_tick=greeting.tick)
    sys.stdout.flush()  # what was printed so far comes before what the processes say
    _on_signals(lambda *_: supervisor.request_stop())
    supervisor.run()


def _on_signals(handler: "Callable[..., object] | signal.Handlers") -> None:
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, handler)
