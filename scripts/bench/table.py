"""One table of all results: in the terminal, and in the docs."""

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Final

from scripts.bench.kept import Kept
from scripts.bench.measure import Result

# Which results a section of PERFORMANCE.md shows, in the table's order.
FIGURES: Final[dict[str, tuple[str, ...]]] = {
    "broadcast": ("broadcast 400/s", "broadcast 10/s"),
    "webhooks": ("webhooks", "webhooks one tenant", "traces", "duplicates"),
    "rooms": ("rooms",),
    "idle": ("idle",),
    "reads": ("reads", "reads direct", "reads page 100"),
    "jobs": ("jobs", "jobs, fairness"),
    "rescue": ("rescue",),
    "run": ("run", "run again"),
    "memory": ("memory",),
    "stalled": ("stalled",),
    "drain": ("drain",),
    "ops": ("ops",),
}
ORDER: Final = tuple(name for names in FIGURES.values() for name in names)
# The last line of the table: what may not happen at all, summed over all results.
NEVER = ("errors", "connections dropped", "failed tasks")
GUIDE_NEVER = "< 0.1 %, < 1 %, < 0.5 %"
WIDTHS = (40, 16, 30, 44, 8)
HEADER = ("Figure", "Guide", "Goal", "Measured", "Verdict")
Row = tuple[str, str, str, str, str]


def ordered(kept: Kept) -> list[str]:
    """The names of what is there, in the table's order."""
    return sorted(kept.results, key=ORDER.index)


def rows(kept: Kept) -> list[Row]:
    """Figure, guide, goal, measured, verdict."""
    each = [kept.results[name] for name in ordered(kept)]
    lines = [(one.what, one.guide, one.goal, one.measured, one.verdict) for one in each]
    return [*lines, faults(kept.results.values())] if kept.results else []


def faults(results: Iterable[Result]) -> Row:
    """What went wrong in all of them together."""
    counts = Counter(dict.fromkeys(NEVER, 0))
    for result in results:
        counts.update(result.faults)
    told = ", ".join(str(counts[name]) for name in NEVER)
    more = [f"{count} {name}" for name, count in counts.items() if count and name not in NEVER]
    return (
        ", ".join(NEVER) + " under all of the above",
        GUIDE_NEVER,
        "0, 0, 0",
        "; ".join([told, *more]),
        "missed" if counts.total() else "met",
    )


def plain(kept: Kept) -> str:
    """As a terminal shows it, in columns."""
    lines = [_line([name] for name in HEADER), "  ".join("-" * width for width in WIDTHS)]
    for row in rows(kept):
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, WIDTHS, strict=True)]
        height = max(len(cell) for cell in cells)
        lines += [_line([cell[n] if n < len(cell) else ""] for cell in cells) for n in range(height)]
    return "\n".join(lines)


def _line(cells: Iterable[list[str]]) -> str:
    return "  ".join(cell[0].ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def markdown(kept: Kept) -> str:
    """As the docs have it, with the peers of the same run."""
    names = [*ordered(kept), "faults"]
    peers = [kept.results[name].peers for name in ordered(kept)] + [{}]
    lines = ["| Figure | Guide | Goal | Measured | Verdict | Beside it, same run |", "|---|---|---|---|---|---|"]
    for name, row, others in zip(names, rows(kept), peers, strict=True):
        what, guide, goal, measured, verdict = row
        beside = "; ".join(f"{peer}: {told}" for peer, told in others.items())
        shown = f"**{verdict}**" if verdict in {"missed", "close"} else verdict
        link = what if name == "faults" else f"`{name}`: {what}"
        lines.append(f"| {link} | {guide} | {goal} | {measured} | {shown} | {beside} |")
    missing = [name for name in ORDER if name not in kept.results]
    return "\n".join([*lines, "", f"Not measured yet: {', '.join(missing)}.", ""] if missing else [*lines, ""])
