"""`make bench [WHAT=name]`: run the benchmarks and print goal, measured and verdict of each."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from scripts.bench import broadcast, webhooks
from scripts.bench.harness import Result, machine

BENCHES = {"broadcast": broadcast.run, "webhooks": webhooks.run}
RESULTS = Path("bench-results")


def main(wanted: list[str]) -> int:
    """Run what was asked for, or all. Exits 1 only for an unknown name."""
    if unknown := set(wanted) - set(BENCHES):
        print(f"There is no benchmark {', '.join(sorted(unknown))}. There are: {', '.join(BENCHES)}", file=sys.stderr)
        return 1
    print(f"On {machine()}, shared with the load itself.\n")
    results: dict[str, Result] = {}
    for name in wanted or BENCHES:
        print(f"{name} …", flush=True)
        result = results[name] = asyncio.run(BENCHES[name]())
        verdict = "met" if result.met else "NOT MET"
        print(f"  {result.what}\n    goal      {result.goal}\n    measured  {result.measured}\n    verdict   {verdict}")
        print("    " + ", ".join(f"{key} {value:.2f}" for key, value in result.details.items()))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine(), "results": results})))
    print(f"\nKept in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
