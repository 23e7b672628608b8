"""What commands leave under History: written down before it is done, with what came of it after, and nobody's phone."""

import argparse
import asyncio
from contextlib import closing

import psycopg2
import pytest

from ottoai.__main__ import parser
from ottoai.domain import tenants
from tests.conftest import execute
from tests.helpers import until
from tests.integration.test_operators import NOBODY, audited

# Every command that changes something or gives out all that is kept, and what is written down of it.
ACTS = {
    "rekey": ("", "rekey", "all secrets", "1 encrypted"),
    "tenant add": ("new --name New", "tenant add", "new", "done"),
    "tenant set": ("demo --name Demo --tracking-number +12125550144", "tenant set", "demo",
                   "changed: name, tracking_number"),
    "tenant rotate-key": ("demo --callrail-key canary-secret-acts", "tenant rotate-key", "demo",
                          "changed: callrail_key"),
    "tenant retire-key": ("demo callrail-key", "tenant retire-key", "demo, callrail-key", "failed: not found"),
    "tenant revoke": ("demo --user alice", "tenant revoke", "demo, alice", "done"),
    "tenant export": ("demo --output -", "tenant export", "demo", "rows exported"),
    "tenant erase": ("demo --yes", "tenant erase", "demo", "erased"),
    "tenant reconcile": ("demo", "tenant reconcile", "demo", "failed: "),
    "quarantine replay": (NOBODY, "replay", NOBODY, "failed: not found"),
    "jobs retry": (NOBODY, "retry", NOBODY, "0 opened again"),
    "jobs discard": (NOBODY, "discard", NOBODY, "0 discarded"),
    "queues pause": ("bulk", "pause", "bulk", "paused"),
    "queues resume": ("bulk", "resume", "bulk", "it was not paused"),
}  # fmt: skip
READING = {
    "config", "tenant list", "tenant show", "tenant keys", "quarantine list", "quarantine show", "jobs list",
    "jobs show", "queues list", "tail",
}  # fmt: skip
# Of the machine or the developer: they run without a database, before it has its schema, or on samples.
OTHERS = {"api", "dev", "migrate", "token inspect", "send-webhook"}


def commands(of: argparse.ArgumentParser, name: str = "") -> set[str]:
    subs = [each for each in of._actions if isinstance(each, argparse._SubParsersAction)]
    if not subs:
        return {name}
    return {found for each in subs for word, sub in each.choices.items() for found in commands(sub, f"{name} {word}")}


def test_no_command_is_forgotten():
    assert {name.strip() for name in commands(parser())} == ACTS.keys() | READING | OTHERS


@pytest.mark.parametrize("name", ACTS)
async def test_an_act_is_written_down_before_it_is_done(command, demo, database_url, name):
    words, action, target, outcome = ACTS[name]
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "lock table tenants, credentials, revocations, outbox, paused_queues, idempotency_keys"
            " in access exclusive mode"
        )  # it cannot be done yet
        doing = asyncio.create_task(command(*name.split(), *words.split()))
        await until(lambda: [entry[1:] for entry in audited(database_url)] == [(action, target, "")])
        assert not doing.done()
        connection.rollback()
    await doing
    [(actor, _, _, told)] = audited(database_url)
    assert actor.endswith(" (command line)")
    assert outcome in told


async def test_what_cannot_be_written_down_is_not_done(command, demo, database_url):
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("lock table ops_audit in access exclusive mode")
        assert (await command("tenant", "revoke", "demo"))[0] == 1
    assert execute(database_url, "select * from revocations") == []


async def test_what_fails_is_written_down_without_its_words(command, demo, database_url, monkeypatch):
    async def stumbles(*_: object) -> None:
        raise ValueError("+12125550142 of Robin Person")

    assert (await command("tenant", "revoke", "nobody"))[0] == 1
    assert (await command("tenant", "erase", "nobody", "--yes"))[0] == 0
    monkeypatch.setattr(tenants, "retire", stumbles)
    with pytest.raises(ValueError, match="Robin"):
        await command("tenant", "retire-key", "demo", "callrail-key")
    assert [entry[1:] for entry in audited(database_url)] == [
        ("tenant revoke", "nobody, all users", "failed: not found"),
        ("tenant erase", "nobody", "there is no such tenant"),
        ("tenant retire-key", "demo, callrail-key", "failed: ValueError"),
    ]


async def test_no_phone_is_written_down(command, demo, database_url):
    for what, phone in (("export", "+12125550142"), ("erase", "+12125550142"), ("erase", "12125550"), ("erase", "12")):
        given = ("--output", "-") if what == "export" else ("--yes",)
        await command("tenant", what, "demo", "--phone", phone, *given)
    assert [entry[1:] for entry in audited(database_url)] == [
        ("tenant export", "demo, one phone", "0 rows exported"),
        ("tenant erase", "demo, one phone", "erased"),
        ("tenant erase", "demo, one phone", "failed: invalid input"),
        ("tenant erase", "demo, one phone", "failed: invalid input"),
    ]
