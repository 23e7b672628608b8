"""docs/howto/job.md, followed: a worker runs the new job, which beat found due."""

import pytest

from ottoai.client import connect
from tests.conftest import of_tenant
from tests.helpers import send

pytestmark = pytest.mark.timeout(180)


async def test_job(follow, make_token, task, database_url):
    copy = follow("job")
    await copy.start("api", "worker", "beat")
    async with connect(copy.base, make_token()) as socket:
        await socket.subscribe("tenant:demo:events")
        await send(copy.base, "PATCH", task, make_token(), {"assigned_to": "ann"}, ("If-Match", "*"))
        assert (await socket.event())["data"]["assigned_to"] == "ann"
        for later in (
            "tasks set updated_at = updated_at",
            "outbox set due_at = due_at",
            "outbox set enqueue_at = due_at",
        ):
            of_tenant(database_url, f"update {later} - interval '4 hours'")
        taken = await socket.event()
    assert (taken["event"], taken["data"]["assigned_to"]) == ("task.updated", None)
    assert of_tenant(database_url, "select job, state, attempts from outbox") == [("take_back", "done", 1)]
    copy.finish()
