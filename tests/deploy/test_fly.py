"""fly.toml, as far as it can be checked without an account: flyctl's own keys, and that the parts fit together."""

import tomllib
from typing import Any, Final

import aiohttp
import pytest

from jobs.__main__ import _parser as jobs_parser
from ottoai.__main__ import parser as ottoai_parser
from ottoai.config import Config
from ottoai.embedded.folder import any_port
from tests.conftest import GENEROUS, SECRET, SECRET_KEY
from tests.deploy.test_proxy import listens
from tests.e2e.conftest import ROOT, TOOLS, process
from tests.helpers import until

FLY: Final = tomllib.loads((ROOT / "fly.toml").read_text())
# What flyctl reads (internal/appconfig/config.go and its neighbours), as far as it is used here. It passes over what it
# does not know without a word.
KEYS: Final[dict[str, set[str]]] = {
    "": {"app", "primary_region", "kill_signal", "kill_timeout", "build", "deploy", "env", "processes", "restart",
         "http_service", "mounts", "metrics", "vm"},
    "build": {"dockerfile"},
    "deploy": {"release_command", "strategy", "max_unavailable"},
    "restart": {"policy", "retries", "processes"},
    "http_service": {"processes", "internal_port", "force_https", "auto_stop_machines", "auto_start_machines",
                     "min_machines_running", "concurrency", "checks"},
    "http_service.concurrency": {"type", "soft_limit", "hard_limit"},
    "http_service.checks": {"method", "path", "interval", "timeout", "grace_period"},
    "mounts": {"processes", "source", "destination", "initial_size"},
    "metrics": {"processes", "port", "path"},
    "vm": {"processes", "size", "memory"},
}  # fmt: skip
SECRETS: Final = {
    "DATABASE_URL": "postgresql://u@h/d", "REDIS_URL": "redis://h", "SECRET_KEYS": SECRET_KEY, "JWT_SECRET": SECRET,
    "OPS_USERS": "op:canary-secret-of-ops:operator", "METRICS_TOKEN": "m",
}  # fmt: skip


def tables(found: Any, name: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every table, with its name."""
    if isinstance(found, list):
        return [each for item in found for each in tables(item, name)]
    if not isinstance(found, dict):
        return []
    below = [each for key, item in found.items() for each in tables(item, f"{name}.{key}".strip("."))]
    return [(name, found), *below]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_flyctl_knows_every_key():
    for name, table in tables(FLY):
        if name not in {"env", "processes"}:
            assert table.keys() <= KEYS[name], name
        for group in table.get("processes", []) if name else []:
            assert group in FLY["processes"], name
    assert all(isinstance(value, str) for value in FLY["env"].values()), "flyctl takes strings only"


@pytest.mark.parametrize("group", FLY["processes"])
def test_each_group_starts_with_what_it_is_given(group: str):
    words = FLY["processes"][group].split()
    own = dict(word.split("=") for word in words[1 : words.index("python")]) if words[0] == "env" else {}
    _, flag, module, *command = words[words.index("python") :]
    assert flag == "-m"
    {"ottoai": ottoai_parser, "jobs": jobs_parser}[module]().parse_args(command)
    config = Config.load({**FLY["env"], **SECRETS, **own})
    assert config.environment == "production"
    assert group == "dashboard" or config.host == "0.0.0.0"


def test_the_release_command_migrates():
    _, _, module, *command = FLY["deploy"]["release_command"].split()
    assert (module, command) == ("ottoai", ["migrate"])


def test_the_parts_fit_together():
    config = Config.load(FLY["env"] | SECRETS)
    service = FLY["http_service"]
    (check,) = service["checks"]
    assert (service["processes"], service["internal_port"]) == (["api"], config.port)
    assert config.drain_seconds >= 2 * seconds(check["interval"]) + seconds(check["timeout"]), "before it is noticed"
    assert seconds(FLY["kill_timeout"]) > 30, "every process ends within"
    assert [(each["port"], each["processes"]) for each in FLY["metrics"]] == [(config.metrics_port, ["api"])]
    assert [each["destination"] for each in FLY["mounts"]] == [config.spool_dir]
    sizes = {group: int(vm["memory"].removesuffix("mb")) for vm in FLY["vm"] for group in vm["processes"]}
    assert sizes.keys() == FLY["processes"].keys()
    assert config.worker_memory_mb < sizes["worker"]


async def test_metrics_have_a_port_of_their_own_for_a_scraper_without_a_token(database_url, redis_url, tmp_path):
    port, private = any_port(), any_port()
    environ = {
        **TOOLS, **GENEROUS, **SECRETS, "ENVIRONMENT": "test", "DATABASE_URL": database_url, "REDIS_URL": redis_url,
        "PORT": str(port), "METRICS_PORT": str(private), "PROBE_SECONDS": "0",
    }  # fmt: skip
    with process(["ottoai", "api"], environ, tmp_path / "api.log"):
        await until(lambda: listens(private), 30)
        async with aiohttp.ClientSession() as session:
            for asked, status in ((port, 401), (private, 200)):
                async with session.get(f"http://127.0.0.1:{asked}/metrics?scope=local") as answer:
                    assert answer.status == status
