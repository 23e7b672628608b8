"""`make bench [WHAT=name]`: run the benchmarks and print goal, measured and verdict of each.

Without names all but growth, in some 15 minutes; `growth` takes some ten more. Each start leaves a file in
bench-results/; --publish brings the newest of each into docs/charts/ and the docs.
"""

import argparse
import asyncio
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from scripts import generate
from scripts.bench import kept, table
from scripts.bench.catalogue import BENCHES, EVERY, GROWTH, Found, UnknownName, chosen
from scripts.bench.growth.axis import Axis
from scripts.bench.kept import Kept
from scripts.bench.measure import Busy, Result, machine, raise_file_limit


def main(argv: list[str]) -> int:
    """Run what was asked for, or publish. A goal that is missed is told and no failure: 1 is for what broke off, 2 for
    words that mean nothing.
    """
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"names: {', '.join(BENCHES)}; growth: {', '.join(GROWTH)}",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to run (WHAT=NAME in make)")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="run nothing: write docs/charts/ and the docs from bench-results/, or from the files that are named",
    )
    given = parser.parse_args(argv)
    if given.publish:
        return publish([Path(name) for name in given.names])
    try:
        names = chosen(given.names)
    except UnknownName as problem:
        print(problem, file=sys.stderr)
        return 2
    return 1 if measure(names) else 0


def measure(names: list[str]) -> list[str]:
    """One after the other, and those that broke off. What is there is kept after each: a stop loses only what ran."""
    raise_file_limit()
    print(f"On {machine()}, shared with the load itself; at {kept.commit()}.\n")
    broken: list[str] = []
    found, path = Kept(), kept.RUNS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name} …", flush=True)
        busy, began = Busy(), time.monotonic()
        try:
            results = _named(name, asyncio.run(EVERY[name]()))  # type: ignore[arg-type]
        except (Exception, SystemExit):  # noqa: BLE001 - the others are still worth measuring
            traceback.print_exc()
            broken.append(name)
            continue
        others = busy.by_others()
        found.add(results, others)
        for result in results.values():
            if isinstance(result, Result):
                _print(result)
        print(f"    {time.monotonic() - began:.0f} s, in which {others:.2f} cores were busy with other things\n")
        kept.save(found, path)
    if found.results:
        print(table.plain(found))
    if broken:
        print(f"\nBroke off: {', '.join(broken)}")
    print(f"\nKept in {path}. Published with: make bench WHAT=--publish")
    return broken


def publish(paths: list[Path]) -> int:
    """Into docs/charts/, and from there into the pages."""
    try:
        published = kept.publish(paths or sorted(kept.RUNS.glob("*.json")))
    except (OSError, msgspec.DecodeError) as problem:
        print(f"Nothing published: {problem}", file=sys.stderr)
        return 1
    for name, origin in published.origins.items():
        print(f"  {name:24} {origin.at:%Y-%m-%d %H:%M} UTC at {origin.commit}, {origin.busy:.2f} cores busy elsewhere")
    return generate.main([])


def _named(name: str, found: Found) -> dict[str, Result] | dict[str, Axis]:
    if found is None:
        print("    not measured: too few files may be open at once here (ulimit -Hn)")
        return {}
    if isinstance(found, dict):
        return found
    return {name: found}  # type: ignore[dict-item]


def _print(result: Result) -> None:
    print(f"  {result.what}\n    goal      {result.goal}\n    measured  {result.measured}")
    print(f"    verdict   {result.verdict}")
    if wrong := {name: count for name, count in result.faults.items() if count}:
        print(f"    wrong     {wrong}")
    for name, told in result.peers.items():
        print(f"    beside    {name}: {told}")
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
