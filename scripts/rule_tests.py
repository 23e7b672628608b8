"""promtool's tests of the alerts, from the table of indicators: for each bound, figures that pass it, for as long as it
takes and not so long, and figures that do not.

`scripts.generate` writes them to monitoring/tests/bounds.yml. What the alerts of the operations guide do in the stories
they are for is written by hand, beside it. An indicator that needs a week's past is tested there alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from ottoai.indicators import INDICATORS, Bound, Indicator
from ottoai.measures import (
    Age,
    Burn,
    BusinessHours,
    Enough,
    Fullness,
    Increase,
    Level,
    Measure,
    Not,
    Quantile,
    Ratio,
    SeenBefore,
    Select,
    Unusual,
)
from scripts.rules import NOTE

STEP: Final = 15  # seconds between two scrapes, and two evaluations
CALM: Final = 8  # steps before something happens
LONG: Final = 400  # steps: longer than any test
MANY: Final = 1000  # of a whole, in each step

Series = dict[str, str]


def tests() -> str:
    """monitoring/tests/bounds.yml."""
    found = [test for each in INDICATORS for bound in each.bounds for test in of_bound(each, bound)]
    whole = {
        "rule_files": ["../recording.yml", "../alerts.yml"],
        "evaluation_interval": f"{STEP}s",
        "group_eval_order": ["ottoai_recording", "ottoai_alerts"],
        "tests": found,
    }
    return NOTE + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, default_flow_style=None, width=118)


def of_bound(indicator: Indicator, bound: Bound) -> Iterator[dict[str, Any]]:
    """The tests of one bound."""
    if isinstance(indicator.measure, Unusual):
        return
    alert = indicator.prometheus_alert(bound)
    labels = f'{{alertname="{alert}", alertstate="firing", indicator="{indicator.id}", severity="{bound.level}"}}'
    expr, seconds = f'ALERTS{{alertname="{alert}", alertstate="firing"}}', int(bound.seconds)
    since = begins(indicator) * STEP
    fires = {"expr": expr, "eval_time": f"{since + seconds + STEP}s"}
    early = {"expr": expr, "eval_time": f"{since + seconds - STEP}s", "exp_samples": []}
    yield {
        "name": f"{alert} fires",
        "interval": f"{STEP}s",
        "input_series": series(indicator, beyond(indicator, bound)),
        "promql_expr_test": [
            *([early] if seconds else []),
            {**fires, "exp_samples": [{"labels": f"ALERTS{labels}", "value": 1}]},
        ],
    }
    yield {
        "name": f"{alert} does not fire short of its bound",
        "interval": f"{STEP}s",
        "input_series": series(indicator, short_of(indicator, bound)),
        "promql_expr_test": [{**fires, "exp_samples": []}],
    }


def beyond(indicator: Indicator, bound: Bound) -> float:
    """A value just past a bound."""
    if isinstance(indicator.measure, Increase | Level):
        return bound.at + {">": 1, ">=": 0, "<": -1, "<=": 0}[bound.op] * (1 if bound.at >= 1 or not bound.at else 0.01)
    return bound.at * (1.001 if bound.op[0] == ">" else 0.999)


def short_of(indicator: Indicator, bound: Bound) -> float:
    """A value that does not pass a bound, just so."""
    if isinstance(indicator.measure, Increase | Level):
        return bound.at + {">": 0, ">=": -1, "<": 0, "<=": 1}[bound.op]
    return bound.at * 0.999 if bound.op[0] == ">" else min(1.0, bound.at * 1.001)


def begins(indicator: Indicator) -> int:
    """At which step the value is there: what grows shows that at its second scrape."""
    if isinstance(indicator.measure, Increase) or seen_before(indicator):
        return CALM
    return 0 if isinstance(indicator.measure, Level | Fullness | Age) else 1


def seen_before(indicator: Indicator) -> bool:
    """Whether it has to have been there before."""
    return any(isinstance(each, SeenBefore) for each in indicator.conditions)


def series(indicator: Indicator, value: float) -> list[dict[str, str]]:
    """What is scraped when an indicator has a value and its conditions are met."""
    found = drive(indicator.measure, value)
    if seen_before(indicator):
        found = {name: f"{value + 1:g}x{CALM - 1} {values}" for name, values in found.items()}
    for condition in indicator.conditions:
        if isinstance(condition, BusinessHours):
            found |= {labelled(Select("business_open")): f"1x{LONG}"}
        elif isinstance(condition, Enough):
            found = drive(condition.of, condition.least) | found
    return [{"series": name, "values": values} for name, values in found.items()]


def drive(measure: Measure, value: float) -> Series:
    """Series that make a measure so much."""
    match measure:
        case Increase(of=of):
            return {labelled(of): f"0x{CALM - 1} {value:.12g}x{LONG}"}
        case Level(of=of):
            return {labelled(of): f"{value:.12g}x{LONG}"}
        case Fullness(used=used, most=most):
            more = dict.fromkeys(measure.by, "x")
            return {labelled(used, more): f"{value * MANY:.12g}x{LONG}", labelled(most, more): f"{MANY}x{LONG}"}
        case Age(of=of):
            return {labelled(of): f"{-value:g}+{STEP}x{LONG}"}
        case Quantile(q=q, of=of):
            edges = Select(f"{of.metric}_bucket", of.where, of.kind)
            grow = f"0+{MANY}x{LONG}"
            return {labelled(edges, {"le": f"{value / q:g}"}): grow, labelled(edges, {"le": "+Inf"}): grow}
        case Burn():
            return shares(measure, value * measure.budget)
        case Ratio():
            return shares(measure, value)
    raise AssertionError(measure)


def shares(measure: Ratio | Burn, share: float) -> Series:
    """Series that make `part` this share of `whole`."""
    part = measure.part[0]
    much = (1 - share if measure.rest else share) * MANY
    found = {labelled(part): growing(much)}
    if part.metric not in {each.metric for each in measure.whole}:
        return found | {labelled(each): growing(MANY) for each in measure.whole}
    # What belongs to the whole and not to the part: another metric, or the same with other labels.
    other = next((each for each in measure.whole if each.metric != part.metric), measure.whole[0])
    found[labelled(other, besides(part, other))] = growing(MANY - much)
    return found


def besides(part: Select, whole: Select) -> Mapping[str, str]:
    """Labels of what is in `whole` and not in `part`."""
    if part.metric != whole.metric:
        return {}
    name, taken = next((name, value) for name, value in part.where.items() if whole.where.get(name) != value)
    allowed = whole.where.get(name, "other")
    choice = allowed if isinstance(allowed, tuple) else ("other",)
    return {name: next(each for each in choice if each not in taken)}


def growing(step: float) -> str:
    """A counter that grows by so much from scrape to scrape."""
    return f"0+{step:.10g}x{LONG}"


def labelled(which: Select, more: Mapping[str, str] | None = None) -> str:
    """A series that a selection selects."""
    labels = {"job": "ottoai", "instance": "api", "proc": f"{which.kind or 'api'}-h-1"}
    for name, wanted in which.where.items():
        labels[name] = "x" if isinstance(wanted, Not) else wanted if isinstance(wanted, str) else wanted[0]
    text = ", ".join(f'{name}="{value}"' for name, value in (labels | dict(more or {})).items())
    return f"{which.metric}{{{text}}}"
