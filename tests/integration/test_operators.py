"""What operators do through their pages: who may, what comes of it in the real stores, and what is written down."""

import asyncio
import json
import logging
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from jobs import run
from jobs.context import Retry, Staged
from jobs.pauses import Pauses
from ottoai.app import build_app
from ottoai.client import Closed, connect
from ottoai.db import open_pool
from ottoai.domain import audit, outbox
from ottoai.metrics import Metrics
from ottoai.queue import BULK, DEFAULT, URGENT, Queues
from ottoai.web import csrf, keys
from ottoai.web.routes import ROUTES
from tests.background import Gate, beat_of, counted, eventually, redis_of, serving, stage
from tests.conftest import SECRET_KEY, execute, make_config, of_tenant
from tests.helpers import until
from tests.operators import USERS, Operator
from tests.streams import open_stream

NOBODY = "00000000-0000-4000-8000-000000000000"
# Every button, with fields that would do something.
BUTTONS = {
    "/ops/jobs/retry": {"id": NOBODY},
    "/ops/jobs/discard": {"id": NOBODY},
    "/ops/quarantine/replay": {"id": NOBODY},
    "/ops/alerts/acknowledge": {"id": "7"},
    "/ops/connections/kick": {"id": NOBODY},
    "/ops/queues/pause": {"queue": DEFAULT},
    "/ops/queues/resume": {"queue": DEFAULT},
}


@pytest.fixture
def config(database_url, redis_url):
    return make_config(database_url, redis_url, OPS_USERS=USERS)


@pytest.fixture
def queues(config):
    with closing(redis_of(config)) as connection:
        yield Queues(connection)


@pytest.fixture
def olga(base):
    return Operator(base)


@pytest.fixture
def token():
    """What a page of olga's would hold; that pages do is tested by itself."""
    return csrf.made(SECRET_KEY, "olga", datetime.now(UTC).date())


@pytest.fixture
def press(olga, token):
    """Press a button, and read the page that it leads to."""

    async def press(path: str, **fields: str):
        pressed = await olga.post(path, csrf=token, **fields)
        assert pressed.status == 303, pressed
        page = await olga.get(pressed.headers["Location"])
        assert page.status == 200
        assert pressed.text.strip() in page.text or not pressed.headers["Location"].startswith("/ops/")
        return pressed.text.strip()

    return press


def audited(url):
    return execute(url, "select actor, action, target, outcome from ops_audit order by id")


def state_of(url, job_id):
    [(state,)] = execute(url, "select state from outbox where id = %s", job_id)
    return state


def bury(url, job_id, error="ValueError at x.py:1", traceback="  x.py:1 in f\nValueError"):
    execute(
        url,
        "update outbox set state = 'dead', attempts = 8, error = %s, traceback = %s, finished_at = now(),"
        " trace_context = '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01' where id = %s",
        error, traceback, job_id,
    )  # fmt: skip
    return job_id


def test_every_button_is_pressed_here():
    assert {path for method, path, _ in ROUTES if method == "POST" and path.startswith("/ops/")} == BUTTONS.keys()


@pytest.mark.parametrize("path", BUTTONS)
async def test_a_button_is_for_operators_on_a_page_of_ours(olga, base, token, path, database_url, caplog):
    fields, day = BUTTONS[path], datetime.now(UTC).date()
    stranger, liar, vera = Operator(base, ""), Operator(base, "olga", "wrong"), Operator(base, "vera", "just-looking")
    for nobody in (stranger, liar):
        refused = await nobody.post(path, csrf=token, **fields)
        assert (refused.status, refused.headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
    hers = csrf.made(SECRET_KEY, "vera", day)
    for user, headers, given in (
        (vera, {}, hers),
        (vera, {}, token),
        (olga, {}, None),
        (olga, {}, ""),
        (olga, {}, "wrong"),
        (olga, {}, "ünicode"),
        (olga, {}, hers),
        (olga, {}, csrf.made(SECRET_KEY, "olga", day - timedelta(days=2))),
        (olga, {}, csrf.made(SECRET_KEY, "olga", day + timedelta(days=1))),
        (olga, {}, csrf.made("another key", "olga", day)),
        (olga, {"Origin": "https://evil.example"}, token),
        (olga, {"Origin": "null"}, token),
        (olga, {"Sec-Fetch-Site": "cross-site"}, token),
        (olga, {"Sec-Fetch-Site": "same-site"}, token),
    ):
        refused = await user.post(path, headers, **fields, **({} if given is None else {"csrf": given}))
        assert refused.status == 403, (headers, given)
        assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert audited(database_url) == []
    assert execute(database_url, "select * from paused_queues") == []
    assert "Operator action refused" in caplog.messages
    for given in (token, csrf.made(SECRET_KEY, "olga", day - timedelta(days=1))):
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": base}
        assert (await olga.post(path, headers, **fields, csrf=given)).status in {303, 404}
    assert (await olga.get(path)).status in {404, 405}


@pytest.mark.parametrize("path", BUTTONS)
async def test_odd_forms_are_refused_in_words(olga, token, path):
    two_lines = {"id": "a\nb", "queue": "a\nb"}
    odd = [{}, {"id": "x" * 2000}, {"id": "\x00"}, two_lines, {"queue": "nonsense", "id": "nonsense"}]
    foreign = ("https://evil.example/ops", "//evil.example", "/ops@evil.example", "/ops.evil.example", "/api/calls")
    odd += [{"id": NOBODY, "queue": DEFAULT, "back": back} for back in foreign]
    for fields in odd:
        answer = await olga.post(path, csrf=token, **fields)
        assert answer.status in {400, 404}, fields
        assert "detail" in json.loads(answer.text)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"x"),
        ("application/x-www-form-urlencoded", b"csrf=\xff"),
        ("application/x-www-form-urlencoded; charset=nonsense", b"csrf=x"),
    ],
)
async def test_a_body_that_is_no_form_is_refused_in_words(olga, kind, body):
    answer = await olga._ask("POST", "/ops/queues/pause", {"Content-Type": kind}, data=body)
    assert (answer.status, json.loads(answer.text)["detail"]) == (400, "the form cannot be read")


async def test_our_pages_are_known_by_their_public_address_too(database_url, redis_url, aiohttp_server, token):
    config = make_config(database_url, redis_url, OPS_USERS=USERS, PUBLIC_URL="https://otto.example")
    server = await aiohttp_server(build_app(config))
    olga, path = Operator(str(server.make_url("")).rstrip("/")), "/ops/queues/pause"
    for origin, status in (
        ("https://otto.example", 303), (olga.base, 303), ("https://otto.example.evil", 403), ("http://[", 403),
    ):  # fmt: skip
        assert (await olga.post(path, {"Origin": origin}, csrf=token, queue=DEFAULT)).status == status, origin


async def test_a_failed_job_is_seen_with_its_traceback_and_retried_on_its_page(
    config, db, olga, press, queues, monkeypatch, database_url, caplog
):
    caplog.set_level(logging.INFO, "ottoai.web.press")
    broken, phone = True, "+12125550100"

    async def fails(context, job):
        if broken:
            raise ValueError(f"{phone} cannot be reached")
        await outbox.done(context.db.one(job.tenant_id), job)

    monkeypatch.setitem(run.JOBS, "fails", Staged(fails, Retry(attempts=2, first=0.01, longest=0.01)))
    job = stage(database_url, "fails")
    queues.enqueue([job])
    async with serving(config, Metrics("test", "worker")):
        await eventually(lambda: execute(database_url, "select traceback is not null from outbox") == [(True,)])
        failing = (await olga.get("/ops/jobs?state=open")).text
        assert job.id[:8] in failing
        assert (await press("/ops/jobs/retry", id=job.id)).startswith("nothing to do: it is open")
        execute(database_url, "update outbox set enqueue_at = now()")
        queues.enqueue([job])
        await eventually(lambda: state_of(database_url, job.id) == "dead")
        listed = await olga.get("/ops/jobs")
        assert f'href="/ops/jobs/{job.id}"' in listed.text
        page = (await olga.get(f"/ops/jobs/{job.id}")).text
        assert "tests/integration/test_operators.py:" in page
        assert "in fails" in page
        assert "ValueError at test_operators.py" in page
        assert phone not in page + listed.text + failing
        broken = False
        assert await press("/ops/jobs/retry", id=job.id) == "opened again"
        await eventually(lambda: state_of(database_url, job.id) == "done")
    assert await press("/ops/jobs/retry", id=job.id) == "nothing to do: it is done, not dead"
    assert execute(database_url, "select error, traceback from outbox") == [(None, None)]
    assert audited(database_url)[-2:] == [
        ("olga", "retry", job.id, "opened again"),
        ("olga", "retry", job.id, "nothing to do: it is done, not dead"),
    ]
    [line] = [each for each in caplog.records if getattr(each, "outcome", "") == "opened again"]
    assert (line.message, line.actor, line.action, line.target) == ("Operator action", "olga", "retry", job.id)


async def test_a_job_that_nobody_wants_is_discarded_once_and_its_cause_stays(db, demo, press, olga, database_url):
    job = bury(database_url, stage(database_url, "any").id)
    assert await press("/ops/jobs/discard", id=job.upper()) == "discarded"
    assert await press("/ops/jobs/discard", id=job) == "nothing to do: it is done, not dead"
    assert execute(database_url, "select state, error from outbox") == [("done", "ValueError at x.py:1")]
    open_ = stage(database_url, "any").id
    assert await press("/ops/jobs/discard", id=open_) == "nothing to do: it is open, not dead"
    assert (await olga.get("/ops/jobs")).text.count("/ops/jobs/" + job) == 0


@pytest.mark.parametrize("path", [path for path, fields in BUTTONS.items() if "id" in fields])
async def test_what_is_not_there_is_404_and_written_down(olga, token, path, database_url):
    well_formed = BUTTONS[path]["id"]
    for unknown in (well_formed, "nonsense"):
        assert (await olga.post(path, csrf=token, id=unknown)).status == 404
    [(actor, _, target, outcome)] = audited(database_url)
    assert (actor, target, outcome) == ("olga", well_formed, "failed: not found")


async def test_ten_thousand_dead_jobs_are_seen_in_pages_and_all_retried(db, demo, olga, press, queues, database_url):
    of_tenant(
        database_url,
        "insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at, state, error, finished_at)"
        " select current_tenant(), case when n > 250 then 'many' else 'few' end, 'default', gen_random_uuid(), now(),"
        " now(), 'dead', 'E', now() - n * interval '1 second' from generate_series(1, 10250) n",
    )
    first = await olga.get("/ops/jobs")
    assert "more than 10,000" in first.text
    seen, path = [], "/ops/jobs?job=few"
    while path and len(seen) < 300:
        page = await olga.get(path)
        seen += [part[:36] for part in page.text.split('href="/ops/jobs/')[1:]]
        path = page.text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
        path = path if 'rel="next"' in page.text else ""
    assert len(seen) == len(set(seen)) == 250
    assert await press("/ops/jobs/retry", all="1", job="few") == "250 opened again"
    pressing = asyncio.create_task(press("/ops/jobs/retry", all="1"))
    await eventually(
        lambda: execute(database_url, "select count(*) > 1000 from outbox where state = 'open'") == [(True,)]
    )
    assert (await olga.get("/health")).status == 200
    assert not pressing.done(), "meanwhile others are answered"
    assert await pressing == "10000 opened again"
    assert execute(database_url, "select state, count(*) from outbox group by 1") == [("open", 10250)]
    await eventually(lambda: len(queues.waiting()) > 2000, 20)  # as many as there is room for; beat brings the rest
    assert await press("/ops/jobs/retry", all="1") == "0 opened again"


async def test_hostile_names_are_text_on_every_page(db, demo, olga, press, database_url):
    evil = "<script>alert(1)</script>\"'"
    job = bury(database_url, stage(database_url, evil, queue=evil).id, evil, evil)
    execute(database_url, "insert into ops_audit (actor, action, target, outcome) values (%s, %s, %s, %s)", *[evil] * 4)
    execute(
        database_url,
        "insert into periodic_runs values (%s, now(), 1, 'failure', %s, %s, %s)", *[evil] * 4,
    )  # fmt: skip
    [(entry,)] = execute(database_url, "select max(id) from ops_audit")
    query = "%3Cscript%3Ealert(1)%3C/script%3E%22'"
    for path in ("/ops/jobs", f"/ops/jobs/{job}", "/ops/audit", f"/ops/jobs?done={entry}",
                 f"/ops/quarantine?tenant={query}", f"/ops/jobs?tenant={query}&job={query}"):  # fmt: skip
        page = await olga.get(path)
        assert page.status == 200, path
        assert "&lt;script&gt;" in page.text, path
        assert "<script" not in page.text, path
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert await press("/ops/jobs/retry", all="1", job=evil) == "1 opened again"
    assert "<script" not in (await olga.get("/ops/audit")).text


async def test_lists_refuse_what_they_do_not_understand(olga, database_url):
    for path in ("/ops/jobs?state=x", "/ops/jobs?cursor=x", "/ops/jobs?nonsense=1", "/ops/audit?before=x",
                 "/ops/jobs?job=%00", "/ops/audit?before=99999999999999999999"):  # fmt: skip
        assert (await olga.get(path)).status == 400, path
    for path in (f"/ops/jobs/{NOBODY}", "/ops/jobs/nonsense", "/ops/jobs/retry"):
        assert (await olga.get(path)).status == 404, path
    for path in ("/ops/jobs?done=x", "/ops/jobs?done=99999999999999999999", "/ops/jobs?done=5", "/ops/audit?done=-1"):
        assert (await olga.get(path)).status == 200, path


async def test_a_viewer_sees_and_has_no_buttons(base, db, demo, olga, token, database_url):
    vera = Operator(base, "vera", "just-looking")
    job = bury(database_url, stage(database_url, "any").id)
    for path in ("/ops/jobs", f"/ops/jobs/{job}", "/ops/audit", "/ops/quarantine"):
        assert (await Operator(base, "").get(path)).status == 401
        page = await vera.get(path)
        assert page.status == 200
        assert 'method="post"' not in page.text
        assert "csrf" not in page.text
    assert await olga.token("/ops/jobs") == await olga.token(f"/ops/jobs/{job}") == token


async def test_the_trace_is_linked_where_one_can_be_looked_at(database_url, redis_url, db, demo, aiohttp_server):
    job = bury(database_url, stage(database_url, "any").id)
    config = make_config(database_url, redis_url, OPS_USERS=USERS, TRACE_URL="https://traces.example.com/t/{trace_id}")
    server = await aiohttp_server(build_app(config))
    for path in ("/ops/jobs", f"/ops/jobs/{job}"):
        page = await Operator(str(server.make_url("")).rstrip("/")).get(path)
        assert 'href="https://traces.example.com/t/0123456789abcdef0123456789abcdef"' in page.text


async def test_an_alert_is_acknowledged_once(press, database_url):
    sql = (
        "insert into alerts (name, level, state, pending_at, fired_at)"
        " values (%s, 'critical', %s, now(), now()) returning id"
    )
    [(firing,)] = execute(database_url, sql, "http_p95.critical", "firing")
    [(over,)] = execute(database_url, sql, "http_p95.critical", "resolved")
    assert await press("/ops/alerts/acknowledge", id=str(firing)) == "acknowledged"
    for alert in (firing, over):
        assert (await press("/ops/alerts/acknowledge", id=str(alert))).startswith("nothing to do")
    of_both = "select acknowledged_by from alerts where id in (%s, %s) order by id"  # the watch may have found more
    assert execute(database_url, of_both, firing, over) == [("olga",), (None,)]


async def test_a_paused_queue_is_left_alone_and_the_others_go_on(
    config, db, press, queues, monkeypatch, database_url, redis_url
):
    gate = Gate()
    gate.open.set()
    monkeypatch.setitem(run.JOBS, "gated", Staged(gate, Retry(attempts=1, first=0, longest=0)))
    assert await press("/ops/queues/pause", queue=DEFAULT) == "paused"
    assert await press("/ops/queues/pause", queue=DEFAULT) == "it was paused already"
    with closing(redis_of(config)) as connection:
        connection.flushall()  # lets no queue go on
    async with serving(config, Metrics("test", "worker")):
        held = [stage(database_url, "gated") for _ in range(3)]
        queues.enqueue(held)
        elsewhere = stage(
            database_url, "gated"
        )  # what finds no room goes by bulk, and is of the paused queue all the same
        queues.enqueue([outbox.Due(elsewhere.id, BULK, "demo")])
        urgent = [stage(database_url, "gated", queue=URGENT) for _ in range(3)]
        queues.enqueue(urgent)
        await eventually(lambda: set(gate.begun) == {job.id for job in urgent})
        with beat_of(config, db) as beat:
            execute(database_url, "update outbox set enqueue_at = now()")
            await eventually(lambda: elsewhere.id not in queues.waiting())
            await beat.run_once()
            assert queues.waiting() == {job.id for job in held}, "beat enqueues nothing of a paused queue"
            last = stage(database_url, "gated", queue=URGENT)
            queues.enqueue([last])
            await eventually(lambda: last.id in gate.begun)
            assert len(gate.begun) == 4
            assert await press("/ops/queues/resume", queue=DEFAULT) == "goes on"
            assert await press("/ops/queues/resume", queue=DEFAULT) == "it was not paused"
            await beat.run_once()
        await eventually(lambda: len(gate.begun) == 8)
    assert len(set(gate.begun)) == 8


async def test_with_the_database_away_the_last_that_was_known_counts(config, db, demo, database_url):
    execute(database_url, "insert into paused_queues (queue, paused_by) values ('urgent', 'olga')")
    pauses = Pauses(db)
    assert not pauses.open(DEFAULT), "nothing is known yet"
    await pauses.run_once()
    assert (pauses.open(URGENT), pauses.open(DEFAULT)) == (False, True)
    away = make_config(database_url.replace("@127.0.0.1:", "@127.0.0.1:1"), config.redis_url)
    async with open_pool(away, Metrics("test")) as nowhere:
        pauses._db = nowhere
        await pauses.run_once()
    assert (pauses.open(URGENT), pauses.open(DEFAULT)) == (False, True)


async def test_a_paused_queue_gets_no_periodic_runs(config, db, demo, queues, database_url):
    execute(database_url, "insert into paused_queues (queue, paused_by) values ('default', 'olga')")
    with beat_of(config, db) as beat:
        await beat.heed_pauses()
        await beat.run_once()
        with closing(redis_of(config)) as connection:
            for name in connection.zrange("rq:scheduler:scheduled_jobs", 0, -1):
                connection.zadd("rq:scheduler:scheduled_jobs", {name: 1})
        await beat.run_once()
        assert queues.waiting() == set()
        execute(database_url, "delete from paused_queues")
        await beat.heed_pauses()
        with closing(redis_of(config)) as connection:
            for name in connection.zrange("rq:scheduler:scheduled_jobs", 0, -1):
                connection.zadd("rq:scheduler:scheduled_jobs", {name: 1})
        await beat.run_once()
        assert len(queues.waiting()) >= 3


async def closed_with(socket):
    with pytest.raises(Closed) as closed:
        await socket.receive()
    return closed.value.code


async def test_a_connection_is_kicked_wherever_it_is(config, app, base, press, olga, token, make_token, aiohttp_server):
    other = build_app(config)
    there = str((await aiohttp_server(other)).make_url("")).rstrip("/")
    for place, where, outcome in ((base, app, "closed"), (there, other, "closed by another process")):
        async with connect(place, make_token()) as socket:
            [connection] = where[keys.HUB].connections
            code = asyncio.create_task(closed_with(socket))
            assert await press("/ops/connections/kick", id=connection) == outcome
            assert await code == 4410
        await eventually(lambda where=where: not where[keys.HUB].connections)
        assert counted(where[keys.METRICS], "ws_disconnects_total", reason="kicked") == 1
        async with open_stream(place, make_token()) as stream:
            assert (await stream.message())["type"] == "welcome"
            [connection] = where[keys.HUB].connections
            assert await press("/ops/connections/kick", id=connection) == outcome
            while (message := await stream.message())["type"] != "end":
                pass
            assert (message["code"], message["reason"]) == (4410, "kicked")
            assert await stream.message() is None
    assert (await olga.post("/ops/connections/kick", csrf=token, id=connection)).status == 404, "it is gone"


async def test_without_redis_only_this_process_is_asked_and_that_is_said(app, base, press, make_token, redis_server):
    async with connect(base, make_token()) as socket:
        [connection] = app[keys.HUB].connections
        redis_server.stop()
        try:
            assert (await press("/ops/connections/kick", id=NOBODY)).startswith("not in this process; Redis is away")
            code = asyncio.create_task(closed_with(socket))
            assert await press("/ops/connections/kick", id=connection) == "closed"
            assert await code == 4410
        finally:
            redis_server.start()


async def test_without_the_database_pages_say_so_and_a_kick_works(base, app, olga, token, make_token, postgres_server):
    async with connect(base, make_token()) as socket:
        [connection] = app[keys.HUB].connections
        postgres_server.stop()
        try:
            for path in ("/ops/jobs", f"/ops/jobs/{NOBODY}", "/ops/audit", "/ops/quarantine"):
                page = await olga.get(path)
                assert (page.status, "PostgreSQL does not answer" in page.text) == (503, True), path
            assert (await olga.post("/ops/queues/pause", csrf=token, queue=DEFAULT)).status == 503
            kicked = await olga.post("/ops/connections/kick", csrf=token, id=connection)
            assert (kicked.status, kicked.text, kicked.headers["Location"]) == (303, "closed\n", "/ops")
            with pytest.raises(Closed):
                await socket.receive()
        finally:
            postgres_server.start()


async def test_an_act_is_written_down_before_it_is_done(olga, token, database_url):
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("lock table paused_queues in access exclusive mode")  # it cannot be done yet
        pressing = asyncio.create_task(olga.post("/ops/queues/pause", csrf=token, queue=DEFAULT))
        await until(lambda: audited(database_url) == [("olga", "pause", DEFAULT, "")])
        connection.rollback()
    assert (await pressing).status == 303
    assert audited(database_url)[0][3]


async def test_what_was_begun_and_never_ended_is_seen_in_the_audit_log(db, olga):
    for number in range(80):
        await audit.note(db.system(), "olga", "retry", f"target {number}", "" if number == 79 else "opened again")
    page = await olga.get("/ops/audit")
    assert "not known: it was begun" in page.text
    assert "target 30<" in page.text
    assert "target 29<" not in page.text
    older = re.search(r'href="(/ops/audit\?before=\d+)" rel="next"', page.text)
    assert older
    page = await olga.get(older[1])
    assert "target 29<" in page.text
    assert "target 0<" in page.text
    assert 'rel="next"' not in page.text
