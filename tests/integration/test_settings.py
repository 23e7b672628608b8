"""A tenant's settings: said on the command line, kept, shown, and held to."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ottoai.domain import tenants
from ottoai.errors import InvalidInput
from ottoai.vault import Vault
from ottoai.webhooks import receive
from tests.conftest import SECRET_KEY, of_tenant
from tests.helpers import deliver, report

SHOWN = ("name", "timezone", "hours", "holidays", "texts", "first-text", "follow-up-text", "sla-minutes")
UNSET = ("none", "on", "default", "default", "120")


@pytest.fixture
def shown(command):
    """The settings that `tenant show` shows, in the order of SHOWN."""

    async def show(tenant: str) -> tuple[str, ...]:
        code, said = await command("tenant", "show", tenant)
        assert code == 0, said
        told = dict(line.split("\t", 1) for line in said.splitlines())
        return tuple(told[name] for name in SHOWN)

    return show


async def test_settings_are_set_shown_and_taken_back(demo, command, shown):
    assert await shown(demo) == ("Demo", "America/New_York", "always", *UNSET)
    words = ("--name", "Demo & Sons", "--timezone", "America/Denver", "--hours", "Mon-Fri 08:00-18:00",
             "--holidays", "2027-01-01, 2026-12-25,2027-01-01", "--texts", "off",
             "--first-text", "{company} here: we are sorry!", "--follow-up-text", "Still {company}.",
             "--sla-minutes", "45")  # fmt: skip
    assert await command("tenant", "set", demo, *words) == (0, "changed tenant demo\n")
    changed = ("Demo & Sons", "America/Denver", "Mon-Fri 08:00-18:00", "2026-12-25,2027-01-01", "off",
               "{company} here: we are sorry!", "Still {company}.", "45")  # fmt: skip
    assert await shown(demo) == changed
    assert (await command("tenant", "set", demo, "--sla-minutes", "60"))[0] == 0  # and nothing else
    assert await shown(demo) == (*changed[:-1], "60")
    words = ("--holidays", "none", "--texts", "on", "--first-text", "", "--follow-up-text", "default")
    assert (await command("tenant", "set", demo, *words))[0] == 0
    assert (await shown(demo))[3:] == (*UNSET[:-1], "60")


async def test_what_is_shown_can_be_said_again_and_of_a_new_tenant(demo, command, shown):
    words = ("--holidays", "2026-12-25", "--texts", "off", "--first-text", "Hello", "--sla-minutes", "1")
    assert (await command("tenant", "add", "acme", "--name", "Acme", *words))[0] == 0
    told = await shown("acme")
    assert told == ("Acme", "UTC", "Mon-Fri 09:00-17:00", "2026-12-25", "off", "Hello", "default", "1")
    again = [word for name, value in zip(SHOWN, told, strict=True) for word in ("--" + name, value)]
    assert (await command("tenant", "set", demo, *again))[0] == 0
    assert await shown(demo) == told
    assert (await command("tenant", "add", "plain", "--name", "Plain"))[0] == 0
    assert (await shown("plain"))[3:] == UNSET
    code, said = await command("tenant", "show", "nobody")
    assert (code, said) == (1, "There is no tenant nobody.\n")


async def test_a_version_is_for_a_change_that_shows(db, demo, database_url):
    async def version_after(settings, given):
        await tenants.change(db.system(), Vault((SECRET_KEY,)), demo, settings, given)
        [(version,)] = of_tenant(database_url, "select version from tenants")
        return version

    assert await version_after({"sla_minutes": 120, "holidays": [], "first_text": None}, {}) == 1
    assert await version_after({}, {"callrail_key": "another"}) == 1
    assert await version_after({"holidays": [date(2026, 12, 25)]}, {}) == 2
    assert await version_after({"first_text": "Hello"}, {}) == 3
    assert await version_after({"first_text": None, "sla_minutes": 5}, {}) == 4


YEAR = [date(2026, 1, 1) + timedelta(days=n) for n in range(367)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("name", ["", "  ", "x" * 201, "two\nlines"]),
        ("timezone", ["", "Mars/Base"]),
        ("hours", ["", "never", "Mon-Fri 17:00-09:00"]),
        ("holidays", [YEAR]),
        ("first_text", ["", " ", "x" * 481, "Hello {name}", "{company}: {", "{{company}}"]),
        ("follow_up_text", ["", "}"]),
        ("sla_minutes", [0, 2881, -1]),
    ],
)
async def test_what_cannot_be_is_refused_by_its_name_and_changes_nothing(db, demo, database_url, name, values):
    everything = "select settings_json(t) from tenants as t"
    before = of_tenant(database_url, everything)
    for value in values:
        with pytest.raises(InvalidInput, match=f"^{name}: "):
            await tenants.change(db.system(), Vault((SECRET_KEY,)), demo, {"sla_minutes": 7, name: value}, {})
    assert of_tenant(database_url, everything) == before


async def test_the_longest_that_may_be(db, demo, shown):
    longest = {
        "name": "x" * 200,
        "holidays": YEAR[:366] * 2,
        "first_text": "{company}" + "x" * 471,
        "sla_minutes": 2880,
    }
    await tenants.change(db.system(), Vault((SECRET_KEY,)), demo, longest, {})
    told = await shown(demo)
    assert told[3] == ",".join(day.isoformat() for day in YEAR[:366])
    assert (told[5], told[7]) == (longest["first_text"], "2880")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 1, "Nothing to change"),
        (("--holidays", "2026-13-25"), 1, "holidays: '2026-13-25' is no day"),
        (("--holidays", "2026-12-25,"), 1, "holidays: '' is no day"),
        (("--name", ""), 1, "name: "),
        (("--sla-minutes", "0"), 1, "sla_minutes: "),
    ],
)
async def test_mistakes_are_told(demo, command, words, code, said):
    done = await command("tenant", "set", demo, *words)
    assert (done[0], done[1].count("\n")) == (code, 1)
    assert said in done[1]


async def test_nobody_is_texted_on_a_holiday(base, command, database_url, monkeypatch):
    monkeypatch.setattr(receive, "ROUTES_KEPT", (0.0, 0.0))  # a process remembers a tenant's hours for some seconds
    zone = ZoneInfo("America/New_York")
    today = datetime.now(zone).date()
    assert (await command("tenant", "set", "demo", "--holidays", f"{today}"))[0] == 0
    assert (await deliver(base, "call-complete", report("call-complete", 7001)))[0] == 200
    [(due,)] = of_tenant(database_url, "select text_due_at from missed_calls")
    assert due.astimezone(zone).date() == today + timedelta(days=1)
    assert (await command("tenant", "set", "demo", "--holidays", "none"))[0] == 0
    assert (await deliver(base, "call-complete", report("call-complete", 7002)))[0] == 200
    [(due,)] = of_tenant(database_url, "select text_due_at from missed_calls order by created_at desc limit 1")
    assert due < datetime.now(UTC) + timedelta(days=1)
