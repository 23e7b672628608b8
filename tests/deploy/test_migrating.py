"""Migrating while processes are at work: what has to wait for a table does not make webhooks wait for long."""

import asyncio
import itertools
from contextlib import closing, suppress

import psycopg2

from ottoai import samples
from ottoai.migrate import migrate
from tests.conftest import execute
from tests.helpers import deliver, report, until

UNDONE = "0020_failing"  # makes an index, for which nobody may be writing into the table
WAITING = "select count(*) from pg_locks where relation = 'outbox'::regclass and not granted"


async def test_webhooks_are_taken_while_a_migration_waits_for_a_table_in_use(base: str, database_url: str):
    execute(database_url, "drop index outbox_failing")
    execute(database_url, "delete from _yoyo_migration where migration_id = %s", UNDONE)
    answers: list[int] = []

    async def webhooks() -> None:
        for call_id in itertools.count(samples.new_call_id()):
            status, _ = await deliver(base, "call-complete", report("call-complete", call_id))
            answers.append(status)

    def waits() -> bool:
        return execute(database_url, WAITING) != [(0,)]

    with closing(psycopg2.connect(database_url)) as somebody, somebody.cursor() as cursor:
        cursor.execute("lock table outbox in row exclusive mode")  # at work in a transaction that takes its time
        sender = asyncio.create_task(webhooks())
        migrating = asyncio.create_task(asyncio.to_thread(migrate, database_url))
        await until(waits)
        await until(lambda: not waits())  # it gives up, though the table is not free
        before = len(answers)
        await until(lambda: len(answers) > before + 5)
        assert not migrating.done()
        somebody.rollback()
        assert await migrating == [UNDONE]
        sender.cancel()
        with suppress(asyncio.CancelledError):
            await sender
    assert set(answers) == {200}
    assert execute(database_url, "select count(*) from pg_class where relname = 'outbox_failing'") == [(1,)]
