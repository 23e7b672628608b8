"""`python -m ottoai queues`: which queues are paused, pausing one, and letting it go on."""

from tests.conftest import execute


async def test_a_queue_is_paused_and_goes_on_once(command, database_url):
    assert await command("queues") == (0, "urgent\topen\ndefault\topen\nbulk\topen\n")
    assert (await command("queues", "pause", "bulk"))[0] == 0
    assert await command("queues", "pause", "bulk") == (1, "it was paused already\n")
    code, said = await command("queues", "list")
    assert (code, said.splitlines()[:2]) == (0, ["urgent\topen", "default\topen"])
    assert said.splitlines()[2].startswith("bulk\tpaused by ")
    [(actor,)] = execute(database_url, "select paused_by from paused_queues")
    assert actor.endswith(" (command line)")
    assert await command("queues", "resume", "bulk") == (0, "goes on\n")
    assert await command("queues", "resume", "bulk") == (1, "it was not paused\n")
    assert execute(database_url, "select action, target, outcome from ops_audit order by id") == [
        ("pause", "bulk", "paused"),
        ("pause", "bulk", "it was paused already"),
        ("resume", "bulk", "goes on"),
        ("resume", "bulk", "it was not paused"),
    ]
