"""The commands of `python -m ottoai` in a second terminal, which knows no more than the data folder."""

import asyncio
import json
import sys
import urllib.error
import urllib.request

import pytest

from tests.e2e.conftest import ROOT, eventually
from tests.helpers import get


def test_tenant_is_added_once(product):
    words = ("tenant", "add", "acme", "--name", "Acme Plumbing", "--hours", "always", "--callrail-key", "-")
    added = product.ottoai(*words, input="a-signing-key\n")
    assert added.returncode == 0, added.stderr
    assert added.stdout.splitlines()[0] == "added tenant acme"
    assert "a-signing-key" not in added.stdout
    again = product.ottoai(*words, input="a-signing-key\n")
    assert again.returncode == 1
    assert "acme is there already" in again.stderr
    assert "Traceback" not in again.stderr
    assert "acme\tAcme Plumbing" in product.ottoai("tenant", "list").stdout


def test_a_listing_that_nobody_reads_to_its_end(product):
    line = f"{sys.executable} -m ottoai config | true; echo ${{PIPESTATUS[0]}}"
    done = product.run("bash", "-c", line)
    assert (done.stdout, done.stderr) == ("0\n", "")


async def test_token_alone_on_its_line_opens_the_api(product):
    done = product.ottoai("token", "--org", "demo", "--user", "ann", "--ttl", "5m")
    assert done.returncode == 0
    (token,) = done.stdout.splitlines()
    assert (await get(product.base, "/api/calls", token))[0] == 200
    assert (await get(product.base, "/api/calls", token[:-4] + "AAAA"))[0] == 401


def test_token_takes_three_roles(product):
    words = ("token", "--org", "demo", "--user", "ann", "--role")
    for role in ("member", "manager", "service"):
        issued = product.ottoai(*words, role).stdout.strip()
        assert f"user ann, role {role}" in product.ottoai("token", "inspect", issued).stdout
    refused = product.ottoai(*words, "boss")
    assert refused.returncode == 2
    assert "boss" in refused.stderr


def test_token_inspect(product, token):
    done = product.ottoai("token", "inspect", "-", input=token + "\n")
    assert done.returncode == 0, done.stderr
    assert '"org_id": "demo"' in done.stdout
    assert "valid: tenant demo, user ann" in done.stdout
    forged = product.ottoai("token", "inspect", token[:-4] + "AAAA")
    assert forged.returncode == 1
    assert "NOT VALID" in forged.stdout


def test_send_webhook(product, call_id):
    done = product.ottoai("send-webhook", "call-complete", "--id", str(call_id))
    assert done.returncode == 0, done.stderr
    status, _, told = done.stdout.partition(" ")
    assert (status, json.loads(told)["status"]) == ("200", "processed")
    assert product.sql("select count(*) from calls where external_id = %s", str(call_id)) == [(1,)]


async def test_tenant_is_exported_and_erased(product, tmp_path):
    words = ("--name", "Leaving Plumbing", "--hours", "always", "--callrail-key", "-", "--callrail-company", "99")
    assert product.ottoai("tenant", "add", "leaving", *words, input="canary-secret-leaving\n").returncode == 0
    token = product.token("leaving")
    path = tmp_path / "leaving.jsonl"
    done = product.ottoai("tenant", "export", "leaving", "--output", str(path))
    assert done.returncode == 0, done.stderr
    assert "canary-secret" not in path.read_text()
    assert json.loads(path.read_text().splitlines()[0])["tenant_id"] == "leaving"
    assert (await get(product.base, "/api/calls", token))[0] == 200
    assert product.ottoai("tenant", "erase", "leaving", input="demo\n").returncode == 1
    assert "leaving" in product.ottoai("tenant", "list").stdout
    done = product.ottoai("tenant", "erase", "leaving", input="leaving\n")
    assert done.returncode == 0, done.stderr
    assert "leaving" not in product.ottoai("tenant", "list").stdout
    await eventually(lambda: refused(product, token))


def refused(product, token: str) -> bool:
    """Whether the API takes the token no longer: within a second of its revocation."""
    request = urllib.request.Request(f"{product.base}/api/calls", headers={"Authorization": f"Bearer {token}"})
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    return False


@pytest.mark.parametrize(
    ("kind", "table"), [("text-message", "messages"), ("sms", "messages"), ("call-status", "calls")]
)
def test_send_webhook_of_texts_and_of_twilio(product, call_id, kind, table):
    done = product.ottoai("send-webhook", kind, "--id", str(call_id), "--phone", "+12125550143")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "processed" in done.stdout
    column = "provider_id" if table == "messages" else "external_id"
    wanted = {"text-message": f"{call_id}", "sms": f"SM{call_id:032x}", "call-status": f"CA{call_id:032x}"}[kind]
    assert product.sql(f"select count(*) from {table} where {column} = %s", wanted) == [(1,)]


def test_config_masks_secrets(product):
    done = product.ottoai("config")
    assert done.returncode == 0, done.stderr
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert shown["ENVIRONMENT"] == "development"
    assert shown["PORT"] == product.settings["PORT"]
    for name in ("DATABASE_URL", "REDIS_URL", "JWT_SECRET", "SECRET_KEYS", "OPS_USERS"):
        assert shown[name] == "********"
    config = product.config
    assert all(secret not in done.stdout for secret in (config.jwt_secret, config.ops_users[0].password))


async def test_tail_prints_an_event_that_is_emitted(product):
    tail = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoai", "tail", cwd=ROOT, env=product.environ, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            assert json.loads(await tail.stdout.readline())["success"] is True
            _, _, told = await get(product.base, "/ws/test-emit?event=test.tail&tenant_id=demo", **{"X-Dev-Key": "dev"})
            event = json.loads(await tail.stdout.readline())
        assert (event["event"], event["seq"]) == ("test.tail", told["seq"])
    finally:
        tail.terminate()
        await tail.communicate()


@pytest.mark.parametrize(
    "words", [("migrate",), ("tenant", "set", "nobody", "--name", "x"), ("token", "--org", "demo")]
)
def test_mistakes_end_in_a_sentence(product, words):
    done = product.ottoai(*words)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if words == ("migrate",) else 1)
    assert done.stdout + done.stderr


def test_without_the_data_folder_nothing_is_found(product, tmp_path):
    done = product.ottoai("config", env=product.environ | {"DATA_DIR": str(tmp_path)})
    assert done.returncode == 1
    assert "DATABASE_URL is not set" in done.stderr
