"""Every command of README.md, typed as it stands there, against the product as `make run` starts it."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from tests.e2e.commands_of_docs import blocks, lines
from tests.e2e.conftest import ROOT, Product

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in blocks(README) for line in lines(block)]

# What each must show, by how it begins.
SEEN = {
    "curl $BASE/ready": r'"ready":true',
    "curl -X POST $BASE/call-rail/pre-call": r'"status":"(processed|duplicate_ignored)","provider":"callrail"',
    ".venv/bin/python -m ottoai send-webhook call-complete": r'200 .*"status":"processed"',
    'curl -H "Authorization: Bearer $TOKEN" "$BASE/api/calls?limit=1"': r'"items":\[\{"id"',
    'curl -H "Authorization: Bearer $TOKEN" "$BASE/api/missed-calls?limit=1"': r'"items":\[\{"id"',
    "curl -X POST $BASE/call-rail/call-complete": r'"status":"quarantined".*duration',
    'curl -u "$OPS" $BASE/ops.txt': r"FIRING webhook_quarantined.warning",
    "psql $DATABASE_URL": r"callrail +\| +\d",
    "redis-cli -u $REDIS_URL ping": r"PONG",
    "make smoke:realtime": r" [1-9]\d* ok, 0 failed",
    "make metrics:snapshot": r"PostgreSQL reachable +yes +yes +ok",
}
# Those that go on until they are ended, which is once they have shown this.
UNTIL = (".venv/bin/python -m ottoai tail", 'curl -N -H "Authorization: Bearer $TOKEN"')
JOINED = '"success": ?true|subscribe_result'
# Those that set the terminal up for all others.
SET_UP = (". .data/env", "export BASE=")
# Those that are not run here, and why.
ELSEWHERE = {
    "make run": "it is what the product under all of these was started as",
    "make demo": "tests/e2e/test_demo.py",
    "make test ARGS=tests/unit": "they are a part of this run",
    "make test": "it is this run",
    "make lint": "CI runs it beside the tests",
}
AGAIN = 15.0  # seconds for the watch to have looked


@pytest.fixture(autouse=True)
def tools() -> None:
    if missing := [tool for tool in ("bash", "curl", "jq") if not shutil.which(tool)]:
        pytest.skip(f"NOT TESTED: the commands need {' and '.join(missing)}; install them")


def typed(product: Product, line: str) -> subprocess.CompletedProcess[str]:
    """What stands there, in a terminal that was set up as it says, with this product's data folder for `.data`."""
    set_up = "\n".join(each for each in COMMANDS if each.startswith(SET_UP)).replace(".data/env", '"$DATA_DIR/env"')
    script = f"set -eo pipefail\n{set_up}\n{line}".replace(".venv/bin/python", sys.executable)
    return product.run("bash", "-c", script, timeout=100)


def begins(line: str, known: Iterable[str]) -> str:
    """Which of those that are known this line is; "" for none."""
    return max((each for each in known if line.startswith(each)), key=len, default="")


@pytest.mark.parametrize("line", COMMANDS)
def test_command(product, line):
    if begins(line, SET_UP) or begins(line, ELSEWHERE):
        return
    if begins(line, UNTIL):
        done = typed(product, f"exec 3< <(exec timeout 40 {line} 2>&1)\nsed -E '/{JOINED}/q' <&3\nkill $!")
        assert re.search(JOINED, done.stdout), done.stdout + done.stderr
        return
    wanted = SEEN[begins(line, SEEN)]
    deadline = time.monotonic() + AGAIN
    while not re.search(wanted, (done := typed(product, line)).stdout):
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(1)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_said_here_stands_there():
    known = (*SEEN, *UNTIL, *SET_UP, *ELSEWHERE)
    assert [each for each in known if not any(line.startswith(each) for line in COMMANDS)] == []
