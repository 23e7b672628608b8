"""Every benchmark by its name, in the order in which they run and stand in the table."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from scripts.bench import (
    broadcast,
    drain,
    duplicates,
    guide_load,
    idle,
    jobs,
    newcomer,
    operators,
    reads,
    rescue,
    rooms,
    stalled,
    traces,
    webhooks,
)
from scripts.bench.growth import calls, connections, events, processes, tenants
from scripts.bench.growth.axis import Axis
from scripts.bench.measure import Result

Found = Result | dict[str, Result] | Axis | None
Bench = Callable[[], Awaitable[Found]]

BENCHES: Final[dict[str, Bench]] = {
    "broadcast": broadcast.run,
    "webhooks": webhooks.run,
    "rooms": rooms.run,
    "idle": idle.run,
    "reads": reads.run,
    "jobs": jobs.run,
    "rescue": rescue.run,
    "run": newcomer.run,
    "memory": guide_load.run,
    "duplicates": duplicates.run,
    "stalled": stalled.run,
    "drain": drain.run,
    "ops": operators.run,
    "traces": traces.run,
}
GROWTH: Final[dict[str, Bench]] = {
    "growth-connections": connections.run,
    "growth-tenants": tenants.run,
    "growth-calls": calls.run,
    "growth-events": events.run,
    "growth-processes": processes.run,
}
EVERY: Final = BENCHES | GROWTH


class UnknownName(Exception):
    """Nothing is called so; the message lists what is there."""


def chosen(names: Iterable[str]) -> list[str]:
    """What to run: all benchmarks when nothing is named; `growth` is all its axes."""
    wanted = [each for name in names for each in (GROWTH if name == "growth" else [name])] or list(BENCHES)
    if unknown := [name for name in wanted if name not in EVERY]:
        raise UnknownName(
            f"There is no benchmark {', '.join(unknown)}. There are: {', '.join(BENCHES)}; "
            f"growth, or of that one axis: {', '.join(GROWTH)}"
        )
    return list(dict.fromkeys(wanted))
