"""Providers' secrets: encrypted at rest, rotated, retired, never shown."""

import pytest
from cryptography.fernet import Fernet

from ottoai.vault import SEALED, SecretUnreadable, Vault
from ottoai.webhooks import receive
from tests.conftest import SECRET_KEY, SIGNING_KEY, execute
from tests.helpers import deliver, report

OWN = SIGNING_KEY.format("demo")


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """No process remembers a tenant's keys for a moment."""
    monkeypatch.setattr(receive, "ROUTES_KEPT", (0.0, 0.0))


def stored(url: str) -> list[tuple[object, ...]]:
    return execute(url, "select current, previous from credentials order by tenant_id, name")


async def test_what_is_stored_is_no_secret(base, database_url):
    ((current, previous),) = stored(database_url)
    assert str(current).startswith(SEALED)
    assert OWN not in str(current)
    assert previous is None


async def test_a_key_is_rotated_and_the_previous_one_retired(base, command, database_url):
    code, said = await command("tenant", "rotate-key", "demo", "--callrail-key", "-", typed="the-new-one\n")
    assert code == 0
    for n, key in enumerate(("the-new-one", OWN)):
        assert (await deliver(base, "pre-call", report("pre-call", 7000 + n), key=key))[0] == 200
    code, told = await command("tenant", "keys", "demo")
    assert "callrail\tsigning_key" in told
    assert "previous one is still accepted" in told
    code, gone = await command("tenant", "retire-key", "demo", "callrail-key")
    assert code == 0
    assert (await deliver(base, "pre-call", report("pre-call", 7002), key="the-new-one"))[0] == 200
    assert (await deliver(base, "pre-call", report("pre-call", 7003), key=OWN))[0] == 401
    assert (await command("tenant", "retire-key", "demo", "callrail-key"))[0] == 1
    assert all(secret not in text for secret in ("the-new-one", OWN) for text in (said, told, gone))


async def test_secret_keys_are_rotated(base, command, database_url):
    new = Fernet.generate_key().decode()
    execute(database_url, "update credentials set previous = 'as it was before encryption' returning 1")
    before = stored(database_url)
    code, said = await command("rekey", keys=f"{new},{SECRET_KEY}")
    assert (code, said) == (0, "encrypted the secrets of 1 credentials with the first key\n")
    ((current, previous),) = stored(database_url)
    assert (current, previous) != before[0]
    assert Vault((new,)).open(str(current)) == OWN
    assert Vault((new,)).open(str(previous)) == "as it was before encryption"
    code, said = await command("rekey")
    assert code == 1
    assert "SECRET_KEYS lacks" in said


async def test_a_secret_that_cannot_be_read_loses_no_delivery(base, database_url):
    """It counts as a database that is away: here, without a spool, the answer is 503 and never 401 or 200."""
    other = Vault((Fernet.generate_key().decode(),)).seal(OWN)
    execute(database_url, "update credentials set current = %s returning 1", other)
    status, problem = await deliver(base, "pre-call", report("pre-call", 7001))
    assert (status, problem["title"]) == (503, "Unavailable")
    assert OWN not in str(problem)


def test_a_vault_opens_what_it_sealed_and_nothing_else():
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    sealed = Vault((old,)).seal("secret")
    assert Vault((new, old)).open(sealed) == "secret"
    for stored_as in (sealed, "secret", ""):
        with pytest.raises(SecretUnreadable):
            Vault((new,)).open(stored_as)
    assert Vault((new,)).open(Vault((new, old)).reseal(sealed)) == "secret"
