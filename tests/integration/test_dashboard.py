"""The RQ dashboard: for operators alone, deaf to other sites, silent about the Redis URL."""

import base64
import logging
import threading
import urllib.error
import urllib.request
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from rq.worker import WorkerStatus

from jobs import dashboard, run
from jobs.context import Retry, Staged
from ottoai.embedded.folder import any_port
from ottoai.errors import ConfigError
from ottoai.metrics import Metrics
from ottoai.queue import QUEUES, Queues
from tests.background import Gate, eventually, process, redis_of, serving, stage, worker_of
from tests.conftest import make_config

PAGES = (
    "/",
    "/0/view",
    "/0/view/queues",
    "/0/view/workers",
    "/0/view/jobs",
    "/0/view/jobs/default/failed/8/asc/1",
    "/0/data/queues.json",
    "/0/data/workers.json",
    "/0/data/jobs/default/failed/8/asc/1.json",
    "/0/view/jobs/bulk/started/8/asc/1",
    "/static/css/main.css",
    "/favicon.ico",
)


@pytest.fixture
def config(database_url, redis_url):
    users = "operator:secret:operator,anna:passwort-ä:operator,looker:looks:viewer"
    return make_config(database_url, redis_url, DASHBOARD_PORT=str(any_port()), OPS_USERS=users)


@pytest.fixture
def base(config):
    server = dashboard.make(config)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{config.dashboard_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(base, path, user="operator:secret", method="GET", **headers):
    request = urllib.request.Request(base + path, method=method)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.headers, response.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


@pytest.mark.parametrize("path", [*PAGES, "/nothing-here", "/static/nothing"])
def test_no_path_answers_without_an_operators_password(base, path):
    for user in ("", "operator:", "operator:wrong", "wrong:secret", ":secret", "looker:looks", "operator:secret "):
        status, headers, body = ask(base, path, user)
        assert (status, body) == (401, "Operators only.\n"), user
        assert headers["WWW-Authenticate"].startswith("Basic ")


def test_a_refused_sign_in_is_logged_without_what_was_typed(base, caplog):
    for user in ("", "operator:secret"):  # a browser asks without a password first
        ask(base, "/", user)
    for user in ("operator:typed-wrong", "typed-wrong:", "looker:looks"):
        ask(base, "/", user)
    told = [(each.message, each.ip) for each in caplog.records if each.levelno >= logging.WARNING]
    assert told == [("Operator sign-in refused", "127.0.0.1")] * 3
    assert not any(word in str(vars(each)) for each in caplog.records for word in ("typed-wrong", "looks"))


async def test_every_page_works_for_operators_and_tells_nothing_of_redis(base, config, db, demo):
    with closing(redis_of(config)) as connection:
        queues = Queues(connection)
        queues.enqueue([stage(config.database_url, "of_another_version")])
        async with worker_of(config, Metrics("test")) as made:
            made.register(WorkerStatus.IDLE)
            password = urlsplit(config.redis_url).password
            for path in PAGES:
                for user in ("operator:secret", "anna:passwort-ä"):
                    status, headers, body = ask(base, path, user)
                    assert status == 200, (path, body)
                    assert "redis://" not in body
                    assert password not in body
                    assert str(urlsplit(config.redis_url).port) not in body
                    assert headers["X-Frame-Options"] == "DENY"
                    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
                    assert headers["X-Content-Type-Options"] == "nosniff"
                    assert "Werkzeug" not in headers["Server"]
            assert "worker-test" in ask(base, "/0/data/workers.json")[2]


async def test_it_shows_all_jobs_that_run_and_nothing_of_what_they_are_about(base, config, db, demo, monkeypatch):
    gate = Gate()
    monkeypatch.setitem(run.JOBS, "waits", Staged(gate, Retry(attempts=1, first=0, longest=0)))
    with closing(redis_of(config)) as connection:
        queues = Queues(connection)
        for name in QUEUES:
            queues.enqueue([stage(config.database_url, "waits", queue=name) for _ in range(2)])
        async with serving(config, Metrics("test")):
            await eventually(lambda: len(gate.running) == 6)
            shown = ask(base, "/0/data/workers.json")[2]
            assert '"state": "busy"' in shown or '"state":"busy"' in shown
            assert [job_id for job_id in gate.running if job_id in shown]
            for name in QUEUES:
                started = ask(base, f"/0/data/jobs/{name}/started/8/asc/1.json")[2]
                assert len([job_id for job_id in gate.running if job_id in started]) == 2
            for job_id in gate.running:
                told = ask(base, f"/0/data/job/{job_id}.json")[2]
                assert f" {job_id}" in told
                assert "demo" not in told
            gate.open.set()
            await eventually(lambda: not queues.waiting() and all(not d.jobs["started"] for d in queues.depths()))
        assert '"workers":[]' in ask(base, "/0/data/workers.json")[2].replace(" ", "")


def test_the_other_instances_that_the_dashboard_could_have_are_not_there(base):
    assert ask(base, "/1/view/queues")[0] == 404


def test_a_page_of_another_site_changes_and_reads_nothing(base):
    change = "/queue/default/queued/empty"
    refused = (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
    )
    for headers in refused:
        assert ask(base, change, method="POST", **headers)[0] == 403, headers
    for headers in ({"Sec_Fetch_Site": "same-origin"}, {"Origin": base}):
        assert ask(base, change, method="POST", **headers)[0] == 200, headers
    data = "/0/data/queues.json"
    assert ask(base, data, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert ask(base, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(base, data, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200


def test_the_get_that_changes_something_is_gone(base):
    assert ask(base, "/requeue/default", Sec_Fetch_Site="same-origin")[0] == 405
    assert ask(base, "/requeue/default", method="POST", Sec_Fetch_Site="same-origin")[0] == 200


async def test_a_failed_job_can_be_read_requeued_and_deleted(base, config, db, demo):
    with closing(redis_of(config)) as connection:
        queues = Queues(connection)
        job = stage(config.database_url, "any")
        queues.enqueue([job])
        connection.lpop("rq:queue:default")
        connection.zadd("rq:failed:default", {job.id: 2**33})
        assert job.id in ask(base, "/0/data/jobs/default/failed/8/asc/1.json")[2]
        assert ask(base, f"/0/view/job/{job.id}")[0] == 200
        assert f"default {job.id}" in ask(base, f"/0/data/job/{job.id}.json")[2]
        assert ask(base, f"/job/{job.id}/requeue", method="POST", Sec_Fetch_Site="same-origin")[0] == 200
        assert queues.waiting() == {job.id}
        assert ask(base, f"/job/{job.id}/delete", method="POST", Sec_Fetch_Site="same-origin")[0] == 200
        assert queues.waiting() == set()
        assert ask(base, f"/0/data/job/{job.id}.json")[0] == 404


def test_without_redis_it_says_so(base, redis_server):
    redis_server.stop()
    try:
        status, _, body = ask(base, "/0/data/queues.json")
    finally:
        redis_server.start()
    assert (status, body) == (503, "Redis does not answer; try again shortly.\n")


def test_without_an_operator_it_does_not_start(config, database_url, redis_url):
    with pytest.raises(ConfigError, match="OPS_USERS"):
        dashboard.make_app(make_config(database_url, redis_url, OPS_USERS="looker:looks:viewer"))
    with process("dashboard", config, OPS_USERS="looker:looks:viewer") as refused:
        _, err = refused.communicate(timeout=30)
    assert refused.returncode == 2
    assert "OPS_USERS" in err
    assert "Traceback" not in err
