"""Results as JSON: what each run leaves in bench-results/, and of that what docs/charts/ has and the docs show.

A result keeps when, at which commit and on which machine it was measured, so that a benchmark can be published anew
alone without the others claiming to be as new.
"""

import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from scripts.bench.growth.axis import Axis
from scripts.bench.measure import Result, machine

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path("bench-results")
CHARTS = ROOT / "docs" / "charts"
PUBLISHED = CHARTS / "results.json"

One = TypeVar("One", Result, Axis)


class Measured(msgspec.Struct, frozen=True):
    """Where results come from. `busy`: cores that other people's processes took meanwhile."""

    at: datetime
    commit: str
    machine: str
    busy: float


class Kept(msgspec.Struct, frozen=True):
    """Results by name, axes of growth by name, and of either the origin."""

    results: dict[str, Result] = {}
    growth: dict[str, Axis] = {}
    origins: dict[str, Measured] = {}

    def add(self, found: dict[str, Result] | dict[str, Axis], busy: float) -> None:
        """Take in what was just measured."""
        origin = Measured(datetime.now(UTC).replace(microsecond=0), commit(), machine(), round(busy, 2))
        for name, one in found.items():
            if isinstance(one, Axis):
                self.growth[name] = one
            else:
                self.results[name] = one
            self.origins[name] = origin

    def merge(self, other: "Kept") -> None:
        """Take in what another has, wherever that is newer."""
        for name, origin in other.origins.items():
            if name in self.origins and self.origins[name].at >= origin.at:
                continue
            self.origins[name] = origin
            for mine, theirs in ((self.results, other.results), (self.growth, other.growth)):
                if name in theirs:
                    mine[name] = theirs[name]  # type: ignore[index]


def commit() -> str:
    """What is checked out, and whether it was changed since."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def load(path: Path) -> Kept:
    """A file of results. Raises msgspec.ValidationError or OSError."""
    return msgspec.json.decode(path.read_bytes(), type=Kept)


def save(kept: Kept, path: Path) -> None:
    """Write it, readable, in an order of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Statuses are numbers, and names here.
    plain = msgspec.to_builtins(kept, str_keys=True, order="sorted", builtin_types=(datetime,))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n")


def publish(paths: Iterable[Path]) -> Kept:
    """Bring the newest of each benchmark in these files, and of what is published, into docs/charts/results.json."""
    kept = load(PUBLISHED) if PUBLISHED.exists() else Kept()
    for path in paths:
        kept.merge(load(path))
    save(kept, PUBLISHED)
    return kept
