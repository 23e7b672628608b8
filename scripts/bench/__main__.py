"""`make bench [WHAT=name]`: run the benchmarks and print goal, measured and verdict of each."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from scripts.bench import broadcast, drain, duplicates, idle, jobs, operators, reads, rescue, rooms, stalled, webhooks
from scripts.bench.measure import Busy, Result, machine, raise_file_limit

BENCHES = {
    "webhooks": webhooks.run,
    "duplicates": duplicates.run,
    "reads": reads.run,
    "broadcast": broadcast.run,
    "rooms": rooms.run,
    "stalled": stalled.run,
    "drain": drain.run,
    "idle": idle.run,
    "jobs": jobs.run,
    "ops": operators.run,
    "rescue": rescue.run,
}
RESULTS = Path("bench-results")
VERDICTS = {True: "met", False: "NOT MET", None: "not measured"}


def main(wanted: list[str]) -> int:
    """Run what was asked for, or all. Exits 1 only for an unknown name."""
    if unknown := set(wanted) - set(BENCHES):
        print(f"There is no benchmark {', '.join(sorted(unknown))}. There are: {', '.join(BENCHES)}", file=sys.stderr)
        return 1
    raise_file_limit()
    print(f"On {machine()}, shared with the load itself.\n")
    results: dict[str, Result] = {}
    others: dict[str, float] = {}
    for name in wanted or BENCHES:
        print(f"{name} …", flush=True)
        busy = Busy()
        found = asyncio.run(BENCHES[name]())
        for each, result in ({name: found} if isinstance(found, Result) else found).items():
            results[each] = result
            _print(result)
        others[name] = busy.by_others()
        print(f"    meanwhile {others[name]:.2f} cores were busy with other things")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    kept = {"machine": machine(), "results": results, "busy_with_others": others}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
    print(f"\nKept in {path}")
    return 0


def _print(result: Result) -> None:
    print(f"  {result.what}\n    goal      {result.goal}\n    measured  {result.measured}")
    print(f"    verdict   {VERDICTS[result.met]}")
    flat = {key: value for key, value in result.details.items() if not isinstance(value, dict)}
    groups = {"": flat, **{key: value for key, value in result.details.items() if isinstance(value, dict)}}
    for title, group in groups.items():
        if group:
            line = ", ".join(f"{key} {_shown(value)}" for key, value in group.items())
            print(f"    {title}: {line}" if title else f"    {line}")


def _shown(value: Any) -> str:
    return f"{value:,.2f}".removesuffix(".00") if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
