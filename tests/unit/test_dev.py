"""`make run`'s supervisor, with processes that do nothing but live and die; and the environment it composes."""

import io
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ottoai import dev
from ottoai.dev.supervisor import Supervisor, read_procfile
from ottoai.embedded import read_env
from ottoai.embedded.folder import remembered

ENVIRON = {"PATH": os.environ["PATH"]}


def python(code: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


SLEEPER = python("import time; print('up', flush=True); time.sleep(60)")
STUBBORN = python("import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
# Drains until there is a file named `go`.
DRAINING = python(
    "import os, signal, sys, time\n"
    "def drain(*_):\n"
    "    print('draining', flush=True)\n"
    "    while not os.path.exists('go'): time.sleep(0.02)\n"
    "    print('drained', flush=True)\n"
    "    sys.exit()\n"
    "signal.signal(15, drain)\nprint('up', flush=True)\ntime.sleep(60)"
)


@contextmanager
def supervised(commands: Mapping[str, str], tmp_path: Path) -> Iterator[tuple[Supervisor, io.BytesIO]]:
    out = io.BytesIO()
    one = Supervisor(commands, cwd=tmp_path, environ=ENVIRON, out=out)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield one, out
    finally:
        one.request_stop()
        thread.join(5)
        one.request_stop()
        thread.join(5)
        assert not thread.is_alive()


def eventually(condition: Callable[[], bool], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_procfile_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("# comment\napi: python -m ottoai api\nbeat: python -m jobs beat\n")
    assert list(read_procfile(tmp_path / "Procfile").items()) == [
        ("api", "python -m ottoai api"),
        ("beat", "python -m jobs beat"),
    ]


def test_lines_pass_unaltered_behind_the_name(tmp_path: Path) -> None:
    with supervised({"api": python("print('{\"a\": \"\\u00e4|\"}'); print('no newline', end='')")}, tmp_path) as (
        _,
        out,
    ):
        eventually(lambda: b"no newline\n" in out.getvalue())
    assert 'api  | {"a": "ä|"}\n'.encode() in out.getvalue()


@pytest.mark.parametrize("code", [3, 0])  # 0: a worker that has grown too large
def test_one_that_ended_is_started_again_and_said_so(tmp_path: Path, code: int) -> None:
    with supervised({"api": SLEEPER, "beat": python(f"raise SystemExit({code})")}, tmp_path) as (_, out):
        eventually(lambda: out.getvalue().count(f"beat ended with code {code}".encode()) >= 2)
    said = out.getvalue().decode()
    assert "starting it again in 0.5 s" in said
    own = [json.loads(line.partition(" | ")[2]) for line in said.splitlines() if line.startswith("otto ")]
    assert {(line["level"], line["service"]) for line in own} == {("WARNING", "otto")}
    assert "starting it again in 1 s" in said
    assert said.count("api  | up") == 1


def test_all_are_stopped_in_parallel(tmp_path: Path) -> None:
    with supervised(dict.fromkeys(("one", "two", "three"), DRAINING), tmp_path) as (one, out):
        eventually(lambda: out.getvalue().count(b"up") == 3)
        one.request_stop()
        eventually(lambda: out.getvalue().count(b"draining") == 3)
        assert b"drained" not in out.getvalue()
        (tmp_path / "go").touch()
        eventually(lambda: out.getvalue().count(b"drained") == 3)


def test_a_second_request_kills_at_once(tmp_path: Path) -> None:
    with supervised({"one": STUBBORN}, tmp_path) as (one, out):
        eventually(lambda: b"up" in out.getvalue())
        one.request_stop()
        time.sleep(0.3)
        [child] = one._children
        assert child.running is not None
        assert child.running.poll() is None
        one.request_stop()
        eventually(lambda: child.running is not None and child.running.poll() is not None)


def test_the_users_environment_wins(tmp_path: Path) -> None:
    composed = dev._complete({"PORT": "9000", "JWT_SECRET": "mine", "DATABASE_URL": "postgresql://x/y"}, tmp_path)
    assert composed["ENVIRONMENT"] == "development"
    assert composed["DASHBOARD_PORT"] == "9001"
    assert composed["JWT_SECRET"] == "mine"
    assert composed["DATABASE_URL"] == "postgresql://x/y"
    assert composed["PATH"].startswith(str(Path(sys.executable).parent))


@pytest.mark.parametrize("environ", [{}, {"HOST": "0.0.0.0"}, {"HOST": "laptop"}])
def test_only_this_machine_is_listened_to(environ: dict[str, str], tmp_path: Path) -> None:
    """Whatever HOST the user's shell exports: tcsh does, as the machine's name."""
    assert dev._complete(environ, tmp_path)["HOST"] == "127.0.0.1"


def test_our_own_servers_are_not_taken_for_foreign_ones(tmp_path: Path) -> None:
    """As after `. .data/env`, when `make run` is called from that same shell."""
    ours = f"postgresql://ottoai:{remembered(tmp_path, 'postgres.password')}@127.0.0.1:1/ottoai"
    assert "DATABASE_URL" not in dev._complete({"DATABASE_URL": ours}, tmp_path)


def test_generated_secrets_are_kept_between_runs(tmp_path: Path) -> None:
    first, second = dev._complete({}, tmp_path), dev._complete({}, tmp_path)
    assert first["JWT_SECRET"] == second["JWT_SECRET"]
    assert first["OPS_USERS"] == second["OPS_USERS"]


def test_the_env_file_is_read_back(tmp_path: Path) -> None:
    values = {"DATABASE_URL": "postgresql://a:b@c/d", "JWT_SECRET": 'it\'s $HOME; a "test"'}
    (tmp_path / "env").write_text(dev._env_file(values, tmp_path))
    assert read_env(tmp_path) == values


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {"DATA_DIR": str(tmp_path), "PORT": str(port), "DASHBOARD_PORT": "1"}
        before = signal.getsignal(signal.SIGTERM)
        try:
            assert dev.run(environ, lambda _: None) == 1
        finally:
            signal.signal(signal.SIGTERM, before)
    assert f"Port {port} on 127.0.0.1 is taken" in capsys.readouterr().err
    assert not (tmp_path / "postgres").exists()
