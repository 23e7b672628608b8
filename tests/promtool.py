"""Prometheus itself, by promtool: what the rules in monitoring/ make of figures that were told.

`apt-get download prometheus` (Debian) brings promtool; .ci/run gets it. Where it is not on the PATH, tests that need it
are skipped and say so.
"""

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, Final

import pytest

from ottoai import tally
from ottoai.instruments import escape

MONITORING: Final = Path(__file__).resolve().parents[1] / "monitoring"
RULES: Final = ("recording.yml", "alerts.yml")
PROMTOOL: Final = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there")
EVERY: Final = 15  # seconds between two scrapes, and two evaluations
PAIR: Final = r'(\w+)="((?:[^"\\]|\\.)*)"'
FIRING: Final = 'ALERTS{alertstate="firing"}'

Said = Sequence[tuple[float, str]]
Vector = dict[frozenset[tuple[str, str]], float]


def run(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """promtool, as on the command line."""
    command = [PROMTOOL or "promtool", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def check(said: Said | Mapping[str, Said], firing: Collection[str] = (), silent: Collection[str] = ()) -> None:
    """With these figures scraped, these alerts (OttoaiHttpP95Critical) fire at the end, and those do not."""
    found = {dict(labels)["alertname"] for labels in evaluate(said, FIRING)[FIRING]}
    assert found >= set(firing), f"not firing: {set(firing) - found}; firing: {found}"
    assert not found & set(silent), f"firing: {found & set(silent)}"


def evaluate(
    said: Said | Mapping[str, Said], *queries: str, at: float | None = None, began: float | None = None
) -> dict[str, Vector]:
    """What Prometheus answers to queries at a moment (the last), after the rules were evaluated until then.

    `said`: (seconds, text of /metrics) of one target, or of each by its name, oldest first; scraped at steps of EVERY,
    each of which sees the latest text. An empty text is a scrape that failed. `began`: Unix time of second 0, which
    moments in the figures are counted from; now, by default.
    """
    targets = said if isinstance(said, Mapping) else {"api": said}
    last = at if at is not None else max(each[-1][0] for each in targets.values())
    series = [
        each
        for target, texts in targets.items()
        for each in _series(target, texts, int(last // EVERY) + 1, time.time() if began is None else began)
    ]
    impossible = [{"labels": "never", "value": 1}]  # promtool tells what it got only where that is not expected
    asked = [{"expr": query, "eval_time": f"{last:g}s", "exp_samples": impossible} for query in queries]
    test = {"interval": f"{EVERY}s", "input_series": series, "promql_expr_test": asked}
    return dict(zip(queries, _answers(_test([test])), strict=True))


def alerts(series: list[dict[str, str]], name: str, at: str) -> list[dict[str, str]]:
    """The annotations of each alert of this name that fires at a moment; `series` in promtool's own notation."""
    asked = {"eval_time": at, "alertname": name, "exp_alerts": [{"exp_labels": {"never": "so"}}]}
    output = _test([{"interval": f"{EVERY}s", "input_series": series, "alert_rule_test": [asked]}])
    found = re.findall(r"Annotations:\{(.*)\}", output.partition("got:")[2])
    return [{key: json.loads(f'"{text}"') for key, text in re.findall(PAIR, each)} for each in found]


def _series(target: str, texts: Said, steps: int, began: float) -> Iterator[dict[str, str]]:
    found: dict[str, list[str]] = {}
    for step in range(steps):
        text = next((text for at, text in reversed(texts) if at <= step * EVERY), "")
        told = {}
        for sample in tally.samples(text):
            moment = sample.name.endswith(("_timestamp_seconds", "_start_time_seconds"))
            labels = {**sample.labels, "job": "ottoai", "instance": target}
            name = ",".join(f'{label}="{escape(value)}"' for label, value in labels.items())
            told[f"{sample.name}{{{name}}}"] = repr(sample.value - began if moment else sample.value)
        for name in told.keys() - found.keys():
            found[name] = ["_"] * step
        for name, values in found.items():
            values.append(told.get(name, "stale"))
    for name, values in found.items():
        yield {"series": name, "values": " ".join(values)}


def _test(tests: list[dict[str, Any]]) -> str:
    whole = {
        "rule_files": [str(MONITORING / name) for name in RULES],
        "evaluation_interval": f"{EVERY}s",
        "group_eval_order": ["ottoai_recording", "ottoai_alerts"],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({**whole, "tests": tests}, file)  # JSON is YAML
        file.flush()
        result = run("test", "rules", file.name)
    assert "FAILED" in result.stdout + result.stderr, result
    return result.stdout + result.stderr


def _answers(output: str) -> Iterator[Vector]:
    blocks = re.split(r"^ *expr: ", output, flags=re.MULTILINE)[1:]
    assert blocks, output
    for block in blocks:
        _, marker, got = block.partition("got:")
        assert marker, block
        answers: Vector = {}
        for labels, value in re.findall(r'(\S*\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}) (\S+?)(?:,|\s|$)', got):
            pairs = re.findall(PAIR, labels)
            answers[frozenset((name, each) for name, each in pairs if name != "__name__")] = (
                nan if value == "NaN" else float(value)
            )
        yield answers
