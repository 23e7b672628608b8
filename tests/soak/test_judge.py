"""The judge of slopes: what leaks is seen beside any noise, and what comes and goes is not taken for a leak."""

import math
import random

import pytest

from tests.conftest import execute
from tests.soak.gauges import BOUNDS, FEW, LASTING, MIB, PASSING, bound_of, prefix
from tests.soak.judge import Bound, judge, table, theil_sen, warm_up

HOUR = [n * 10.0 for n in range(361)]
MEMORY = Bound(an_hour=6 * MIB, noise=2 * MIB)


def verdict(values: list[float], bound: Bound = MEMORY) -> str:
    return judge("memory of api-1", "bytes", list(zip(HOUR, values, strict=True)), bound).verdict


def wobbling(level: float, by: float) -> list[float]:
    rng = random.Random(7)
    return [level + rng.uniform(-by, by) for _ in HOUR]


def test_what_stays_is_flat():
    assert verdict([70 * MIB for _ in HOUR]) == "flat"
    assert verdict(wobbling(70 * MIB, 8 * MIB)) == "flat"


def test_a_leak_is_seen_beside_noise():
    leak = [value + at / 3600 * 12 * MIB for at, value in zip(HOUR, wobbling(70 * MIB, 8 * MIB), strict=True)]
    assert verdict(leak) == "GROWS"


def test_a_leak_that_comes_in_steps_is_seen():
    assert verdict([70 * MIB + at // 900 * 4 * MIB for at in HOUR]) == "GROWS"


def test_the_warm_up_is_no_leak():
    warming = [30 * MIB + 40 * MIB * (1 - math.exp(-at / 120)) for at in HOUR]
    assert verdict(warming) == "flat"
    assert (warm_up(3600), warm_up(1200), warm_up(120)) == (540, 300, 60)


def test_what_is_let_go_of_again_and_again_is_flat():
    saw = [1000 + at % 60 * 100 for at in HOUR]
    assert verdict(saw, Bound(noise=1000, share=0.25)) == "flat"


def test_odd_samples_weigh_nothing():
    spikes = [70 * MIB + (200 * MIB if n % 7 == 0 else 0) for n, _ in enumerate(HOUR)]
    assert verdict(spikes) == "flat"


def test_what_may_never_be_is_seen_though_it_does_not_last():
    assert verdict([1.0 if at == 1800 else 0.0 for at in HOUR], Bound(most=0)) == "TOO MUCH"


def test_a_slope_is_that_of_most_pairs():
    assert theil_sen([(0, 0), (1, 2), (2, 400), (3, 6), (4, 8)]) == pytest.approx(2)
    assert theil_sen([(0, 5)]) == 0


@pytest.mark.parametrize(
    "name", ["memory of api-1", "files of worker", "Redis keys cache:*", "rows of events", "spooled deliveries"]
)
def test_every_figure_has_a_bound(name):
    assert bound_of(name)[1] in [bound for _, _, bound in BOUNDS]


def test_keys_are_of_a_kind_whosever_they_are():
    assert prefix(b"cache:soak-7:calls:3") == prefix(b"cache:soak-11:calls:412") == "cache:*"
    assert prefix(b"rq:job:0f8fad5b-d9cb-469f-a165-70867728950e") == "rq:job:*"


def test_the_table_begins_with_what_grows():
    flat = judge("files of beat", "", [(at, 17.0) for at in HOUR], Bound(noise=1))
    grows = judge("memory of worker", "bytes", [(at, at * MIB) for at in HOUR], MEMORY)
    head, first, second = table([flat, grows]).splitlines()
    assert head.split()[0] == "figure"
    assert first.startswith("memory of worker")
    assert "3600 MiB" in first
    assert first.rstrip().endswith("GROWS")
    assert second.rstrip().endswith("flat")


def test_every_table_is_looked_at_or_compared(template_url):
    sql = "select tablename from pg_tables where schemaname = 'public' and tablename !~ 'yoyo'"
    assert sorted(str(name) for (name,) in execute(template_url, sql)) == sorted((*PASSING, *FEW, *LASTING))
