"""monitoring/dashboard.json: the Grafana dashboard (10 or later), from the table of indicators. A row for each group, a
panel for each indicator with its bounds as thresholds, and before them the traffic that docs/OPERATIONS.md compares.
"""

from itertools import count
from typing import Any, Final

import msgspec

from ottoai.indicators import GROUPS, INDICATORS, Bound, Indicator, Unit
from ottoai.measures import recorded
from scripts.rules import panel as number

SCHEMA: Final = 37  # of Grafana 10.0; later ones migrate it by themselves
WIDTH, HEIGHT, ACROSS = 6, 7, 24
UNITS: Final[dict[Unit, str]] = {
    "seconds": "s", "share": "percentunit", "count": "short", "bytes": "bytes", "state": "bool_yes_no",
    "times": "short",
}  # fmt: skip
COLOURS: Final = {"ok": "green", "info": "blue", "warning": "orange", "critical": "red"}
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Panel = dict[str, Any]

# The baselines of the operations guide. Several targets may tell of the same process: it counts once.
_ONCE: Final = "sum(max without (instance, job) (rate({}[5m])))"
TRAFFIC: Final[tuple[tuple[str, str, str, str], ...]] = (  # title, unit, query, legend
    ("Requests a second", "reqps", _ONCE.format("http_requests_total"), "requests"),
    ("Messages a second", "short", _ONCE.format("ws_messages_sent_total"), "messages"),
    ("Jobs a minute", "short", f"60 * {_ONCE.format('worker_task_duration_seconds_count')}", "jobs"),
    (
        "Mean time of a job", "s",
        f"{_ONCE.format('worker_task_duration_seconds_sum')} / {_ONCE.format('worker_task_duration_seconds_count')}",
        "mean",
    ),
    ("Processors in use", "short", "max by (proc) (rate(process_cpu_seconds_total[5m]))", "{{proc}}"),
    ("Memory", "bytes", "max by (proc) (process_resident_memory_bytes)", "{{proc}}"),
)  # fmt: skip


def dashboard() -> str:
    """The file."""
    panels: list[Panel] = []
    rows = count(len(INDICATORS) + 1)  # numbers of what is no indicator; those of indicators are in alerts' links
    top = 0
    shown: list[tuple[str, list[Panel]]] = [("Traffic", [_traffic(next(rows), *each) for each in TRAFFIC])]
    shown += [(group, [_indicator(each) for each in INDICATORS if each.group == group]) for group in GROUPS]
    for title, below in shown:
        panels.append(_row(next(rows), title, top))
        for place, each in enumerate(below):
            x, y = place * WIDTH % ACROSS, top + 1 + place * WIDTH // ACROSS * HEIGHT
            panels.append({**each, "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT}})
        top += 1 + -(-len(below) * WIDTH // ACROSS) * HEIGHT
    whole = {
        "uid": "ottoai",
        "title": "OttoAI",
        "description": "Generated from ottoai/indicators.py: python -m scripts.generate",
        "tags": ["ottoai"],
        "schemaVersion": SCHEMA,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source()]},
        "panels": panels,
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _row(identity: int, title: str, top: int) -> Panel:
    where = {"x": 0, "y": top, "w": ACROSS, "h": 1}
    return {"id": identity, "type": "row", "title": title, "collapsed": False, "gridPos": where, "panels": []}


def _traffic(identity: int, title: str, unit: str, query: str, legend: str) -> Panel:
    return _chart(identity, title, "For comparison with docs/PERFORMANCE.md.", unit, query, legend)


def _indicator(indicator: Indicator) -> Panel:
    panel = _chart(
        number(indicator), indicator.title, indicator.action, UNITS[indicator.unit], recorded(indicator.id),
        indicator.title,
    )  # fmt: skip
    defaults = panel["fieldConfig"]["defaults"]
    defaults["thresholds"] = {"mode": "absolute", "steps": thresholds(indicator)}
    defaults["custom"]["thresholdsStyle"] = {"mode": "line+area" if indicator.bounds else "off"}
    if indicator.unit in {"state", "share"}:
        defaults |= {"min": 0, "max": 1}
    return panel


def thresholds(indicator: Indicator) -> list[dict[str, Any]]:
    """The bounds as Grafana wants them: colours from a value on, upwards; the first from minus infinity."""
    bounds = sorted(indicator.bounds, key=lambda each: each.at)
    if not bounds or bounds[0].op[0] == ">":
        steps = [{"color": _colour(each), "value": each.at} for each in bounds]
        return [{"color": COLOURS["ok"], "value": None}, *steps]
    # Below is bad: each colour ends where the next, lesser one begins.
    begins = [None, *(each.at for each in bounds)]
    colours = [*(_colour(each) for each in bounds), COLOURS["ok"]]
    return [{"color": colour, "value": value} for colour, value in zip(colours, begins, strict=True)]


def _colour(bound: Bound) -> str:
    return COLOURS[bound.level]


def _chart(identity: int, title: str, text: str, unit: str, query: str, legend: str) -> Panel:
    return {
        "id": identity,
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": query, "legendFormat": legend}],
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"lineWidth": 1, "fillOpacity": 10}}, "overrides": []},
        "options": {
            "legend": {"showLegend": "{{" in legend, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }
