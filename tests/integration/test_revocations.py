"""How a process learns what was revoked: nothing that is committed late is missed, and nothing is read for ever."""

from contextlib import closing

import psycopg2
import pytest

from ottoai.db import Database
from ottoai.domain import revocations
from ottoai.web.auth import OVERLAP, Revoked
from tests.conftest import execute

REVOKE = "insert into revocations values (null, %s, now())"


class Process:
    """What one process knows, at a time that the test sets. `read`: rows that its last look took."""

    def __init__(self, db: Database) -> None:
        self.now = 1000.0
        self.read = 0
        self._system = db.system()
        self._revoked = Revoked(lambda: self.now)

    async def look(self, after: float = 0.0) -> list[str | None]:
        """Who is new, so many seconds later."""
        self.now += after
        return [each.user_id for each in await self._revoked.refresh(self._system)]


@pytest.fixture
async def process(db, demo, monkeypatch):
    changed = revocations.changed
    made = Process(db)

    async def counting(*arguments):
        found = await changed(*arguments)
        made.read = len(found)
        return found

    monkeypatch.setattr(revocations, "changed", counting)
    return made


async def test_what_was_revoked_is_read_until_nothing_can_come_before_it(process, database_url):
    execute(database_url, REVOKE, "ann")
    assert (await process.look(), process.read) == (["ann"], 1)
    assert (await process.look(OVERLAP.total_seconds()), process.read) == ([], 1)
    for _ in range(2):
        assert (await process.look(0.5), process.read) == ([], 0)
    execute(database_url, REVOKE, "ben")
    assert (await process.look(0.5), process.read) == (["ben"], 1)
    assert (await process.look(0.5), process.read) == ([], 2), "now something may come before it again"


@pytest.mark.parametrize("quiet", [False, True])
async def test_one_that_is_committed_after_a_later_one_is_heard_of(process, database_url, quiet):
    if quiet:
        for _ in range(2):
            assert await process.look(OVERLAP.total_seconds()) == []
    with closing(psycopg2.connect(database_url)) as slow, slow.cursor() as cursor:
        cursor.execute(REVOKE, ("ann",))
        execute(database_url, REVOKE, "ben")
        assert await process.look() == ["ben"]
        assert await process.look(OVERLAP.total_seconds() - 0.2) == []
        slow.commit()
    assert await process.look(0.4) == ["ann"], "though that long has passed since"
