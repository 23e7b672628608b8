"""No bound is left out: for each there is a test that drives its indicator over it."""

import importlib
import pkgutil
from collections.abc import Iterator

from ottoai.indicators import INDICATORS
from tests import indicators


def driven() -> Iterator[tuple[str, str]]:
    for found in pkgutil.iter_modules(indicators.__path__):
        for test in vars(importlib.import_module(f"{indicators.__name__}.{found.name}")).values():
            for marker in getattr(test, "pytestmark", ()):
                if marker.name == "drives":
                    indicator, *levels = marker.args
                    yield from ((indicator, level) for level in levels)


def test_every_bound_is_driven():
    bounds = {(each.id, bound.level) for each in INDICATORS for bound in each.bounds}
    assert bounds == set(driven())
