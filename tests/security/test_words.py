"""Words of others on an operator's terminal, credentials on the wire, and what SECURITY.md claims."""

import re

import pytest

from ottoai import commands
from ottoai.errors import ConfigError
from tests.conftest import make_config


def test_nobodys_words_steer_the_terminal(capsys):
    commands.say("Ann\x1b[2J\x9b31m\x07\r\nsecond\tcolumn é")
    assert capsys.readouterr().out == "Ann\\x1b[2J\\x9b31m\\x07\\x0d\nsecond\tcolumn é\n"


@pytest.mark.parametrize("name", ["CALLRAIL_API_URL", "TWILIO_API_URL", "JWT_JWKS_URL"])
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
