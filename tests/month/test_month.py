"""A month of many tenants over a change of the clocks, with the clock passed in: each text at its minute, and no other.

The short form is part of all tests; `make month` plays 200 tenants and prints what became of their rescues.
"""

import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import count

import psycopg2
import pytest

from jobs.run import perform
from ottoai.db import Database
from ottoai.domain import tenants
from ottoai.vault import Vault
from tests.conftest import SECRET_KEY
from tests.month.oracle import END, Company, moments
from tests.stories import Story, telling

LONG = os.environ.get("MONTH") == "long"
TENANTS, DAYS, PER_DAY = (200, 31, 1.0) if LONG else (8, 12, 1.0)
SEED = int(os.environ.get("MONTH_SEED", "20261101"))
BEGINS = datetime(2026, 10, 15 if LONG else 26, tzinfo=UTC)  # clocks go back on the first of November
APART = timedelta(hours=2)

ZONES = ("America/New_York", "America/Chicago", "America/Los_Angeles", "Pacific/Honolulu")
PHONES = {
    "America/New_York": "+1212555{:04}", "America/Chicago": "+1312555{:04}",
    "America/Los_Angeles": "+1415555{:04}", "Pacific/Honolulu": "+1808555{:04}",
}  # fmt: skip
WEEK = ((0, 1, 2, 3, 4), "09:00", "17:00"), ((0, 1, 2, 3, 4, 5), "07:30", "19:15"), (tuple(range(7)), None, None)


@dataclass(frozen=True)
class Deed:
    """Something that somebody does at a moment."""

    at: datetime
    company: Company
    phone: str
    what: str


def companies(rng: random.Random) -> list[Company]:
    """The tenants; some close on a day of the month."""
    made = []
    for n in range(TENANTS):
        weekdays, opens, closes = rng.choice(WEEK)
        off = rng.randrange(DAYS)
        holidays = ((BEGINS + timedelta(days=off)).date(),) if rng.random() < 0.5 else ()
        made.append(Company(f"t{n}", ZONES[n % 4], weekdays, opens, closes, holidays, rng.choice((30, 120, 120, 600))))
    return made


def deeds(rng: random.Random, made: list[Company]) -> list[Deed]:
    """What callers and staff do. All but missed calls come at odd seconds, so that nothing is at the same time."""
    told: list[Deed] = []
    for company in made:
        for _ in range(int(DAYS * PER_DAY)):
            at = BEGINS + timedelta(minutes=rng.randrange(DAYS * 24 * 60))
            phone = PHONES[rng.choice(ZONES)].format(100 + rng.randrange(30))
            told.append(Deed(at, company, phone, "missed"))
            then = rng.choices(
                ["nothing", "reply", "stop", "answered", "called", "wrote", "help"], [38, 22, 12, 8, 8, 7, 5]
            )[0]
            after = timedelta(minutes=rng.choice((3, 30, 125, 700, 1500, 2800)), seconds=rng.randrange(1, 59))
            if then != "nothing":
                told.append(Deed(at + after, company, phone, then))
            if then == "stop" and rng.random() < 0.5:
                told.append(Deed(at + after + timedelta(days=3, seconds=1), company, phone, "start"))
    return sorted(told, key=lambda deed: deed.at)


async def do(story: Story, deed: Deed) -> None:
    phone, tenant = deed.phone, deed.company.id
    match deed.what:
        case "missed":
            await story.call(phone, tenant)
        case "answered":
            await story.call(phone, tenant, answered=True)
        case "called":
            await story.call(phone, tenant, direction="outbound")
        case "wrote":
            await story.text("We are on our way.", phone, ours=True, tenant=tenant)
        case "reply":
            await story.text("Yes, tomorrow is fine", phone, tenant=tenant)
        case word:
            await story.text(word.upper(), phone, tenant=tenant)


async def play(story: Story, told: list[Deed]) -> Counter[str]:
    """Let the month pass: each job when it is due, each deed when it is done."""
    ended: Counter[str] = Counter()
    with psycopg2.connect(story.url) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        stop = BEGINS + timedelta(days=DAYS + 3)
        for deed in [*told, None]:
            until = deed.at if deed else stop
            while True:
                cursor.execute(
                    "select id::text, due_at from outbox where state = 'open' and due_at <= %s"
                    " order by due_at, id limit 1", (until,),
                )  # fmt: skip
                due = cursor.fetchone()
                if due is None:
                    break
                story.clock.now = max(story.clock.now, due[1])
                outcome = await perform(story.context, due[0])
                assert outcome
                ended[f"{outcome.task} {outcome.status}"] += 1
            story.clock.now = until
            if deed:
                await do(story, deed)
    return ended


def expected(told: list[Deed]) -> dict[tuple[str, str], list[set[datetime]]]:
    """When each phone is texted by each tenant, reckoned without the product; of rescues that are due at the same
    moment any one may text, so that there are several answers.
    """
    by_lead: dict[tuple[str, str], list[Deed]] = defaultdict(list)
    for deed in told:
        by_lead[deed.company.id, deed.phone].append(deed)
    answers = {}
    for lead, all_deeds in by_lead.items():
        wanted: dict[datetime, list[int]] = defaultdict(list)
        for n, deed in enumerate(d for d in all_deeds if d.what == "missed"):
            if opted_out(all_deeds, deed.at):
                continue  # whose rescue ends at once, and does not begin anew with START
            ends = min(
                [d.at for d in all_deeds if d.what not in {"missed", "help", "start"} and d.at >= deed.at], default=None
            )
            zone = next(zone for zone, pattern in PHONES.items() if lead[1].startswith(pattern[:5]))
            for at in moments(deed.company, deed.at, zone):
                if (ends is None or at < ends) and not opted_out(all_deeds, at):
                    wanted[at].append(n)
        answers[lead] = conversations(sorted(wanted.items()), [])
    return answers


def conversations(wanted: list[tuple[datetime, list[int]]], sent: list[tuple[datetime, int]]) -> list[set[datetime]]:
    """The ways in which what is due may go out: nobody texts within two hours of another rescue's text."""
    if not wanted:
        return [{moment for moment, _ in sent}]
    (moment, due), *later = wanted
    free = [n for n in due if not any(moment - APART < at and m != n for at, m in sent)]
    if not free:
        return conversations(later, sent)
    return [found for n in free for found in conversations(later, [*sent, (moment, n)])]


def opted_out(all_deeds: list[Deed], moment: datetime) -> bool:
    words = [d.what for d in all_deeds if d.what in {"stop", "start"} and d.at <= moment]
    return bool(words) and words[-1] == "stop"


@pytest.mark.timeout(3600 if LONG else 120)
async def test_every_step_of_a_month_is_at_its_minute_or_the_next_opening(config, db: Database, capsys):
    rng = random.Random(SEED)
    made = companies(rng)
    told = deeds(rng, made)
    numbers = count(1)
    for company in made:
        given = {"callrail_company": str(900_000 + next(numbers))}
        vault = Vault((SECRET_KEY,))
        await tenants.add(db.system(), vault, company.id, company.id, company.zone, company.hours, given)
    async with telling(config) as story:
        _settings(story.url, made)
        story.clock.now = BEGINS
        ended = await play(story, told)
    assert not [task for task in ended if not task.endswith("success")]
    rows = _rows(
        config.database_url,
        "select m.tenant_id, l.phone, m.created_at, m.step, r.called_at from messages m"
        " join leads l on (l.tenant_id, l.id) = (m.tenant_id, m.lead_id)"
        " join missed_calls r on (r.tenant_id, r.id) = (m.tenant_id, m.missed_call_id) where m.status = 'sent'",
    )
    texts: dict[tuple[str, str], set[datetime]] = defaultdict(set)
    for tenant, phone, at, _, _ in rows:
        assert at not in texts[tenant, phone], "two texts at once"
        texts[tenant, phone].add(at)
    wanted = expected(told)
    differ = {
        lead: (texts.get(lead), answers) for lead, answers in wanted.items() if texts.get(lead, set()) not in answers
    }
    assert texts.keys() <= wanted.keys()
    assert not differ, f"{len(differ)} of {len(wanted)} differ, for instance {next(iter(differ.items()))}"
    escalations = _check_escalations(config.database_url, made)
    with capsys.disabled():
        _table(config.database_url, made, rows, escalations)


def _check_escalations(url: str, made: list[Company]) -> int:
    """Staff is asked at the very minute, by whoever is still waited for then."""
    by_id = {company.id: company for company in made}
    checked = 0
    for tenant, called_at, escalated_at, ended_at in _rows(
        url, "select tenant_id, called_at, escalated_at, ended_at from missed_calls"
    )[:: 7 if LONG else 1]:
        due = by_id[tenant].escalates_at(called_at)
        if due is not None and (ended_at is None or due < ended_at):
            assert escalated_at == due, (by_id[tenant], called_at)
            checked += 1
        else:
            assert escalated_at is None or ended_at == escalated_at
    return checked


def _settings(url: str, made: list[Company]) -> None:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("set role ottoai_system")
        for company in made:
            cursor.execute(
                "update tenants set holidays = %s::date[], sla_minutes = %s where id = %s",
                ([day.isoformat() for day in company.holidays], company.sla, company.id),
            )


def _rows(url: str, sql: str) -> list[tuple[object, ...]]:
    """Rows of all tenants, tenant by tenant, as the application sees them."""
    found: list[tuple[object, ...]] = []
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("select id from tenants")
        for (tenant,) in cursor.fetchall():
            cursor.execute("set role ottoai_app")
            cursor.execute("select set_config('app.tenant_id', %s, true)", (tenant,))
            cursor.execute(sql)
            found += cursor.fetchall()
            cursor.execute("reset role")
    return found


def _table(url: str, made: list[Company], texts: list[tuple[object, ...]], escalations: int) -> None:
    zone_of = {company.id: company.zone for company in made}
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for tenant, status, ended_by in _rows(url, "select tenant_id, status, ended_by from missed_calls"):
        outcomes[f"{status} ({ended_by})"][zone_of[str(tenant)]] += 1
    steps = Counter(step for _, _, _, step, _ in texts)
    last = date.fromordinal(BEGINS.date().toordinal() + DAYS)
    print(f"\n{len(made)} tenants from {BEGINS:%Y-%m-%d} to {last}, seed {SEED}")
    print(f"{'outcome':<28}" + "".join(f"{zone.split('/')[1]:>13}" for zone in ZONES) + f"{'all':>9}")
    for outcome, by_zone in sorted(outcomes.items()):
        print(f"{outcome:<28}" + "".join(f"{by_zone[zone]:>13}" for zone in ZONES) + f"{by_zone.total():>9}")
    print(f"texts: {', '.join(f'{steps[n]} at step {n}' for n in sorted(steps))}; all at the minute that was reckoned")
    print(f"escalations checked: {escalations}; no rescue outlived {END}")
