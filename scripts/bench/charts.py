"""Charts as SVG, readable on light and on dark: a bar for each value of a figure, lines for what grows.

The same figures give the same bytes, so that a check can tell whether a chart is current.
"""

import math
import re
import sys
from typing import Final

import pygal
from pygal.style import Style

from scripts.bench.growth.axis import Axis, Series
from scripts.bench.measure import Bound, Result, shown

# pygal leaves a hook for its plugins on the import path, of a kind that Python no longer calls quietly.
sys.meta_path[:] = [hook for hook in sys.meta_path if type(hook).__module__ != "pygal"]

COLOURS: Final = ("#2f81f7", "#d29922", "#8b949e", "#3fb950", "#db61a2", "#a371f7")
OURS, GOAL, GUIDE, *PEERS = COLOURS
# GitHub shows an image on the reader's background: what is written follows it.
DARK: Final = """inline:
text, .title, .legend text, .axis text, .text-overlay text {fill: #24292f !important}
.axis .line, .axis .guides .line, .guide.line {stroke: #8b949e !important}
@media (prefers-color-scheme: dark) {
text, .title, .legend text, .axis text, .text-overlay text {fill: #d1d9e0 !important}
}
"""
WIDTH: Final = 760


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def bars(name: str, result: Result) -> dict[str, str]:
    """SVG by file name, for each bound of a result."""
    drawn = [bound for bound in result.bounds if bound.unit]
    return {f"{slug(name)}-{slug(bound.name)}.svg": _bars(bound) for bound in drawn}


def _bars(bound: Bound) -> str:
    values = [("OttoAI", bound.value, OURS), (f"goal ({'≥' if bound.least else '≤'})", bound.goal, GOAL)]
    if bound.guide is not None:
        values.append(("guide", bound.guide, GUIDE))
    values += [(peer, value, PEERS[n % len(PEERS)]) for n, (peer, value) in enumerate(bound.peers.items())]
    chart = pygal.HorizontalBar(
        title=bound.name, height=70 + 30 * len(values), show_legend=False, show_y_guides=False, show_x_labels=False,
        range=(0, max(value for _, value, _ in values) or 1), **_common([OURS]),
    )  # fmt: skip
    values.reverse()  # the first is drawn lowest
    chart.x_labels = [f"{label}: {shown(value)} {bound.unit}" for label, value, _ in values]
    chart.add("", [{"value": value, "color": colour} for _, value, colour in values], formatter=shown)
    return _svg(chart)


def lines(name: str, axis: Axis) -> dict[str, str]:
    """SVG by file name, for each chart of an axis."""
    charts: dict[str, list[Series]] = {}
    for series in axis.series:
        charts.setdefault(series.chart, []).append(series)
    return {f"{slug(name)}-{slug(title)}.svg": _lines(axis, title, each) for title, each in charts.items()}


def _lines(axis: Axis, title: str, drawn: list[Series]) -> str:
    values = [value for each in drawn for value in each.values]
    log = title in axis.log and min(values) > 0
    ticks = _ticks(min(values), max(values)) if log else []
    chart = pygal.Line(
        title=title, height=320, x_title=axis.of, legend_at_bottom=True, legend_at_bottom_columns=1, logarithmic=log,
        dots_size=4, print_values=True, print_values_position="top", show_x_guides=False, value_formatter=shown,
        range=(ticks[0], ticks[-1]) if log else (0, max(values) * 1.1 or 1), **_common(list(COLOURS)),
    )  # fmt: skip
    if log:
        chart.y_labels = ticks
    chart.x_labels = [f"{step:,}" for step in axis.steps]
    for each in drawn:
        chart.add(f"{each.name} ({each.unit})" if each.unit else each.name, each.values)
    return _svg(chart)


def _ticks(least: float, most: float) -> list[float]:
    """1, 2, 5, 10 … around these; over many decades the tens alone."""
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    leads = (1, 2, 5) if high - low < 3 else (1,)
    every = [lead * 10.0**power for power in range(low, high + 1) for lead in leads]
    first = max(n for n, each in enumerate(every) if each <= least)
    last = min(n for n, each in enumerate(every) if each >= most)
    return every[first : last + 1]


def _common(colours: list[str]) -> dict[str, object]:
    style = Style(
        background="transparent", plot_background="transparent", foreground="#57606a", foreground_strong="#57606a",
        foreground_subtle="#8b949e", colors=tuple(colours), font_family="sans-serif", title_font_size=15,
        label_font_size=12, major_label_font_size=12, legend_font_size=12, value_font_size=12, opacity="1",
    )  # fmt: skip
    return {
        "style": style, "js": [], "css": ["file://style.css", "file://graph.css", DARK], "no_prefix": True,
        "disable_xml_declaration": True, "width": WIDTH, "margin": 12, "margin_right": 56, "tooltip_border_radius": 0,
        "pretty_print": False, "explicit_size": True,
    }  # fmt: skip


def _svg(chart: pygal.Graph) -> str:
    # Without the data for a script that is not there, and without where pygal comes from.
    return re.sub(r"<script.*?</script>|<!--.*?-->\n?", "", str(chart.render()), flags=re.DOTALL) + "\n"
