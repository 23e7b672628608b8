"""Workers are killed, scaled up and down; what they did is counted once, by the watch and by Prometheus."""

from contextlib import ExitStack

from ottoai.queue import Queues, client
from tests import promtool
from tests.background import eventually, process
from tests.conftest import execute
from tests.indicators.test_jobs import stage_many


async def test_killed_scaled_to_three_and_back_to_one(watch, config):
    queues = Queues(client(config))
    counted = 0

    async def fail(times):
        """So many jobs that nobody knows how to do; until the workers have told of all."""
        nonlocal counted
        queues.enqueue(stage_many(watch.url, "nonsense", times))
        counted += times

        async def told():
            await watch.look(5)
            return watch.reading("tasks_failing").value == counted

        await eventually(told, 20)

    with ExitStack() as stack:
        first = stack.enter_context(process("worker", config))
        await fail(20)
        first.kill()
        first.wait()
        three = [stack.enter_context(process("worker", config)) for _ in range(3)]
        await fail(40)
        for each in three[1:]:
            each.terminate()
        for each in three[1:]:
            each.wait()
        await fail(10)
        for _ in range(6):
            await watch.look(5)
            assert watch.reading("tasks_failing").value == counted == 70, "nothing grows by itself"
    assert execute(watch.url, "select count(*) from outbox where state = 'dead'") == [(counted,)]
    if promtool.PROMTOOL:
        ((_, told),) = promtool.evaluate(watch.said, "ottoai:tasks_failing")["ottoai:tasks_failing"].items()
        assert round(told) == counted
