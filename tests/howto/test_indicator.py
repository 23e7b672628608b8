"""docs/howto/indicator.md, followed: the new indicator passes its bound on /ops, and its alert fires."""

import msgspec
import pytest

from tests.background import eventually
from tests.helpers import send
from tests.operators import Operator
from tests.rows import add_lead

pytestmark = pytest.mark.timeout(180)


async def test_indicator(follow, make_token, demo, database_url):
    copy = follow("indicator")
    await copy.start("api")
    operator, path = Operator(copy.base), f"/api/leads/{add_lead(database_url)}/messages"

    async def reading():
        status = msgspec.json.decode((await operator.get("/ops.json")).text)
        (found,) = [each for each in status["indicators"] if each["id"] == "replays"]
        firing = {each["name"] for each in status["alerts"] if each["state"] == "firing"}
        return found["verdict"], "replays.warning" in firing

    assert await reading() in {("ok", False), ("none", False)}
    for _ in range(22):
        once = ("Idempotency-Key", "one-and-the-same")
        assert (await send(copy.base, "POST", path, make_token(), {"body": "Hi"}, once))[0] == 202

    async def fires():
        return await reading() == ("warning", True)

    await eventually(fires, 30)
    copy.finish()
    assert "OttoaiReplaysWarning" in (copy.root / "monitoring" / "alerts.yml").read_text()
    assert "Texts asked for again" in (copy.root / "docs" / "OPERATIONS.md").read_text()
