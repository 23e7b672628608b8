"""compose.yaml, without a Docker engine: what of it can be checked by reading, and by the programs that it starts."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from ottoai.config import Config
from ottoai.migrate import migrate
from tests import promtool
from tests.conftest import SECRET_KEY, execute, on_database
from tests.deploy.behind import CONFIG, PLACES
from tests.e2e.conftest import ROOT, TOOLS
from tests.e2e.test_backup import server

TEXT = (ROOT / "compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
OURS = ("api-1", "api-2", "api-3", "migrate", "worker", "beat", "dashboard")
EXAMPLE = (ROOT / "deploy" / "env.example").read_text()
FILE = dict(line.split("=", 1) for line in EXAMPLE.splitlines() if line and line[0] != "#")
FILLED = {
    "PUBLIC_URL": "https://api.example.com", "DATABASE_PASSWORD": "canary-secret-of-a-database", "REDIS_PASSWORD": "r",
    "SECRET_KEYS": SECRET_KEY, "JWT_SECRET": "canary-secret-that-signs-the-tokens-here", "METRICS_TOKEN": "m",
    "OPS_USERS": "op:canary-secret-of-ops:operator",
}  # fmt: skip


def interpolated(text: str, environ: dict[str, str]) -> str:
    """What Compose makes of ${NAME}, ${NAME-default}, ${NAME:-default} and ${NAME:?message}."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match[1], match[2] or "", match[3] or ""
        given = environ.get(name)
        if given or (given is not None and operator != ":-" and operator != ":?"):
            return given
        assert operator in {"-", ":-"}, f"{name}: {word}"
        return word

    return re.sub(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}", value, text)


def environment(name: str) -> dict[str, str]:
    """What a service's process finds in its environment: the image's, .env, and what compose.yaml says."""
    image = dict(re.findall(r"^(?:ENV |    )([A-Z]+)=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    said = yaml.safe_load(interpolated(TEXT, FILE | FILLED))["services"][name]["environment"]
    return {**image, **FILE, **FILLED, **said}


@pytest.mark.parametrize("name", OURS)
def test_each_process_gets_settings_that_it_can_start_with(name):
    config = Config.load(environment(name))
    assert config.environment == "production"
    assert config.metrics_token
    if name.startswith("api"):
        front = yaml.safe_load(interpolated(TEXT, FILE | FILLED))["networks"]["front"]
        assert [str(network) for network in config.trusted_proxies] == [front["ipam"]["config"][0]["subnet"]]
        assert config.spool_dir == "/spool"
        assert config.drain_seconds > 1.5
    if name == "worker":
        assert config.worker_memory_mb < int(SERVICES[name]["mem_limit"].removesuffix("m"))


@pytest.mark.parametrize("name", [name for name in FILLED if name not in {"SECRET_KEYS", "JWT_SECRET"}])
def test_nothing_starts_while_a_secret_is_missing(name):
    with pytest.raises(AssertionError, match=f"{name}: see deploy/env.example"):
        interpolated(TEXT, FILE | {**FILLED, name: ""})


def test_the_world_reaches_the_proxy_and_nothing_else():
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert ports.pop("proxy") == ["80:80", "443:443"]
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    assert all(SERVICES[name]["networks"] == ["stores"] for name in ("postgres", "redis"))
    assert "stores" not in SERVICES["proxy"]["networks"]


def test_everything_is_bounded_watched_and_started_again():
    for name, service in SERVICES.items():
        once = name == "migrate"
        assert service["restart"] == ("no" if once else "unless-stopped"), name
        assert once or service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
    for name in OURS:
        assert SERVICES[name]["stop_grace_period"] == "35s"
        assert SERVICES[name]["read_only"]
    assert all("test" not in SERVICES[name]["healthcheck"] for name in PLACES), "the Dockerfile's"
    asked = {"api-1": "migrate", "worker": "migrate"}
    for name, before in asked.items():
        assert SERVICES[name]["depends_on"][before] == {"condition": "service_completed_successfully"}


def test_the_proxy_is_given_what_its_file_asks_for():
    asked = set(re.findall(r"\$\{(\w+)\}", CONFIG.read_text()))
    assert asked == set(SERVICES["proxy"]["environment"])
    for place in PLACES:
        assert SERVICES["proxy"]["environment"][place.upper().replace("-", "_")] == f"{place}:8080"
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert all((ROOT / path).exists() for path in mounted if path.startswith("."))


def test_the_login_that_the_database_is_made_with_migrates_and_is_no_superuser(tmp_path):
    """deploy/login.sql, run as PostgreSQL's image does."""
    with server(tmp_path / "new") as (running, admin_url):
        admin = on_database(admin_url, "postgres")
        execute(admin, "alter role postgres password 'as-the-image-gives-it'")
        execute(admin, "alter database ottoai rename to was")
        execute(admin, "alter role ottoai rename to was")
        password = FILLED["DATABASE_PASSWORD"]
        words = ["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file=deploy/login.sql", admin]
        done = subprocess.run(
            [running.bin_dir / "psql", *words], cwd=ROOT, env={**TOOLS, "DATABASE_PASSWORD": password},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        url = environment("api-1")["DATABASE_URL"].replace("postgres:5432", f"127.0.0.1:{urlsplit(admin).port}")
        assert password in url
        assert migrate(url)
        assert execute(url, "select rolsuper, rolbypassrls from pg_roles where rolname = current_user") == [
            (False, False)
        ]
        assert execute(admin, "select rolpassword from pg_authid where rolname = 'postgres'") == [(None,)]


@promtool.needs_promtool
def test_prometheus_takes_its_file():
    done = promtool.run("check", "config", "--syntax-only", ROOT / "deploy" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


DOCKER = """#!/bin/sh
echo "$@" >> "$ASKED"
case "$*" in *"$FAILS"*) exit 1;; esac
"""
UP = "compose up --detach --no-deps"
TURNS = [f"{UP} --wait api-1", f"{UP} --wait api-2", f"{UP} --wait api-3", f"{UP} worker beat dashboard", "compose ps"]


def upgrade(folder: Path, *words: str, fails: str = "nothing") -> tuple[int, list[str]]:
    """deploy/upgrade.sh, and what it asks Docker for."""
    docker, asked = folder / "docker", folder / "asked"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    env = {**TOOLS, "PATH": f"{folder}:{TOOLS['PATH']}", "ASKED": str(asked), "FAILS": fails}
    done = subprocess.run([ROOT / "deploy" / "upgrade.sh", *words], env=env, capture_output=True, check=False)
    return done.returncode, asked.read_text().splitlines()


def test_an_upgrade_migrates_first_and_then_replaces_one_after_the_other(tmp_path):
    code, (build, tag, *rest) = upgrade(tmp_path)
    assert (code, build, tag[:18]) == (0, "compose build migrate", "tag ottoai ottoai:")
    assert rest == ["compose run --rm migrate", *TURNS]


def test_an_upgrade_stops_at_the_first_process_that_does_not_become_healthy(tmp_path):
    code, asked = upgrade(tmp_path, fails="api-2")
    assert code == 1
    assert asked[-1] == f"{UP} --wait api-2"


def test_a_version_that_was_here_is_gone_back_to_without_building(tmp_path):
    code, asked = upgrade(tmp_path, "0123abc")
    assert (code, asked[0]) == (0, "tag ottoai:0123abc ottoai")
    assert asked[1:] == ["compose run --rm migrate", *TURNS]
