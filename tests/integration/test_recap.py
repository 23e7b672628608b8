"""The daily recap: told once at each tenant's 18:00, whatever happens, and its figures are those of the day."""

import asyncio
import logging
import random
import statistics
import uuid
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import psycopg2
import psycopg2.extras
import pytest

from jobs import recap
from ottoai.domain import recaps
from ottoai.domain.catalogue import EVENTS, DailyRecap
from tests.background import blocked, context_of, eventually, locked, process
from tests.conftest import add_tenant, execute, of_tenant
from tests.helpers import get

NAME = "analytics.daily_recap.ready"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
ZERO = dict.fromkeys(("calls_total", "calls_answered", "calls_missed", "calls_voicemail", "calls_outbound",
    "calls_unfinished", "new_leads", "rescues_opened", "rescues_texted", "rescues_recovered", "rescues_escalated",
    "rescues_opted_out", "rescues_expired", "texts_sent", "texts_received", "open_tasks"), 0)  # fmt: skip
UNKNOWN = dict.fromkeys(("recovery_rate", "response_median_seconds", "response_p90_seconds"))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.fixture
def tenant(db, database_url):
    """Makes a tenant in a zone; it has been there for long unless said otherwise."""

    async def make(name: str, zone: str = "America/New_York", created: datetime = LONG_AGO) -> str:
        number = 100 + len(execute(database_url, "select id from tenants"))
        await add_tenant(db, name, company=str(number), number=f"+1212555{number:04}")
        execute(database_url, "update tenants set timezone = %s, created_at = %s where id = %s", zone, created, name)
        return name

    return make


@pytest.fixture
async def context(config):
    async with context_of(config) as opened:
        yield opened


def told(url: str, tenant: str) -> list[date]:
    """The days in a tenant's log, each as it stands in its recaps as well."""
    log = of_tenant(url, "select data from events where event = %s order by seq", NAME, tenant=tenant)
    kept = of_tenant(url, "select day, data from recaps order by day", tenant=tenant)
    assert [data for (data,) in log] == [data for _, data in kept]
    days = [msgspec.convert(data, DailyRecap).day for (data,) in log]
    assert days == [day for day, _ in kept]
    return days


def last(url: str, tenant: str) -> dict[str, object]:
    return of_tenant(url, "select data from recaps order by day desc limit 1", tenant=tenant)[0][0]


async def test_it_is_told_at_1800_and_once(context, database_url, tenant):
    await tenant("demo")
    for now, days in (
        ("2026-11-23T17:59:59-05:00", [date(2026, 11, 22)]),
        ("2026-11-23T18:00:00-05:00", [date(2026, 11, 22), date(2026, 11, 23)]),
        ("2026-11-23T18:01:00-05:00", [date(2026, 11, 22), date(2026, 11, 23)]),
        ("2026-11-24T17:59:59-05:00", [date(2026, 11, 22), date(2026, 11, 23)]),
        ("2026-11-24T18:00:00-05:00", [date(2026, 11, 22), date(2026, 11, 23), date(2026, 11, 24)]),
    ):
        assert await recap.tell_all(context, at(now)) is False
        assert told(database_url, "demo") == days
    assert last(database_url, "demo") == ZERO | UNKNOWN | {
        "day": "2026-11-24", "timezone": "America/New_York",
        "since": "2026-11-23T23:00:00+00:00", "until": "2026-11-24T23:00:00+00:00",
    }  # fmt: skip


async def test_each_tenant_has_its_own_evening_also_when_clocks_are_set(context, database_url, tenant):
    zones = ("America/New_York", "America/Denver", "Pacific/Honolulu", "Pacific/Kiritimati", "Pacific/Pago_Pago",
             "Australia/Lord_Howe")  # fmt: skip
    for number, zone in enumerate(zones):
        await tenant(f"t{number}", zone)
    first, moments = at("2026-10-30T12:00Z"), 4 * 24 * 4  # the first of November has 25 hours in New York
    for n in range(moments):
        await recap.tell_all(context, first + timedelta(minutes=15 * n))
    for number, zone in enumerate(zones):
        days = told(database_url, f"t{number}")
        assert days == [days[0] + timedelta(days=n) for n in range(len(days))]
        assert 4 <= len(days) <= 5
        figures = of_tenant(database_url, "select data from recaps order by day", tenant=f"t{number}")
        for day, (data,) in zip(days, figures, strict=True):
            ended = datetime.fromisoformat(data["until"])
            assert ended.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == datetime.combine(day, recaps.AT)
    lengths = [
        datetime.fromisoformat(data["until"]) - datetime.fromisoformat(data["since"])
        for (data,) in of_tenant(database_url, "select data from recaps", tenant="t0")
    ]
    assert set(lengths) == {timedelta(hours=24), timedelta(hours=25)}


async def test_after_an_outage_the_last_day_is_told_and_no_flood_comes(context, database_url, tenant):
    await tenant("demo")
    await recap.tell_all(context, at("2026-11-20T18:00-05:00"))
    await recap.tell_all(context, at("2026-11-26T03:00-05:00"))
    assert told(database_url, "demo") == [date(2026, 11, 20), date(2026, 11, 25)]


async def test_who_came_after_1800_is_told_of_the_next_day(context, database_url, tenant):
    await tenant("demo", created=at("2026-11-23T18:00-05:00"))
    await recap.tell_all(context, at("2026-11-23T20:00-05:00"))
    assert told(database_url, "demo") == []
    await recap.tell_all(context, at("2026-11-24T18:00-05:00"))
    assert told(database_url, "demo") == [date(2026, 11, 24)]


async def test_no_day_is_told_again_in_another_zone(context, database_url, tenant):
    await tenant("demo", "Pacific/Kiritimati")
    await recap.tell_all(context, at("2026-11-24T05:00Z"))  # 19:00 on the 24th
    for zone in ("Pacific/Pago_Pago", "America/New_York"):
        execute(database_url, "update tenants set timezone = %s", zone)
        await recap.tell_all(context, at("2026-11-25T04:59Z"))  # where the 23rd, and the 24th, are over
        assert told(database_url, "demo") == [date(2026, 11, 24)]
        day = recaps.last_day(at("2026-11-25T04:59Z"), ZoneInfo(zone))
        assert not await recaps.due(context.db.system(), {zone: day}, "", 9)
    await recap.tell_all(context, at("2026-11-25T23:00Z"))
    assert told(database_url, "demo") == [date(2026, 11, 24), date(2026, 11, 25)]


async def test_a_zone_that_changed_since_it_was_looked_up_is_looked_up_again(context, db, database_url, tenant):
    await tenant("demo")
    now = at("2026-11-23T19:00-05:00")
    day = recaps.last_day(now, ZoneInfo("America/New_York"))
    (due,) = await recaps.due(db.system(), {"America/New_York": day}, "", 10)
    execute(database_url, "update tenants set timezone = 'Pacific/Honolulu'")
    assert (await recaps.tell(db.one("demo"), due, day, "")).events == ()
    await recap.tell_all(context, now)
    assert told(database_url, "demo") == [date(2026, 11, 22)]


async def test_racing_workers_tell_it_once(config, database_url, tenant):
    for n in range(5):
        await tenant(f"t{n}")
    now = at("2026-11-23T18:00-05:00")
    async with context_of(config) as one, context_of(config) as other:
        with locked(database_url, "recaps"):
            racing = [asyncio.create_task(recap.tell_all(context, now)) for context in (one, other)]
            await eventually(lambda: len(blocked(database_url)) == 2)
        assert await asyncio.gather(*racing) == [False, False]
    for n in range(5):
        assert told(database_url, f"t{n}") == [date(2026, 11, 23)]


async def test_two_that_tell_one_day_at_the_same_time_tell_it_once(db, database_url, tenant):
    """Both past all looking: the row that the other is writing decides."""
    await tenant("demo")
    day = recaps.last_day(at("2026-11-23T18:00-05:00"), ZoneInfo("America/New_York"))
    due = recaps.Due("demo", "America/New_York")
    with locked(database_url, "heads"):  # the one that wrote its row waits for its number, the other for the row
        racing = [asyncio.create_task(recaps.tell(db.one("demo"), due, day, "")) for _ in range(3)]
        await eventually(lambda: len(blocked(database_url)) == 3)
    appended = await asyncio.gather(*racing)
    assert sorted(len(each.events) for each in appended) == [0, 0, 1]
    assert told(database_url, "demo") == [date(2026, 11, 23)]


@pytest.mark.parametrize("table", ["tenants", "recaps", "heads"])
async def test_a_worker_killed_at_it_tells_nothing_twice(config, context, database_url, tenant, table):
    for n in range(3):
        await tenant(f"t{n}", created=datetime.now(UTC) - timedelta(days=3))
    with process("worker", config) as worker:
        context.queues.enqueue_periodic("recap")
        with locked(database_url, table):
            await eventually(lambda: blocked(database_url), 20)
            worker.kill()
            worker.wait()
    assert await recap.tell_all(context, datetime.now(UTC)) is False
    await eventually(lambda: all(len(told(database_url, f"t{n}")) == 1 for n in range(3)))
    assert await recap.tell_all(context, datetime.now(UTC)) is False
    for n in range(3):
        (day,) = told(database_url, f"t{n}")
        assert timedelta(0) <= datetime.now(ZoneInfo("America/New_York")).date() - day <= timedelta(days=1)


async def test_a_worker_tells_it_and_a_client_that_waits_hears_of_it(config, context, base, database_url, make_token):
    execute(database_url, "update tenants set created_at = now() - interval '3 days'")
    with process("worker", config):
        context.queues.enqueue_periodic("recap")
        status, _, answer = await get(base, "/api/events?since=0&wait=25", make_token())
    assert (status, [event["event"] for event in answer["items"]]) == (200, [NAME])
    assert answer["items"][0]["data"] == last(database_url, "demo")


async def test_what_is_wrong_with_one_is_logged_and_the_others_are_told(
    context, database_url, tenant, caplog, monkeypatch
):
    monkeypatch.setattr(recap, "BATCH", 1)  # whoever fails is looked up first by every run, and once by each
    for name in ("a-headless", "b-lost", "c-well"):
        await tenant(name)
    owner = "alter table heads no force row level security; {}; alter table heads force row level security"
    execute(database_url, owner.format("delete from heads where tenant_id = 'a-headless'"))
    execute(database_url, "update tenants set timezone = 'Mars/Base' where id = 'b-lost'")
    assert await recap.tell_all(context, at("2026-11-23T18:00-05:00")) is False
    assert [told(database_url, name) for name in ("a-headless", "b-lost", "c-well")] == [[], [], [date(2026, 11, 23)]]
    said = {record.message for record in caplog.records if record.levelno >= logging.WARNING}
    assert said == {"Daily recap broke", "No daily recaps in a time zone"}


async def test_many_are_told_in_batches_and_a_run_that_has_no_time_left_says_so(
    context, database_url, tenant, monkeypatch
):
    for n in range(5):
        await tenant(f"t{n}", "America/Denver" if n % 2 else "America/New_York")
    monkeypatch.setattr(recap, "BATCH", 2)
    monkeypatch.setattr(recap, "BUDGET", -1.0)
    now = at("2026-11-23T21:00-05:00")
    assert await recap.tell_all(context, now) is True
    monkeypatch.setattr(recap, "BUDGET", 0.6)
    assert await recap.tell_all(context, now) is False
    for n in range(5):
        assert told(database_url, f"t{n}") == [date(2026, 11, 23)]


# The figures.


class Books:
    """Random rows of one tenant, as they are kept and as they are put into the database."""

    def __init__(self, seed: int, since: datetime, until: datetime) -> None:
        self.random = random.Random(seed)
        self.since, self.until = since, until
        self.leads = [{"id": self._id(), "phone": f"+1212555{n:04}", "created_at": self._when()} for n in range(40)]
        self.calls = [self._call() | {"external_id": n} for n in range(400)]
        self.rescues = [self._rescue(call) for call in self.calls if call["missed"]]
        self.messages = [self._message() for _ in range(150)]
        self.tasks = [{"id": self._id(), "status": self.random.choice(["open", "done"])} for _ in range(9)]

    def _id(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128)))

    def _when(self, before: float = 3.0) -> datetime:
        """A moment from some days before the period to a day after it, sometimes just at one of its ends."""
        edge = self.random.choice([self.since, self.until]) + timedelta(microseconds=self.random.choice([-1, 0, 1]))
        length = (timedelta(days=before + 2)) * self.random.random()
        return edge if self.random.random() < 0.15 else self.since - timedelta(days=before) + length

    def _call(self) -> dict[str, object]:
        direction = self.random.choice(["inbound", "inbound", "inbound", "outbound", None])
        status = self.random.choice(["completed", "completed", "completed", "ringing", "routed"])
        answered, voicemail = self.random.choice([True, False, None]), self.random.choice([True, False, None])
        missed = status == "completed" and direction == "inbound" and bool(answered is False or voicemail)
        return {"id": self._id(), "lead_id": self.random.choice(self.leads)["id"], "direction": direction,
                "status": status, "answered": answered, "voicemail": voicemail, "missed": missed,
                "started_at": self._when()}  # fmt: skip

    def _rescue(self, call: dict[str, object]) -> dict[str, object]:
        called = call["started_at"]

        def later(chance: float) -> datetime | None:
            return called + timedelta(hours=50) * self.random.random() if self.random.random() < chance else None

        status = self.random.choice(["queued", "texted", "escalated", "recovered", "recovered", "opted_out", "expired"])
        ended = status in {"recovered", "opted_out", "expired"}
        why = {"recovered": ["reply", "answered_call", "outbound_call", "outbound_text", "task_done"],
               "opted_out": ["stop"], "expired": ["time"]}.get(status, [None])  # fmt: skip
        return {"id": self._id(), "call_id": call["id"], "lead_id": call["lead_id"], "status": status,
                "called_at": called, "first_text_at": later(0.6), "escalated_at": later(0.3),
                "ended_at": later(1.0) if ended else None, "ended_by": self.random.choice(why)}  # fmt: skip

    def _message(self) -> dict[str, object]:
        direction, created = self.random.choice(["inbound", "outbound"]), self._when()
        status = "received" if direction == "inbound" else self.random.choice(["sent", "delivered", "queued", "failed"])
        sent = created + timedelta(hours=20) * self.random.random() if status in {"sent", "delivered"} else None
        return {"id": self._id(), "lead_id": self.random.choice(self.leads)["id"], "direction": direction,
                "status": status, "created_at": created, "sent_at": sent}  # fmt: skip

    def keep(self, url: str, tenant: str) -> None:
        constant = {
            "leads": {"last_contact_at": self.since},
            "calls": {"provider": "callrail", "reports": "{}"},
            "missed_calls": {},
            "messages": {"body": "words", "sender": "development"},
            "tasks": {"kind": "call_back", "title": "Call back"},
        }
        options = f"-c role=ottoai_app -c app.tenant_id={tenant}"
        with closing(psycopg2.connect(url, options=options)) as connection, connection, connection.cursor() as cursor:
            kept = (self.leads, self.calls, self.rescues, self.messages, self.tasks)
            for (table, constants), rows in zip(constant.items(), kept, strict=True):
                full = [{"tenant_id": tenant, **row, **constants} for row in rows]
                sql = f"insert into {table} ({', '.join(full[0])}) values %s"
                psycopg2.extras.execute_values(cursor, sql, [tuple(row.values()) for row in full])

    def within(self, moment: datetime | None) -> bool:
        return moment is not None and self.since <= moment < self.until

    def figures(self) -> dict[str, object]:
        """The recap's figures, counted here once more and in another way."""
        outcomes = {"answered": 0, "missed": 0, "voicemail": 0, "outbound": 0, "unfinished": 0}
        for call in self.calls:
            if self.within(call["started_at"]):
                outcomes[outcome(call)] += 1
        found = {f"calls_{name}": count for name, count in outcomes.items()} | {"calls_total": sum(outcomes.values())}
        found["new_leads"] = sum(self.within(lead["created_at"]) for lead in self.leads)
        found["rescues_opened"] = sum(self.within(rescue["called_at"]) for rescue in self.rescues)
        found["rescues_texted"] = sum(self.within(rescue["first_text_at"]) for rescue in self.rescues)
        found["rescues_escalated"] = sum(self.within(rescue["escalated_at"]) for rescue in self.rescues)
        ended = [rescue["status"] for rescue in self.rescues if self.within(rescue["ended_at"])]
        for status in ("recovered", "opted_out", "expired"):
            found[f"rescues_{status}"] = ended.count(status)
        found["recovery_rate"] = pytest.approx(ended.count("recovered") / len(ended), abs=1e-4) if ended else None
        waits = sorted(wait for rescue in self.rescues if (wait := self.response(rescue)) is not None)
        found["response_median_seconds"] = pytest.approx(statistics.median(waits), abs=0.06) if waits else None
        found["response_p90_seconds"] = pytest.approx(percentile(waits, 0.9), abs=0.06) if waits else None
        found["texts_sent"] = sum(self.within(each["sent_at"]) for each in self.messages)
        found["texts_received"] = sum(
            self.within(each["created_at"]) for each in self.messages if each["direction"] == "inbound"
        )
        found["open_tasks"] = sum(task["status"] == "open" for task in self.tasks)
        return found

    def response(self, rescue: dict[str, object]) -> float | None:
        moments = [rescue["first_text_at"]] if rescue["first_text_at"] else []
        if rescue["ended_by"] in {"outbound_call", "outbound_text"}:
            moments.append(rescue["ended_at"])
        if not moments or not self.within(min(moments)):
            return None
        return (min(moments) - rescue["called_at"]).total_seconds()


def outcome(call: dict[str, object]) -> str:
    if call["direction"] == "outbound":
        return "outbound"
    if call["direction"] is None or call["status"] != "completed":
        return "unfinished"
    if call["voicemail"]:
        return "voicemail"
    return {True: "answered", False: "missed", None: "unfinished"}[call["answered"]]


def percentile(ordered: list[float], part: float) -> float:
    place = (len(ordered) - 1) * part
    low = int(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)


@pytest.mark.parametrize("seed", range(6))
async def test_the_figures_are_those_of_the_day_and_of_this_tenant(context, database_url, tenant, seed):
    zones = ("America/New_York", "Australia/Lord_Howe", "Pacific/Kiritimati")
    now = (at("2026-11-02T12:00Z"), at("2026-04-06T12:00Z"))[seed % 2]  # after days on which clocks were set
    books = {}
    for n, zone in enumerate(zones):
        name = await tenant(f"t{n}", zone)
        day = recaps.last_day(now, ZoneInfo(zone))
        books[name] = Books(seed * 10 + n, day.since, day.until)
        books[name].keep(database_url, name)
    await recap.tell_all(context, now)
    for name, kept in books.items():
        data = last(database_url, name)
        counted = kept.figures()
        assert {key: data[key] for key in counted} == counted
        assert data.keys() - counted.keys() == {"day", "since", "until", "timezone"}
        assert min(counted["calls_total"], counted["rescues_recovered"], counted["texts_sent"]) > 0


def test_the_event_is_in_the_catalogue():
    assert EVENTS[NAME] is DailyRecap
