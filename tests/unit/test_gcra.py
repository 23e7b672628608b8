"""GCRA: what it promises over any window of time, whatever the clock does."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from ottoai.failing import Failing, network
from ottoai.gcra import Decision, Table, ask, bucket, decisions
from ottoai.rates import MOST, SECONDS, Rate

START = 1_795_000_000_000_000  # microseconds; an ordinary time
SECOND = 1_000_000

rates = st.builds(Rate, st.integers(1, 40), st.sampled_from(list(SECONDS)))
steps = st.lists(st.integers(0, 90 * SECOND) | st.integers(0, 2000), max_size=80)


def times_of(gaps: list[int]) -> list[int]:
    return list(accumulate(gaps, initial=START))


@given(rates, steps)
def test_no_window_holds_more_than_the_burst_and_what_its_time_is_worth(rate, gaps):
    table, asked = Table(10), bucket("user", rate, "ann")
    passed = [at for at in times_of(gaps) if table.charge([asked], at).allowed]
    for first, began in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= rate.limit + (passed[last] - began) / rate.interval


@given(rates, steps)
def test_nobody_is_refused_who_keeps_to_the_rate(rate, gaps):
    table, asked = Table(10), bucket("user", rate, "ann")
    assert all(table.charge([asked], START).allowed for _ in range(rate.limit))
    at = START
    for gap in gaps:
        at += rate.interval + gap
        assert table.charge([asked], at).allowed


@given(rates, steps)
def test_remaining_and_wait_are_true(rate, gaps):
    table, asked = Table(10), bucket("user", rate, "ann")
    for at in times_of(gaps):
        decision = table.charge([asked], at)
        (standing,) = decision.standings
        assert (decision.over == []) == decision.allowed
        assert 0 <= standing.remaining < rate.limit
        if not decision.allowed:
            assert standing.remaining == 0
            later = at + standing.wait * SECOND
            assert standing.wait >= 1
            assert not table.charge([asked], later - SECOND).allowed or standing.wait == 1
            assert table.look(asked, later).wait == 0
        assert table.look(asked, at + standing.full_after * SECOND).ahead == 0
    left = table.look(asked, at).remaining
    assert [table.charge([asked], at).allowed for _ in range(left + 1)] == [True] * left + [False]


@given(st.integers(1, MOST), st.sampled_from(list(SECONDS)))
def test_a_rate_is_never_more_than_it_says(limit, unit):
    rate = Rate(limit, unit)
    assert rate.interval * limit >= rate.seconds * SECOND


@given(st.lists(st.integers(-3600 * SECOND, 60 * SECOND), max_size=60), rates)
def test_a_clock_that_is_set_back_gives_and_takes_nothing(jumps, rate):
    table, asked, passed = Table(10), bucket("user", rate, "ann"), 0
    for at in times_of(jumps):
        passed += table.charge([asked], at).allowed
        assert table.look(asked, at).ahead <= rate.capacity, "nobody waits longer than for a whole period"
    assert passed <= rate.limit + sum(jump for jump in jumps if jump > 0) / rate.interval


def test_all_buckets_are_charged_or_none():
    table = Table(10)
    ann, ben = (bucket("user", Rate(2, "minute"), user) for user in ("ann", "ben"))
    tenant = bucket("tenant", Rate(3, "minute"), "demo")
    assert [table.charge([ann, tenant], START).allowed for _ in range(3)] == [True, True, False]
    assert table.look(tenant, START).remaining == 1, "the refused one has cost the tenant nothing"
    assert table.charge([ben, tenant], START).allowed
    refused = table.charge([ben, tenant], START)
    assert [each.bucket.kind for each in refused.over] == ["tenant"]
    assert table.look(ben, START).remaining == 1


def test_a_table_has_an_end():
    table = Table(100)
    buckets = [bucket("user", Rate(1, "day"), str(n)) for n in range(1000)]
    assert all(table.charge([each], START + n).allowed for n, each in enumerate(buckets))
    assert len(table) == 100
    assert not table.charge([buckets[-100]], START + 1000).allowed, "the last are known"
    assert table.charge([buckets[0]], START + 1000).allowed


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=2, max_size=5, unique=True))
def test_no_two_share_a_bucket(pairs):
    assert len({bucket("user", Rate(1, "day"), *pair).key for pair in pairs}) == len(pairs)


def test_requests_of_one_bucket_share_its_place():
    one, two = bucket("user", Rate(1, "day"), "ann"), bucket("user", Rate(1, "day"), "ben")
    keys, words = ask([[one, two], [one], []])
    assert keys == [one.key, two.key]
    assert [words[0], words[1], words[4], words[7], words[8], words[11]] == [2, 1, 2, 1, 1, 0]
    found = decisions([[one, two], [one], []], [1, 5, 6, 0, 5, 1])
    assert [(d.allowed, [s.ahead for s in d.standings]) for d in found] == [(True, [5, 6]), (False, [5]), (True, [])]
    assert all(isinstance(each, Decision) for each in found)


def test_who_may_change_its_address_at_will_is_known_by_its_network():
    assert network("2001:db8::1") == network("2001:db8::ffff:2") != network("2001:db8:0:1::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") != network("192.0.2.2")
    assert network("") == ""


def test_addresses_and_passwords_that_are_remembered_have_an_end():
    failing = Failing(Rate(2, "minute"))
    for n in range(20_000):
        failing.count(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}")
        failing.heed("10.0.0.1", str(n), right=True)
    assert len(failing) == 10_000
    assert len(failing._trusted) == 1_000
    assert failing.trusts("10.0.0.1", "19999")
    assert not failing.trusts("10.0.0.2", "19999")
    failing.heed("10.0.0.1", "19999", right=False)
    assert not failing.trusts("10.0.0.1", "19999")
