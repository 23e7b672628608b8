"""Prometheus's rules from the table of indicators: what is recorded, and an alert for each bound.

`scripts.generate` writes them to monitoring/recording.yml and monitoring/alerts.yml. The expressions are those of
`ottoai.measures`; nothing of what is measured or judged stands here. How to load them: docs/METRICS.md.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import yaml

from ottoai.indicators import INDICATORS, Bound, Condition, Indicator, Unit, shown
from ottoai.measures import WATCHED, Enough, Quantile, Select, counting, promql_time, recorded
from ottoai.ops.alerts import SETTLED, settled

EVERY: Final = "15s"  # the shortest duration in the table; docs/METRICS.md asks to scrape as often
SEEN: Final = "ottoai_proc:seen"
STARTED: Final = "max by (proc) (process_start_time_seconds)"
UNREACHABLE: Final = "Is any running (fly status), does /health answer, is METRICS_TOKEN the one that is sent?"
NOTE: Final = "# Generated from ottoai/indicators.py: python -m scripts.generate\n"

VALUE: Final[dict[Unit, str]] = {  # of a state there is nothing to tell but no
    "seconds": "{{ $value | humanizeDuration }}",
    "share": "{{ $value | humanizePercentage }}",
    "bytes": "{{ $value | humanize1024 }}B",
    "count": '{{ printf "%.0f" $value }}',
    "times": '{{ printf "%.1f" $value }}\N{MULTIPLICATION SIGN}',
}

Rule = dict[str, Any]


def recording() -> str:
    """monitoring/recording.yml. The order matters: each rule stands on those before it."""
    rules = {WATCHED: f"{SEEN} or {STARTED} > time() - 60"}
    for which, histogram in selections():
        rules |= counting(which, histogram=histogram)
    for indicator in INDICATORS:
        rules |= indicator.measure.parts()
        rules[recorded(indicator.id)] = indicator.measure.promql()
    rules[SEEN] = STARTED  # last, so that WATCHED knows who was there the time before
    return dumped("recording", [{"record": name, "expr": expression} for name, expression in rules.items()])


def selections() -> Iterator[tuple[Select, bool]]:
    """Every selection that something grows in, and whether it is of histograms."""
    for indicator in INDICATORS:
        measures = [indicator.measure, *(each.of for each in indicator.conditions if isinstance(each, Enough))]
        for measure in measures:
            yield from ((which, isinstance(measure, Quantile)) for which in measure.inputs)


def alerts() -> str:
    """monitoring/alerts.yml: every bound of every indicator, and that there is anything to judge."""
    rules = [alert(indicator, bound) for indicator in INDICATORS for bound in indicator.bounds]
    return dumped("alerts", [*rules, unreachable()])


def alert(indicator: Indicator, bound: Bound) -> Rule:
    """The alert of a bound."""
    if indicator.unit == "state":
        found = "no"
    else:
        found = f"{VALUE[indicator.unit]} ({bound.level} {bound.op} {shown(indicator.unit, bound.at)})"
    return {
        "alert": indicator.prometheus_alert(bound),
        "expr": judged(f"{recorded(indicator.id)} {bound.op} {bound.at:.10g}", indicator.conditions),
        **({"for": promql_time(bound.seconds)} if bound.seconds else {}),
        "keep_firing_for": promql_time(settled(bound).total_seconds()),
        "labels": {"severity": bound.level, "indicator": indicator.id},
        "annotations": {
            "summary": f"{indicator.title}: {found}",
            "description": indicator.action,
            **links(indicator.id, f"?viewPanel={panel(indicator)}"),
        },
    }


def judged(expression: str, conditions: Iterable[Condition]) -> str:
    """An expression that is there only while conditions are met."""
    return " and on () ".join((expression, *(f"({each.promql()})" for each in conditions)))


def links(anchor: str, place: str = "") -> dict[str, str]:
    """Where to read on."""
    return {
        "runbook_url": f"docs/OPERATIONS.md#{anchor}",
        "dashboard_url": f"/d/ottoai{place}",
        "page_url": f"/ops#indicator-{anchor}",
    }


def panel(indicator: Indicator) -> int:
    """The number of an indicator's panel on the dashboard."""
    return 1 + INDICATORS.index(indicator)


def unreachable() -> Rule:
    """The one alert that no indicator can give: nothing is told."""
    return {
        "alert": "OttoaiUnreachable",
        "expr": "absent(ready)",
        "for": "1m",
        "keep_firing_for": promql_time(SETTLED.total_seconds()),
        "labels": {"severity": "critical", "indicator": "unreachable"},
        "annotations": {
            "summary": "No api process can be scraped",
            "description": UNREACHABLE,
            **links("unreachable"),
        },
    }


def dumped(name: str, rules: list[Rule]) -> str:
    """A file with these rules as one group: evaluated one after the other."""
    groups = {"groups": [{"name": f"ottoai_{name}", "interval": EVERY, "rules": rules}]}
    return NOTE + yaml.safe_dump(groups, sort_keys=False, allow_unicode=True, width=118)


def table() -> str:
    """The indicators as a Markdown table, for the docs; the anchors are what alerts link to."""
    lines = ["| Indicator | Healthy | Warning from | Critical from | What to do |", "|---|---|---|---|---|"]
    for each in INDICATORS:
        bounds = {bound.level: _from(each, bound) for bound in each.bounds}
        early = [bounds["warning"]] if "warning" in bounds else []
        if "info" in bounds:
            early.insert(0, f"info: {bounds['info']}")
        cells = (each.title, each.healthy, "; ".join(early) or "–", bounds.get("critical", "–"), each.action)
        text = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f'| <a id="{each.id}"></a>{text} |')
    scraped = "An api process can be scraped (Prometheus alone asks)"
    lines.append(f'| <a id="unreachable"></a>{scraped} | yes | – | no for 1m | {UNREACHABLE} |')
    return "\n".join(lines) + "\n"


def _from(indicator: Indicator, bound: Bound) -> str:
    op = bound.op.replace(">=", "≥").replace("<=", "≤")
    number = "no" if indicator.unit == "state" else f"{op} {shown(indicator.unit, bound.at)}"
    return number + (f" for {promql_time(bound.seconds)}" if bound.seconds else "")
