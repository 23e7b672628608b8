"""PostgreSQL away: no delivery is lost, none answered 200 that is not on the disk, and all are taken in afterwards."""

import asyncio
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography.fernet import Fernet

from ottoai.app import build_app
from ottoai.metrics import Metrics
from ottoai.vault import SecretUnreadable, Vault
from ottoai.webhooks import callrail
from ottoai.webhooks import spool as spools
from ottoai.webhooks.delivery import Raw
from ottoai.webhooks.spool import Spool, SpoolFull
from tests.conftest import SIGNING_KEY, add_tenant, execute, make_config, of_tenant
from tests.helpers import deliver, report, until
from tests.integration.test_webhooks import log_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def config(database_url, redis_url, folder):
    return make_config(database_url, redis_url, SPOOL_DIR=str(folder), SPOOL_MAX_MB="1", ENVIRONMENT="staging")


@pytest.fixture
def away(postgres_server):
    """PostgreSQL is away; called, it comes back."""
    postgres_server.stop()
    returned = []

    def back() -> None:
        if not returned:
            returned.append(True)
            postgres_server.start()

    yield back
    back()


def signed(body: dict[str, object]) -> Raw:
    data = msgspec.json.encode(body)
    headers = {"signature": callrail.sign(data, SIGNING_KEY.format("demo"))}
    now = datetime.now(UTC)
    return Raw(provider="callrail", kind="pre-call", hook="", headers=headers, body=data, received_at=now)


def waiting(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.delivery"))


async def emptied(folder: Path) -> None:
    await until(lambda: not waiting(folder), 20)


async def known(base: str) -> None:
    """Let the process learn the tenant's key."""
    assert (await deliver(base, "pre-call", report("pre-call", 7000)))[0] == 200


async def test_what_comes_meanwhile_is_kept_and_taken_in(base, folder, postgres_server, database_url):
    await known(base)
    postgres_server.stop()
    try:
        for kind in ("call-modified", "call-complete", "pre-call", "call-complete"):
            status, answer = await deliver(base, kind, report(kind, 7001, source_name=kind))
            assert (status, answer["status"]) == (200, "spooled")
        answers = await asyncio.gather(*(deliver(base, "pre-call", report("pre-call", 7100 + n)) for n in range(20)))
        assert {(status, answer["status"]) for status, answer in answers} == {(200, "spooled")}
        assert len(waiting(folder)) == 24
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    finally:
        postgres_server.start()
    await emptied(folder)
    assert of_tenant(database_url, "select missed, source from calls where external_id = '7001'") == [
        (True, "call-modified")
    ]
    assert of_tenant(database_url, "select count(*) from calls") == [(22,)]
    assert [seq for seq, _ in log_of(database_url)] == list(range(1, len(log_of(database_url)) + 1))
    assert (await deliver(base, "pre-call", report("pre-call", 7200)))[1]["status"] == "processed"


async def test_a_signature_that_cannot_be_checked_is_checked_later(base, folder, away, database_url):
    """Nobody is known yet, since the process began without the database."""
    assert (await deliver(base, "pre-call", report("pre-call", 7001)))[1]["status"] == "spooled"
    assert (await deliver(base, "pre-call", report("pre-call", 7002), key="forged"))[1]["status"] == "spooled"
    status, problem = await deliver(base, "pre-call", report("pre-call", 7003), key="")
    assert (status, problem["title"]) == (401, "Bad signature")
    assert (await deliver(base, "pre-call", b"{}"))[0] == 400
    away()
    await emptied(folder)
    assert of_tenant(database_url, "select external_id from calls") == [("7001",)]


async def test_strangers_cannot_fill_it(base, folder, away):
    kept = 0
    for number in range(100):
        status, _ = await deliver(base, "pre-call", report("pre-call", 7000 + number), key="forged")
        if status == 503:
            break
        kept += 1
    assert kept == 64  # a quarter of 1 MiB, in files that take 4 KiB each
    assert len(waiting(folder)) == kept


async def test_full_is_503_and_never_a_false_200(base, folder, postgres_server, database_url):
    await known(base)
    postgres_server.stop()
    try:
        answers = [await deliver(base, "pre-call", report("pre-call", 8000 + number)) for number in range(260)]
    finally:
        postgres_server.start()
    assert [status for status, _ in answers] == [200] * 256 + [503] * 4
    assert answers[-1][1]["title"] == "Unavailable"
    await emptied(folder)
    assert of_tenant(database_url, "select count(*) from calls") == [(257,)]


async def test_a_failing_disk_is_503(base, folder, postgres_server):
    await known(base)
    postgres_server.stop()
    try:
        shutil.rmtree(folder)
        assert (await deliver(base, "pre-call", report("pre-call", 7001)))[0] == 503
    finally:
        postgres_server.start()
    assert (await deliver(base, "pre-call", report("pre-call", 7001)))[1]["status"] == "processed"


@pytest.mark.skipif(spools.filesystem(Path("/dev/shm")) != "tmpfs", reason="/dev/shm is no tmpfs here")
async def test_a_disk_that_is_memory_is_503(database_url, redis_url, demo, aiohttp_server, postgres_server):
    folder = Path("/dev/shm") / f"ottoai-test-{os.getpid()}"
    settings = make_config(database_url, redis_url, SPOOL_DIR=str(folder), ENVIRONMENT="staging")
    server = await aiohttp_server(build_app(settings))
    postgres_server.stop()
    try:
        assert (await deliver(f"http://127.0.0.1:{server.port}", "pre-call", report("pre-call", 1)))[0] == 503
    finally:
        postgres_server.start()
        shutil.rmtree(folder, ignore_errors=True)


async def test_without_a_folder_it_is_503(database_url, redis_url, demo, aiohttp_server, postgres_server):
    server = await aiohttp_server(build_app(make_config(database_url, redis_url)))
    postgres_server.stop()
    try:
        assert (await deliver(f"http://127.0.0.1:{server.port}", "pre-call", report("pre-call", 1)))[0] == 503
    finally:
        postgres_server.start()


async def test_what_a_dead_process_left_is_taken_in_by_a_living_one(base, folder, database_url):
    """One that holds the lock of its folder is left alone."""
    left = Spool(folder, 1024 * 1024, Metrics("test"))
    left.open()
    await left.put(signed(report("pre-call", 7001)), verified=True)
    living = Spool(folder, 1024 * 1024, Metrics("test"))
    living.open()
    taken = []

    async def take(raw) -> None:
        taken.append(raw)

    assert await living.adopt_once(take) == 0
    left.close()
    assert await living.adopt_once(take) == 1
    assert waiting(folder) == []
    living.close()


async def test_what_cannot_be_read_is_set_aside_and_holds_nothing_up(folder):
    kept = Spool(folder, 1024 * 1024, Metrics("test"))
    kept.open()
    await kept.put(signed(report("pre-call", 7001)), verified=True)
    await kept.put(signed(report("pre-call", 7002)), verified=True)
    waiting(folder)[0].write_bytes(b"torn")
    taken = []

    async def take(raw) -> None:
        taken.append(raw)

    assert await kept.drain_once(take) == 1
    assert waiting(folder) == []
    assert len(list(folder.glob("*/*.unreadable"))) == 1
    kept.close()


async def test_a_tenants_unreadable_secret_holds_up_nobody_else(
    base, folder, db, postgres_server, database_url, command, monkeypatch, caplog
):
    monkeypatch.setattr(spools, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(spools, "TRY_LOCKED", 0.0)
    await add_tenant(db, "other", company="77", number="+12125550188")
    key = SIGNING_KEY.format("demo")
    lost = Vault((Fernet.generate_key().decode(),)).seal(key)
    execute(database_url, "update credentials set current = %s where tenant_id = 'demo' returning 1", lost)
    postgres_server.stop()
    try:
        assert (await deliver(base, "pre-call", report("pre-call", 7001)))[1]["status"] == "spooled"
        body = report("pre-call", 7002, company_id=77, company_resource_id=None, tracking_phone_number="+12125550188")
        assert (await deliver(base, "pre-call", body, tenant="other"))[1]["status"] == "spooled"
        first, _ = waiting(folder)
    finally:
        postgres_server.start()
    await until(lambda: waiting(folder) == [first], 20)
    assert of_tenant(database_url, "select external_id from calls", tenant="other") == [("7002",)]
    assert of_tenant(database_url, "select count(*) from calls") == [(0,)]
    await until(lambda: "waits for its tenant's secret" in caplog.text)
    assert (await command("tenant", "rotate-key", "demo", "--callrail-key", "-", typed=f"{key}\n"))[0] == 0
    assert (await command("tenant", "retire-key", "demo", "callrail-key"))[0] == 0
    await emptied(folder)
    assert of_tenant(database_url, "select external_id from calls") == [("7001",)]


@pytest.mark.parametrize("left", [False, True], ids=["its own", "a dead process's"])
async def test_what_waits_for_a_secret_is_said_once_and_counted(folder, monkeypatch, caplog, left):
    monkeypatch.setattr(spools, "TRY_LOCKED", 0.0)
    metrics = Metrics("test")
    kept, other = Spool(folder, 1024 * 1024, metrics), Spool(folder, 1024 * 1024, Metrics("test"))
    kept.open()
    other.open()
    for number in (7001, 7002):
        await kept.put(signed(report("pre-call", number)), verified=True)
    first, _ = waiting(folder)
    if left:
        kept.close()
    look = other.adopt_once if left else kept.drain_once
    locked, taken = True, []

    async def take(raw: Raw) -> None:
        if locked and b"7001" in raw.body:
            raise SecretUnreadable
        taken.append(raw)

    assert [await look(take) for _ in range(3)] == [1, 0, 0]
    assert waiting(folder) == [first]
    said = [record for record in caplog.records if record.message == "Spooled webhook waits for its tenant's secret"]
    assert [record.file for record in said] == [first.name]
    if not left:
        assert kept._bytes == spools.FILE_COST  # it goes on counting
    locked = False
    assert await look(take) == 1
    assert waiting(folder) == []
    assert len(taken) == 2
    other.close()
    if not left:
        kept.close()


async def test_what_waits_for_a_secret_is_not_tried_at_each_look(folder):
    kept = Spool(folder, 1024 * 1024, Metrics("test"))
    kept.open()
    await kept.put(signed(report("pre-call", 7001)), verified=True)
    tried = []

    async def take(raw: Raw) -> None:
        tried.append(raw)
        raise SecretUnreadable

    for _ in range(3):
        assert await kept.drain_once(take) == 0
    assert len(tried) == 1
    kept.close()


async def test_a_disk_that_hangs_is_no_success(folder, monkeypatch):
    kept = Spool(folder, 1024 * 1024, Metrics("test"))
    kept.open()
    going = asyncio.Event()
    loop = asyncio.get_running_loop()
    write = spools._write

    def hang(path: Path, data: bytes) -> None:
        asyncio.run_coroutine_threadsafe(going.wait(), loop).result(10)
        write(path, data)

    monkeypatch.setattr(spools, "_write", hang)
    monkeypatch.setattr(spools, "WITHIN", 0.1)
    with pytest.raises(SpoolFull):
        await kept.put(signed(report("pre-call", 7001)), verified=True)
    going.set()  # written after all: then it is taken in
    await until(lambda: waiting(folder))
    taken = []

    async def take(raw) -> None:
        taken.append(raw)

    await until(lambda: kept._ready)
    assert await kept.drain_once(take) == 1
    kept.close()


async def test_figures_say_what_waits(base, folder, away):
    await deliver(base, "pre-call", report("pre-call", 7001))
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics?scope=local") as response:
        text = await response.text()
    assert re.search(r"^webhook_spool_deliveries\{[^}]*\} 1$", text, re.MULTILINE)
    spooled = r'^webhook_requests_total\{(?=[^}]*outcome="spooled")(?=[^}]*provider="callrail")[^}]*\} 1$'
    assert re.search(spooled, text, re.MULTILINE)
