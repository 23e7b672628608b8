"""Words of others on an operator's terminal, credentials on the wire, and what SECURITY.md claims."""

import re

import pytest

from ottoai import terminal
from ottoai.errors import ConfigError
from tests.conftest import make_config


def test_nobodys_words_steer_the_terminal(capsys):
    for write in (terminal.say, terminal.tell):
        write("Ann\x1b[2J\x9b31m\x07\r\nsecond\tcolumn é")
        captured = capsys.readouterr()
        assert captured.out + captured.err == "Ann\\x1b[2J\\x9b31m\\x07\\x0d\nsecond\tcolumn é\n"


async def test_why_a_command_failed_steers_no_terminal_either(command):
    assert await command("tenant", "show", "a\x1b[2J") == (1, "There is no tenant a\\x1b[2J.\n")
    assert await command("tenant", "erase", "--yes", "a\x1b[2J") == (
        0,
        "There is no tenant a\\x1b[2J: nothing was erased.\n",
    )


def test_commands_print_in_one_way(repository):
    """So that none forgets it: nothing but ottoai/terminal.py writes to standard output or error."""
    writes = re.compile(r"\bprint\(|\bstd(?:out|err)\.(?:write|buffer)")
    files = [path for package in ("ottoai", "jobs") for path in (repository / package).rglob("*.py")]
    production = [path for path in files if path.parent.name not in {"dev", "embedded"}]
    writers = {path.stem for path in production if writes.search(path.read_text())}
    assert writers == {"commands_privacy"}  # an export is for programs


@pytest.mark.parametrize(
    "name", ["CALLRAIL_API_URL", "TWILIO_API_URL", "JWT_JWKS_URL", "ALERT_WEBHOOK_URL", "HEARTBEAT_URL"]
)
def test_credentials_leave_the_machine_encrypted(name):
    for url in ("https://api.example.com", "http://127.0.0.1:8080"):
        make_config("postgresql://x", "redis://x", **{name: url})
    for url in ("http://api.example.com", "http://127.0.0.1.example.com", "https://", "file:///etc/passwd"):
        with pytest.raises(ConfigError, match=name):
            make_config("postgresql://x", "redis://x", **{name: url})


def test_what_the_threat_model_names_is_there(repository):
    text = (repository / "SECURITY.md").read_text()
    named = re.findall(r"`((?:tests|ottoai|jobs|sql|docs)/[\w/.-]+?)(?:::(\w+))?`", text)
    assert len(named) > 30
    for path, test in named:
        assert (repository / path).exists(), path
        if test:
            assert re.search(rf"def {test}\b", (repository / path).read_text()), (path, test)
