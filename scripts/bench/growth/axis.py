"""What growing along an axis gave: series of figures over its steps, and how a benchmark collects them."""

import msgspec


class Series(msgspec.Struct, frozen=True):
    """One figure at each step. Series of one chart are drawn together."""

    name: str
    unit: str
    values: list[float]
    chart: str = ""


class Axis(msgspec.Struct, frozen=True):
    """An axis: what grew (`of`), through which steps, and what was seen."""

    of: str
    how: str  # in a sentence: the load, and what was held still
    steps: list[int]
    series: list[Series]
    faults: dict[str, int] = {}
    log: tuple[str, ...] = ()  # charts with a logarithmic scale


class Collected:
    """Figures, step by step, under (chart, name, unit)."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._values: dict[tuple[str, str, str], list[float]] = {}
        self.faults: dict[str, int] = {}

    def step(self, size: int, figures: dict[tuple[str, str, str], float]) -> None:
        """What was seen at a step, told as it goes along."""
        self._steps.append(size)
        for key, value in figures.items():
            self._values.setdefault(key, []).append(value)
        told = ", ".join(f"{name} {value:,.3g} {unit}".rstrip() for (_, name, unit), value in figures.items())
        print(f"    {size:>9,}: {told}", flush=True)

    def fault(self, name: str, count: int) -> None:
        """Something that may not happen."""
        self.faults[name] = self.faults.get(name, 0) + count

    def axis(self, of: str, how: str, *log: str) -> Axis:
        """All of it."""
        series = [Series(name, unit, values, chart) for (chart, name, unit), values in self._values.items()]
        return Axis(of, how, self._steps, series, self.faults, log)
