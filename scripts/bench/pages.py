"""What the docs say of results: generated parts of docs/PERFORMANCE.md and docs/SCALING.md, and the charts beside them,
all from docs/charts/results.json, so that nothing is claimed that was not measured.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Final

from scripts.bench import charts, sizing, table
from scripts.bench.growth.axis import Axis
from scripts.bench.kept import CHARTS, PUBLISHED, Kept, load
from scripts.bench.measure import shown

NOT_YET = "*Not measured yet.*\n"
LOADS: Final = (
    ("100 users at once", "reads", "reads"),
    ("1,000 connections", "broadcast 400/s", "broadcast"),
    ("10,000 connections", "idle", "idle"),
    ("jobs", "jobs", "jobs"),
    ("webhooks", "webhooks", "webhooks"),
    ("memory at the guide's own load", "memory", "memory"),
)
AXES: Final = ("growth-connections", "growth-tenants", "growth-calls", "growth-events", "growth-processes")


@cache
def published() -> Kept:
    """What is published."""
    return load(PUBLISHED) if PUBLISHED.exists() else Kept()


def results(kept: Kept | None = None) -> str:
    """The table, and where it comes from."""
    kept = kept or published()
    return f"{table.markdown(kept)}\n{origins(kept, table.ordered(kept))}" if kept.results else NOT_YET


def origins(kept: Kept, names: Iterable[str]) -> str:
    """When and where these were measured."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        one = kept.origins[name]
        groups.setdefault((one.commit, one.machine), []).append(name)
    lines = []
    for (commit, machine), members in groups.items():
        times = [kept.origins[name].at for name in members]
        busy = [kept.origins[name].busy for name in members]
        which = f" ({', '.join(f'`{name}`' for name in members)})" if len(groups) > 1 else ""
        lines.append(
            f"Measured from {min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M} UTC at commit `{commit}` on "
            f"{machine}, everything on that one machine; other things kept {min(busy):.2f} to {max(busy):.2f} cores "
            f"busy meanwhile{which}.\n"
        )
    return "\n".join(lines)


def figure(*names: str) -> str:
    """Some results as words and charts."""
    parts = []
    for name in names:
        if (result := published().results.get(name)) is None:
            parts.append(f"`{name}`: {NOT_YET}")
            continue
        busy = f"{published().origins[name].busy:.2f} cores busy with other things"
        parts.append(f"**{result.what}**: {result.measured} ({result.verdict}; goal {result.goal}; {busy}).\n")
        parts += [_image(file) for file in charts.bars(name, result)]
    return "\n".join(parts)


def _image(file: str) -> str:
    return f"![Chart: {file.removesuffix('.svg').replace('-', ' ')}](charts/{file})\n"


def under_load() -> str:
    """The guide's lines on load beside ours, for operators."""
    lines = [
        f"| {what} | {one.guide} | {one.measured} | `{bench}` |"
        for what, name, bench in LOADS
        if (one := published().results.get(name)) is not None
    ]
    head = ["| Under load | Guide | Here, measured ([PERFORMANCE.md](PERFORMANCE.md)) | `make bench WHAT=…` |"]
    return "\n".join([*head, "|---|---|---|---|", *lines]) + "\n" if lines else NOT_YET


def growth(name: str) -> str:
    """An axis as a table and charts."""
    axis = published().growth.get(name)
    if axis is None:
        return NOT_YET
    bad = ", ".join(f"{count} {what}" for what, count in axis.faults.items() if count)
    images = "\n".join(_image(file) for file in charts.lines(name, axis))
    return f"{axis.how[0].upper()}{axis.how[1:]}. {bad or 'Nothing failed'}.\n\n{_steps(axis)}\n{images}"


def _steps(axis: Axis) -> str:
    head = "| | " + " | ".join(f"{step:,}" for step in axis.steps) + " |"
    lines = [
        f"| {each.name}{f', {each.unit}' if each.unit else ''} | " + " | ".join(map(shown, each.values)) + " |"
        for each in axis.series
    ]
    return "\n".join([head, "|---|" + "---:|" * len(axis.steps), *lines]) + "\n"


def growth_origins() -> str:
    """When and where growth was measured."""
    kept = published()
    return origins(kept, kept.growth) if kept.growth else NOT_YET


def _sized(write: Callable[[Kept], str]) -> Callable[[], str]:
    """What follows from unit costs, when they all are there."""

    def part() -> str:
        try:
            return write(published())
        except sizing.Missing:
            return NOT_YET

    return part


def files() -> Iterable[tuple[Path, str]]:
    """Every chart, as it should be."""
    kept = published()
    for name, result in kept.results.items():
        for file, text in charts.bars(name, result).items():
            yield CHARTS / file, text
    for name, axis in kept.growth.items():
        for file, text in charts.lines(name, axis).items():
            yield CHARTS / file, text


PARTS: Final[dict[str, Callable[[], str]]] = {
    "results": results,
    "under-load": under_load,
    "growth-origins": growth_origins,
    "units": _sized(sizing.unit_table),
    "sizes": _sized(sizing.table),
    "assumptions": sizing.assumptions,
    **{f"figure-{title}": partial(figure, *names) for title, names in table.FIGURES.items()},
    **{name: partial(growth, name) for name in AXES},
}


def left_over() -> list[Path]:
    """Charts of nothing that is published."""
    known = {path for path, _ in files()}
    return sorted(path for path in CHARTS.glob("*.svg") if path not in known)
