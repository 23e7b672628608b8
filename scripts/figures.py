"""What the shell scripts know of indicators and figures: two tables of words parted by tabs, written by `generate`."""

from typing import Final

from ottoai.indicators import INDICATORS
from ottoai.instruments import GaugeMetric, Instrument
from ottoai.metrics import Metrics, measured_in

NOTE: Final = "# Written by `python -m scripts.generate`, from the code."


def indicators() -> str:
    """monitoring/indicators.tsv, which metrics_snapshot.sh joins with what /metrics says."""
    rows = [(each.id, each.group, each.title, each.unit, each.healthy, each.action) for each in INDICATORS]
    return _table(("id", "group", "title", "unit", "healthy", "action"), rows)


def figures() -> str:
    """monitoring/figures.tsv, which smoke_foundations.sh looks for: what a service that is well tells of, and which
    process does. Counters and histograms whose labels are open are left out: they appear with their first event.
    """
    known = [each for each in Metrics(version="").instruments if _from_start(each)]
    return _table(("name", "process"), sorted((each.name, measured_in(each.name) or "every") for each in known))


def _from_start(instrument: Instrument) -> bool:
    return isinstance(instrument, GaugeMetric) or all(instrument.known.values())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "".join(f"{line}\n" for line in (f"{NOTE} {', '.join(head)}", *("\t".join(row) for row in rows)))
