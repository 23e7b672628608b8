"""`make demo`, and the one webhook that everything begins with."""

import asyncio
import re
import sys

from tests.e2e.conftest import FIRST_EVENTS, TEXT_EVENTS, eventually, texts
from tests.helpers import report


def test_demo_shows_each_step_once_and_in_sequence(product):
    done = product.run(sys.executable, "-m", "scripts.demo", env={**product.environ, **product.settings})
    assert done.returncode == 0, done.stdout + done.stderr
    shown = re.findall(r"seq (\d+) +([a-z_.]+)", done.stdout)
    first = int(shown[0][0])
    assert [int(seq) for seq, _ in shown] == list(range(first, first + 8))
    created_or_updated = [name.replace("lead.updated", "lead.created") for _, name in shown]
    assert created_or_updated == FIRST_EVENTS + TEXT_EVENTS
    assert re.findall(r'"status":"(\w+)"', done.stdout) == ["processed", "duplicate_ignored"]
    assert "and no event." in done.stdout


async def test_fifty_simultaneous_copies_of_a_signed_delivery_have_one_effect(product, call_id):
    head = product.head()
    body = report("call-complete", call_id)
    answers = await asyncio.gather(*(product.deliver(body) for _ in range(50)))
    assert [status for status, _ in answers] == [200] * 50
    assert sorted(answer["status"] for _, answer in answers) == ["duplicate_ignored"] * 49 + ["processed"]
    database = product.config.database_url
    (message,) = await eventually(lambda: texts(database, [call_id]))
    assert product.sql("select count(*) from calls where external_id = %s", str(call_id)) == [(1,)]
    logged = product.sql("select event from events where seq > %s and event not like 'lead.%%' order by seq", head)
    assert [name for (name,) in logged] == [name for name in FIRST_EVENTS if name != "lead.created"] + TEXT_EVENTS
    assert product.sql("select count(*) from development_texts where message_id = %s", message) == [(1,)]
    await product.line("worker", message="Text message recorded", message_id=message)
