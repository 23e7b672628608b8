"""Every command of docs/DEPLOYMENT.md: run as it stands there, or read as its program would, or the reason why not.

Nothing is left out in silence: a command that is not known here fails.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import yaml

from ottoai.migrate import migrate
from tests.conftest import SECRET, SECRET_KEY, execute
from tests.deploy.behind import PLACES, needs_haproxy
from tests.e2e import flyctl
from tests.e2e.commands_of_docs import commands
from tests.e2e.conftest import ROOT, TOOLS
from tests.e2e.test_backup import seen, server, terminal
from tests.e2e.test_outage import add_demo

DOC: Final = ROOT / "docs" / "DEPLOYMENT.md"
LINES: Final = list(dict.fromkeys(line for command in commands(DOC) for line in command.splitlines()))
SERVICES: Final = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]

# What docker takes, as far as it is used here (https://docs.docker.com/reference/cli/docker/): the flags (true: with a
# value), and how many services follow; None: any number.
DOCKER: Final[dict[str, tuple[dict[str, bool], int | None]]] = {
    "compose build": ({"--pull": False}, None),
    "compose up": ({"--detach": False, "--wait": False, "--no-deps": False}, None),
    "compose kill": ({"--signal": True}, None),
    "compose exec": ({"-T": False}, 1),  # and what runs there
    "compose run": ({"--rm": False}, 1),
    "compose ps": ({}, None),
}
SHOWN: Final = {  # run in a shell, and what they show
    "openssl rand 32 | base64 | tr +/ -_": r"^[\w-]{43}=$",
    "openssl rand -hex 32": r"^[0-9a-f]{64}$",
    "cp deploy/env.example .env && chmod 600 .env": r"^$",
}
ELSEWHERE: Final = {
    "git clone $REPOSITORY ottoai && cd ottoai": "the checkout is there",
    "git pull": "likewise",
    "certbot certonly --standalone --domain $DOMAIN": "a public name and a certificate authority",
    "install --owner=99 --mode=400 /dev/null deploy/certificates/site.pem": "root, and the container's user",
    "cat /etc/letsencrypt/live/$DOMAIN/fullchain.pem /etc/letsencrypt/live/$DOMAIN/privkey.pem "
    "> deploy/certificates/site.pem": "what certbot wrote; test_proxy gives HAProxy such a file",
    "curl -s https://$DOMAIN/ready": "a public name; the same with another address in test_operations_doc",
    "deploy/upgrade.sh": "a Docker engine; test_compose runs it with what it asks Docker for written down",
    "deploy/upgrade.sh $OLD": "likewise",
    "docker image ls ottoai": "a Docker engine",
    "ssh -N -L 8081:127.0.0.1:8081 -L 9090:127.0.0.1:9090 $DOMAIN": "a server",
    "python3 -m venv .venv": "make does the same, from both locks; test_image says what the image's alone has",
    ".venv/bin/pip install --require-hashes -r requirements-build.lock": "likewise",
    ".venv/bin/pip install --require-hashes --no-build-isolation -r requirements.lock": "likewise",
    "cp deploy/systemd/*.service /etc/systemd/system/": "a machine of its own; the units are verified below",
    "systemctl daemon-reload": "likewise",
    "deploy/systemd/ottoai migrate": "a machine that systemd runs; what it asks of systemd-run is done below",
    "systemctl enable --now ottoai-api@8001 ottoai-api@8002 ottoai-api@8003 ottoai-jobs@worker ottoai-jobs@beat "
    "ottoai-jobs@dashboard": "likewise",
    "systemctl restart ottoai-jobs@worker ottoai-jobs@beat ottoai-jobs@dashboard": "likewise",
    "for port in 8001 8002 8003; do": "likewise; test_rolling replaces three behind HAProxy",
    "systemctl restart ottoai-api@$port": "likewise",
    "until curl -fs http://127.0.0.1:$port/health; do sleep 1; done": "likewise",
    "sleep 3": "likewise",
    "done": "likewise",
    "python -m ottoai api": "test_rolling",
    "python -m jobs worker": "test_operations_doc, with one queue",
    "python -m jobs beat": "tests/integration/test_beat.py",
    "python -m jobs dashboard": "test_private",
    "python -m ottoai migrate": "test_a_backup_of_the_server_is_restored, test_migrating",
}
COPIES: Final = {"dump": "pg_dump", "restore": "pg_restore"}


def shell(script: str, environ: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f"set -eo pipefail\n{script}"]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def copies(word: str) -> str:
    return next(line for line in LINES if f" {COPIES[word]} " in line)


def docker_problem(line: str) -> str:
    """What docker would say against a line; "" when it takes it."""
    program, *words = shlex.split(line.split(" < ", maxsplit=1)[0].split(" > ", maxsplit=1)[0])
    if words[:1] == ["compose"] and words[1:2] == ["--profile"]:
        if words[2] not in {profile for each in SERVICES.values() for profile in each.get("profiles", [])}:
            return f"no such profile: {words[2]}"
        del words[1:3]
    name = " ".join(words[:2])
    if program != "docker" or name not in DOCKER:
        return f"no usage is written down for: {line}"
    flags, most = DOCKER[name]
    rest = words[2:]
    while rest and rest[0].startswith("-"):
        flag, equals, _ = rest.pop(0).partition("=")
        if flag not in flags or flags[flag] != bool(equals):
            return f"unknown flag: {flag}"
    unknown = [word for word in rest[:most] if word not in SERVICES]
    return f"no such service: {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("line", LINES)
def test_command(line: str, tmp_path: Path):
    if line.startswith("fly "):
        assert flyctl.problem(line.replace("…", "x")) == ""
    elif line.startswith("docker compose "):
        assert docker_problem(line) == ""
    elif line in SHOWN:
        shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
        done = shell(line, TOOLS, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(SHOWN[line], done.stdout)
    elif line != "haproxy -c -f deploy/haproxy.cfg":
        assert ELSEWHERE.get(line), f"an unknown command: {line}"


def test_what_is_said_here_stands_in_the_document():
    assert {*SHOWN, *ELSEWHERE} - set(LINES) == set()


@pytest.mark.parametrize(
    "line", ["docker compose up --detached", "docker compose up api-4", "docker compose --profile x up", "docker ps"]
)
def test_docker_is_known_well_enough_to_refuse(line: str):
    assert docker_problem(line)


@needs_haproxy
def test_haproxy_takes_its_file():
    assert "haproxy -c -f deploy/haproxy.cfg" in LINES
    environ = {**TOOLS, "PATH": f"{TOOLS['PATH']}:/usr/sbin", "HTTP": ":8000"}
    environ |= {place.upper().replace("-", "_"): f"127.0.0.1:{8001 + n}" for n, place in enumerate(PLACES)}
    done = shell(
        "haproxy -c -f deploy/haproxy.cfg",
        {**TOOLS, **environ, "HTTP": ":8000", "PATH": f"{TOOLS['PATH']}:/usr/sbin"},
        ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_a_backup_of_the_server_is_restored(tmp_path: Path, redis_url: str):
    """What runs in PostgreSQL's container runs beside a PostgreSQL here."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1 $2 $3 $4" = "compose exec -T postgres" ] && shift 4 && exec "$@"\n')
    docker.chmod(0o755)

    def run(line: str, admin: str, tools: Path) -> None:
        path = f"{tmp_path}:{tools}:{TOOLS['PATH']}"
        port = str(urlsplit(admin).port)
        done = shell(line, {**TOOLS, "PATH": path, "PGHOST": "127.0.0.1", "PGPORT": port}, tmp_path)
        assert done.returncode == 0, done.stderr

    with server(tmp_path / "before") as (running, admin):
        migrate(running.url)
        add_demo(terminal(running.url, admin, redis_url, running.bin_dir))
        run(copies("dump"), admin, running.bin_dir)
        before = seen(running.url)
    with server(tmp_path / "after") as (running, admin):
        migrate(running.url)
        run(copies("restore"), admin, running.bin_dir)
        assert seen(running.url) == before
        assert execute(running.url, "select id from tenants") == [("demo",)]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="NOT TESTED: systemd-analyze is not there")
def test_systemd_takes_the_units(tmp_path: Path):
    (tmp_path / "python").symlink_to(sys.executable)
    for name, instance in (("ottoai-api@", "8001"), ("ottoai-jobs@", "worker")):
        text = (ROOT / "deploy" / "systemd" / f"{name}.service").read_text()
        unit = tmp_path / f"{name}{instance}.service"
        unit.write_text(text.replace("/opt/ottoai/.venv/bin/python", str(tmp_path / "python")))
        done = shell(f"systemd-analyze verify --man=no {unit}", TOOLS, tmp_path)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


# As systemd-run does it: the file is systemd's, no shell's (systemd.exec(5), EnvironmentFile=).
SYSTEMD_RUN = """#!{python}
import os, sys
options = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
kind, _, path = options["property"].partition("=")
assert (kind, options["uid"]) == ("EnvironmentFile", "ottoai")
given = dict(line.rstrip("\\n").partition("=")[::2] for line in open(path))
os.chdir(options["working-directory"])
command = sys.argv[1 + len(options):]
os.execve(command[0], command, given)
"""


def steps(first: str) -> list[str]:
    """The lines of a block that begins so."""
    return next(each.splitlines() for each in commands(DOC) if each.startswith(first))


def test_with_systemd_too_the_schema_is_there_before_any_process():
    for first, begins in (("python3 -m venv", "systemctl enable --now"), ("deploy/systemd/ottoai", "for port in")):
        lines = steps(first)
        begun = next(number for number, line in enumerate(lines) if line.startswith(begins))
        assert "deploy/systemd/ottoai migrate" in lines[:begun]


def test_a_command_has_the_settings_that_the_units_have(tmp_path: Path, redis_url: str):
    """Whatever stands in them."""
    text = (ROOT / "deploy" / "systemd" / "ottoai").read_text()
    for unit in (ROOT / "deploy" / "systemd").glob("*.service"):
        words = dict(line.partition("=")[::2] for line in unit.read_text().splitlines())
        for meant in (
            f"--uid={words['User']} ",
            f"--working-directory={words['WorkingDirectory']} ",
            f"--property=EnvironmentFile={words['EnvironmentFile']} ",
            f"{words['ExecStart'].split()[0]} -m ottoai",
        ):
            assert meant in text, unit
    with server(tmp_path / "server") as (running, _):
        settings = {
            "ENVIRONMENT": "production", "DATABASE_URL": running.url, "REDIS_URL": redis_url, "JWT_SECRET": SECRET,
            "SECRET_KEYS": SECRET_KEY, "BUSINESS_HOURS": "Mon-Fri 09:00-17:00", "PATH": TOOLS["PATH"],
            "OPS_USERS": "op:pass$HOME&word:operator",
        }  # fmt: skip
        file, program, asked = tmp_path / "env", tmp_path / "systemd-run", tmp_path / "ottoai"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        program.write_text(SYSTEMD_RUN.format(python=sys.executable))
        program.chmod(0o755)
        for there, here in (
            ("/etc/ottoai.env", file), ("/opt/ottoai/.venv/bin/python", sys.executable), ("/opt/ottoai", ROOT),
        ):  # fmt: skip
            text = text.replace(there, str(here))
        asked.write_text(text)
        environ = {"PATH": f"{tmp_path}:{TOOLS['PATH']}"}
        done = shell(f"sh {asked} migrate && sh {asked} config", environ, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "BUSINESS_HOURS=Mon-Fri 09:00-17:00" in done.stdout
        assert execute(running.url, "select 1 from pg_roles where rolname = 'ottoai_app'") == [(1,)]


@pytest.mark.skipif(not shutil.which("systemd-run"), reason="NOT TESTED: systemd-run is not there")
def test_systemd_run_takes_its_options(tmp_path: Path):
    text = (ROOT / "deploy" / "systemd" / "ottoai").read_text()
    done = shell(text.replace(" /opt/ottoai/.venv", " --version /opt/ottoai/.venv"), TOOLS, tmp_path)
    assert (done.returncode, done.stderr, done.stdout[:8]) == (0, "", "systemd ")
