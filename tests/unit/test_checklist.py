"""docs/OPERATIONS-CHECKLIST.md: everything that it names is there, and no line of it is served by nothing."""

import re
from pathlib import Path

import pytest

from ottoai import config
from ottoai.indicators import INDICATORS
from ottoai.log import CONTEXT_FIELDS
from ottoai.metrics import Metrics
from ottoai.web.routes import ROUTES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "OPERATIONS-CHECKLIST.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("|---")]
NAMES = sorted(set(re.findall(r"`([^`]+)`", TEXT)))
PANELS = set(re.findall(r"^\| ([A-Z][a-z ]+) \|", (ROOT / "docs" / "OPERATIONS.md").read_text(), re.MULTILINE))


def known(name: str) -> bool:
    """Whether a name in backticks is of something that there is."""
    if name.startswith("make "):
        target = name.removeprefix("make ").replace(":", r"\:")
        return f"\n{target}:" in (ROOT / "Makefile").read_text()
    if name.startswith("/"):
        paths = [re.sub(r"\{\w+:([^}]+)\}", r"(\1)", path) for _, path, _ in ROUTES]
        return any(re.fullmatch(path, name) for path in paths)
    if "/" in name:
        return (ROOT / name).is_file()
    alerts = {each.alert(bound) for each in INDICATORS for bound in each.bounds}
    prometheus = {each.prometheus_alert(bound) for each in INDICATORS for bound in each.bounds}
    metrics = {each.name for each in Metrics("").instruments}
    settings = set(re.findall(r"^\| `(\w+)`", config.table(), re.MULTILINE))
    return name in {each.id for each in INDICATORS} | alerts | prometheus | metrics | settings


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_is_there(name):
    assert known(name)


def test_a_name_of_nothing_is_noticed():
    for name in ("http_p95.fatal", "no_such_total", "make ops:yearly", "tests/unit/test_nothing.py", "/nothing"):
        assert not known(name)


def test_no_line_is_served_by_nothing():
    assert len(ROWS) > 90
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(cells), row


def test_panels_are_those_of_the_guide():
    for block in re.split(r"\n\n", TEXT):
        lines = block.splitlines()
        if not lines or "| Panel |" not in lines[0]:
            continue
        place = [cell.strip() for cell in lines[0].strip("|").split("|")].index("Panel")
        for line in lines[2:]:
            named = [cell.strip() for cell in line.strip("|").split("|")][place]
            assert {panel.strip() for panel in named.split(",")} <= PANELS, line


def test_log_patterns_have_one_call_site_each_with_their_fields():
    sources = [path.read_text() for folder in ("ottoai", "jobs") for path in (ROOT / folder).rglob("*.py")]
    patterns = re.findall(r"“([^”]+)”(?: \| ([^|]+) \|)?", TEXT)
    assert any(fields for _, fields in patterns)
    for pattern, fields in patterns:
        (source,) = [text for text in sources if f'"{pattern}"' in text]
        assert source.count(f'"{pattern}"') == 1, pattern
        for field in filter(None, fields.split(", ")):
            assert field in CONTEXT_FIELDS or f'"{field}":' in source, (pattern, field)
