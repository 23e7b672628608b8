"""docs/howto/event.md, followed: the new event arrives at a socket, and stands in /asyncapi.json."""

import pytest

from ottoai.client import connect
from tests.helpers import send

pytestmark = pytest.mark.timeout(180)


async def test_event(follow, make_token, task):
    copy = follow("event")
    await copy.start("api")
    async with connect(copy.base, make_token()) as socket:
        await socket.subscribe("tenant:demo:events")
        for status in ("done", "open"):
            await send(copy.base, "PATCH", task, make_token(), {"status": status}, ("If-Match", "*"))
        heard = [await socket.event() for _ in range(3)]
    assert [each["event"] for each in heard] == ["task.updated", "task.updated", "task.reopened"]
    assert heard[2]["data"]["status"] == "open"
    assert "task.reopened" in str(await copy.json("/asyncapi.json"))
    copy.finish()
    assert "`task.reopened`" in (copy.root / "docs" / "EVENTS.md").read_text()
