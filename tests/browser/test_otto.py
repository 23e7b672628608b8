"""otto.js in a real browser, against the real API."""

import random
import re
import time

import pytest

from ottoai.errors import StoreUnavailable
from ottoai.realtime import fanout, stream
from ottoai.realtime.messages import CLOSES, MAX_MESSAGE, SubscribeResult, UnsubscribeResult
from ottoai.web import keys
from ottoai.web.routes import STATIC
from tests.browser.conftest import Page, until
from tests.conftest import execute, of_tenant
from tests.helpers import deliver, report
from tests.integration.test_realtime import CHANNEL, append, emit

SOURCE = STATIC / "otto.js"


async def a_lead(base: str, database_url: str) -> str:
    """A lead that exists; two events tell of it."""
    await deliver(base, "pre-call", report("pre-call", 1))
    [(lead,)] = of_tenant(database_url, "select id::text from leads")
    return lead


async def restarted(page: Page) -> None:
    """End the connection as a stopping process does, and wait until the server knows that it is gone."""
    connection = page.connection
    page.end(1012)
    await page.gone(connection)


# What it is


def test_it_depends_on_nothing():
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", SOURCE.read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(import|require)\b", code)
    assert "export class Otto" in code


async def test_its_close_codes_are_the_servers(page):
    assert await page.js("CLOSES") == {str(close.code): [close.name, close.client] for close in CLOSES}


# Listening


async def test_events_come_in_order_and_once(page, base):
    await page.start()
    await page.listen("all", CHANNEL)
    assert (await page.joined("all"))["recovered"] is None
    for _ in range(20):
        await emit(base)
    await emit(base, transient="1")
    await emit(base, user_id="ann")
    assert await page.seqs("all", 22) == [*range(1, 21), None, 21]
    assert await page.states() == ["open"]
    assert page.sockets == [base.replace("http", "ws") + "/ws"], "no token in the address"
    assert (await page.js("subscriptions.all.place")).endswith(".21")


async def test_addresses_that_lead_to_the_api(page, base):
    websocket = base.replace("http", "ws")
    for url in (base, base + "/", base + "/ws", websocket, websocket + "/ws", "/", "/ws"):
        await page.js(
            """(url) => new Promise((open) => {
            const onState = ({ state }) => state === "open" && open(otto.close());
            const otto = new Otto({ url, token: nextToken, onState });
        })""",
            url,
        )
    assert page.sockets == [websocket + "/ws"] * 7


async def test_each_subscription_gets_what_its_channel_carries(page, base, database_url):
    lead = await a_lead(base, database_url)
    await page.start()
    for who, channel in (("all", CHANNEL), ("lead", f"lead:{lead}:timeline"), ("ann", "user:ann:tasks")):
        await page.listen(who, channel)
        await page.joined(who)
    for query in ({}, {"lead_id": lead}, {"user_id": "ann"}, {"lead_id": lead, "user_id": "ann"}, {"user_id": "ben"}):
        await emit(base, **query)
    assert await page.seqs("all", 5) == [3, 4, 5, 6, 7]
    assert await page.seqs("lead", 2) == [4, 6]
    assert await page.seqs("ann", 2) == [5, 6]


async def test_subscriptions_of_one_channel_share_it(page, base):
    await page.start()
    await page.listen("first", CHANNEL)
    await page.joined("first")
    for _ in range(3):
        await emit(base)
    assert await page.seqs("first", 3) == [1, 2, 3]
    await page.listen("second", CHANNEL)
    assert (await page.joined("second"))["seq"] == 3
    await page.listen("third", CHANNEL, 1)
    assert await page.seqs("third", 2) == [2, 3]
    await page.js("subscriptions.first.close()")
    await emit(base)
    assert await page.seqs("third", 3) == [2, 3, 4]
    assert await page.seqs("second", 1) == [4]
    assert await page.seqs("first", 3) == [1, 2, 3]
    await page.js("subscriptions.second.close(), subscriptions.third.close(), subscriptions.third.close()")
    await until(lambda: not page.connection.channels)
    await page.listen("fourth", CHANNEL)
    await page.joined("fourth")
    await emit(base)
    assert await page.seqs("fourth", 1) == [5]
    assert await page.seqs("third", 3) == [2, 3, 4]


async def test_closed_and_opened_again_before_the_server_answers(page, base):
    await page.start()
    await page.told("otto", "state", state="open")
    await page.js("for (const who of 'abc') (listen(who, 'tenant:demo:events'), subscriptions[who].close())")
    await page.listen("d", CHANNEL)
    await page.joined("d")
    await emit(base)
    assert await page.seqs("d", 1) == [1]
    assert await page.js("'abc'.split('').flatMap((who) => of(who, 'event'))") == []


async def test_a_late_subscription_gets_what_came_for_others_before(page, base, database_url):
    """The server sends an event once to a connection: what it sent for the tenant it would not send for the lead."""
    lead = await a_lead(base, database_url)
    await page.start()
    await page.listen("all", CHANNEL, 0)
    await page.listen("ann", "user:ann:tasks", 0)
    for query in ({"lead_id": lead}, {}, {"lead_id": lead, "user_id": "ann"}):
        await emit(base, **query)
    assert await page.seqs("all", 5) == [1, 2, 3, 4, 5]
    await page.listen("lead", f"lead:{lead}:timeline", 1)
    assert await page.seqs("lead", 3) == [2, 3, 5]
    await emit(base, lead_id=lead)
    assert await page.seqs("lead", 4) == [2, 3, 5, 6]
    assert await page.seqs("all", 6) == [1, 2, 3, 4, 5, 6]
    assert await page.seqs("ann", 1) == [5]


async def test_a_handler_that_throws_disturbs_nobody(page, base):
    await page.start()
    await page.js("""void otto.subscribe("tenant:demo:events", {
        onJoined() { throw new Error("on joined"); }, onEvent() { throw new Error("on event"); } })""")
    await page.listen("all", CHANNEL)
    await page.joined("all")
    await emit(base)
    await emit(base)
    assert await page.seqs("all", 2) == [1, 2]
    assert page.errors == ["on joined", "on event", "on event"]


async def test_a_call_that_makes_no_sense_throws(page):
    await page.start()
    for wrong in (f'"{CHANNEL}", {{ since: "soon" }}', f'"{CHANNEL}", {{ since: -1 }}', "7", "'x'.repeat(1000)"):
        thrown = f"(() => {{ try {{ otto.subscribe({wrong}) }} catch (error) {{ return error.name }} }})()"
        assert await page.js(thrown) == "TypeError", wrong


async def test_a_channel_of_others_is_refused(page, base):
    await page.start()
    await page.listen("foreign", "tenant:other:events")
    await page.listen("all", CHANNEL)
    assert (await page.heard("foreign", "refused")) == [{"channel": "tenant:other:events", "error": "no such channel"}]
    await page.joined("all")
    await restarted(page)
    await page.joined("all", 2)
    assert len(await page.js("of('foreign', 'refused')")) == 1, "it should not have been asked for again"


@pytest.mark.parametrize("kind", [SubscribeResult, UnsubscribeResult])
async def test_a_right_that_is_lost_is_told(page, base, kind):
    """As the server does after a refresh with a token of fewer rights."""
    await page.start()
    await page.listen("ann", "user:ann:tasks")
    await page.listen("all", CHANNEL)
    await page.joined("ann")
    await page.joined("all")
    success = kind is UnsubscribeResult
    page.connection.send(kind(channel="user:ann:tasks", success=success, epoch=1, seq=0, error="no such channel"))
    assert (await page.heard("ann", "refused"))[0]["error"] == "no such channel"
    await emit(base, user_id="ann")
    assert await page.seqs("all", 1) == [1]
    assert await page.js("of('ann', 'event')") == []


# Resuming


async def test_nothing_is_lost_or_repeated_across_connections(page, base, database_url):
    lead = await a_lead(base, database_url)
    await page.start()
    who = {"all": CHANNEL, "lead": f"lead:{lead}:timeline", "ann": "user:ann:tasks"}
    for name, channel in who.items():
        await page.listen(name, channel, 0)
    for name in who:
        await page.joined(name)
    wanted = {"all": [1, 2], "lead": [1, 2], "ann": []}
    for round_number in range(2, 6):
        for query in ({}, {"lead_id": lead}, {"user_id": "ann"}, {"lead_id": lead, "user_id": "ann"}):
            seq = (await emit(base, **query))["seq"]
            wanted["all"].append(seq)
            if "lead_id" in query:
                wanted["lead"].append(seq)
            if "user_id" in query:
                wanted["ann"].append(seq)
        await restarted(page)
        append(database_url, 3)
        wanted["all"] += [wanted["all"][-1] + n for n in (1, 2, 3)]
        assert (await page.joined("all", round_number))["recovered"] is True
    for name, expected in wanted.items():
        assert await page.seqs(name, len(expected)) == expected
    assert "stopped" not in await page.states()
    assert not await page.js("notes.some((n) => n.what === 'reset')")


async def test_the_order_of_each_channel_is_kept_when_they_resume_together(page, base, database_url):
    """What belongs to both comes with the first channel, ahead of what the second has yet to get."""
    lead = await a_lead(base, database_url)
    both = {"lead_id": lead, "user_id": "ann"}
    await page.start()
    await page.listen("lead", f"lead:{lead}:timeline", 2)
    await page.listen("ann", "user:ann:tasks", 2)
    await page.joined("ann")
    for times in (2, 3):
        connection = page.connection
        await page.offline(True)  # so that it does not come back before all is there
        page.end(1012)
        await page.gone(connection)
        for query in ({"user_id": "ann"}, {"lead_id": lead}, both, {"user_id": "ann"}, {"lead_id": lead}, both):
            await emit(base, **query)
        await page.offline(False)
        await page.joined("ann", times)
    assert await page.seqs("lead", 8) == [4, 5, 7, 8, 10, 11, 13, 14]
    assert await page.seqs("ann", 8) == [3, 5, 6, 8, 9, 11, 12, 14]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_happens_each_subscription_gets_its_channel_once_and_in_order(
    page, app, base, database_url, monkeypatch, seed
):
    """Subscriptions come and go, at any place; connections end; events come from the ring and from the log."""
    monkeypatch.setattr(stream, "RING_EVENTS", 8)
    monkeypatch.setattr(fanout, "READ_PAGE", 3)
    chance = random.Random(seed)
    lead = await a_lead(base, database_url)
    channels = [CHANNEL, f"lead:{lead}:timeline", "user:ann:tasks"]
    opened: dict[str, tuple[str, int | None]] = {}
    closed = set()
    head = 2
    await page.start()
    for step in range(60):
        action = chance.choice(["end", "open", "open", "close", "emit", "emit", "emit", "append"])
        about = {name: value for name, value in (("lead_id", lead), ("user_id", "ann")) if chance.random() < 0.5}
        if action == "end" and app[keys.HUB].connections:
            page.end(1012)
        elif action == "open" and len(opened) - len(closed) < 8:
            opened[f"s{step}"] = chance.choice(channels), chance.choice([None, chance.randint(0, head), head])
            await page.listen(f"s{step}", *opened[f"s{step}"])
        elif action == "close" and len(opened) > len(closed):
            closed.add(chance.choice(sorted(opened.keys() - closed)))
            await page.js("(closed) => closed.forEach((who) => subscriptions[who].close())", sorted(closed))
        elif action == "emit":
            head = (await emit(base, **about))["seq"]
        elif action == "append":
            append(database_url, 2)  # nobody is told
            head += 2
    for who in opened.keys() - closed:
        await page.joined(who)
    await emit(base, lead_id=lead, user_id="ann")
    log = of_tenant(database_url, "select seq, lead_id::text, user_id from events order by seq")
    for who, (channel, since) in opened.items():
        of_channel = [seq for seq, about_lead, user in log
                      if channel in {CHANNEL, f"lead:{about_lead}:timeline", f"user:{user}:tasks"}]  # fmt: skip
        if who in closed:
            heard = [event["seq"] for event in await page.js("(who) => of(who, 'event')", who)]
            first = since if since is not None else heard[0] - 1 if heard else 0
            assert heard == [seq for seq in of_channel if seq > first][: len(heard)]
        else:
            first = since if since is not None else (await page.heard(who, "joined"))[0]["seq"]
            expected = [seq for seq in of_channel if seq > first]
            assert await page.seqs(who, len(expected)) == expected
    assert not await page.js("notes.some(({ what }) => ['reset', 'refused', 'error'].includes(what))")


async def test_a_page_that_is_loaded_anew_goes_on_at_its_place(page, base):
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    await emit(base)
    await page.seqs("all", 1)
    place = await page.js("subscriptions.all.place")
    connection = page.connection
    await page.load()
    await page.gone(connection)
    await emit(base)
    await page.start()
    await page.listen("all", CHANNEL, place)
    assert await page.seqs("all", 1) == [2]


async def test_another_epoch_begins_anew(page, base, database_url):
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    await emit(base)
    await emit(base)
    assert await page.seqs("all", 2) == [1, 2]
    execute(database_url, "set role ottoai_system; update heads set epoch = epoch + 1")
    [reset] = await page.heard("all", "reset")
    assert (reset["reason"], reset["seq"]) == ("epoch", 2)
    await emit(base)
    assert await page.seqs("all", 3) == [1, 2, 3]
    assert await page.js("subscriptions.all.place") == f"{reset['epoch']}.3"


async def test_a_past_that_the_log_no_longer_has_begins_anew(page, base, database_url):
    for _ in range(5):
        await emit(base)
    execute(database_url, "set role ottoai_system; delete from events where seq <= 3")
    await page.start()
    await page.listen("all", CHANNEL, 4)
    assert await page.seqs("all", 1) == [5]
    await page.listen("old", CHANNEL, 1)
    [reset] = await page.heard("old", "reset")
    assert (reset["reason"], reset["seq"]) == ("not_recovered", 5)
    await emit(base)
    assert await page.seqs("old", 1) == [6]
    assert await page.seqs("all", 2) == [5, 6]
    assert await page.js("of('all', 'reset')") == []


async def test_dropped_events_reset_whom_they_concern(page, base, database_url):
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    of_tenant(database_url, "update heads set seq = seq + 2")  # as if retention had taken 1 and 2 unheard
    await emit(base)
    [reset] = await page.heard("all", "reset")
    assert (reset["reason"], reset["seq"]) == ("buffer_dropped", 2)
    assert await page.seqs("all", 1) == [3]
    page.app[keys.HUB]._lost(page.connection, 1, 2)  # which it has long passed
    await emit(base)
    assert await page.seqs("all", 2) == [3, 4]
    assert len(await page.js("of('all', 'reset')")) == 1


async def test_a_channel_that_could_not_be_looked_up_is_asked_for_again(page, app, base, monkeypatch):
    hub, subscribe, failed = app[keys.HUB], app[keys.HUB].subscribe, []

    async def fails_first(*arguments):
        if not failed:
            failed.append(True)
            raise StoreUnavailable
        await subscribe(*arguments)

    monkeypatch.setattr(hub, "subscribe", fails_first)
    await page.own_time()
    await page.start()
    await page.listen("all", CHANNEL)
    assert StoreUnavailable().detail in (await page.heard("otto", "error"))[0]["message"]
    await page.later(1_000)
    await page.joined("all")
    assert await page.js("of('all', 'refused')") == []
    assert await page.states() == ["open"]


# The token


async def test_a_token_is_renewed_in_place(page, app, base, make_token):
    page.tokens = [lambda: make_token(seconds=30), lambda: make_token(seconds=3600)]
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    connection = page.connection
    hub = app[keys.HUB]
    hub.wheel.tick(time.monotonic(), time.time())
    await until(lambda: connection.expires_at.timestamp() > time.time() + 600)
    hub.wheel.tick(time.monotonic(), time.time() + 60)
    await emit(base)
    assert await page.seqs("all", 1) == [1]
    assert page.connection is connection
    assert page.tokens_given == 2
    assert await page.states() == ["open"]
    assert len(await page.js("of('all', 'joined')")) == 1, "a renewal should not join anew"


async def test_a_renewal_that_fails_is_tried_again(page, app, base, make_token):
    def down() -> str:
        raise RuntimeError("no token today")

    same = make_token(seconds=30)
    page.tokens = [
        lambda: same,
        down,
        lambda: "",
        lambda: same,
        lambda: "forged.token.x",
        lambda: make_token(seconds=3600),
    ]
    await page.own_time()
    await page.start()
    await page.told("otto", "state", state="open")
    connection = page.connection
    app[keys.HUB].wheel.tick(time.monotonic(), time.time())
    for count in (1, 2, 3, 4):
        errors = [error["message"] for error in await page.heard("otto", "error", count)]
        await page.later(3_000)
    await until(lambda: connection.expires_at.timestamp() > time.time() + 600)
    assert ["no token" in errors[0], "no JWT" in errors[1], "runs out" in errors[2]] == [True, True, True]
    assert page.tokens_given == 6
    assert page.connection is connection
    assert await page.states() == ["open"]


async def test_4401_asks_for_a_new_token(page, base):
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    given = page.tokens_given
    page.end(4401)
    await page.joined("all", 2)
    assert page.tokens_given == given + 1
    assert (await page.told("otto", "state", state="waiting"))["retryMs"] <= 100


async def test_4401_ends_what_has_one_token_only(page, make_token):
    await page.start(token=make_token())
    await page.told("otto", "state", state="open")
    page.end(4401)
    assert await page.told("otto", "state", state="stopped") == {
        "state": "stopped", "code": 4401, "reason": "unauthenticated",
    }  # fmt: skip


async def test_a_token_function_that_gives_nothing_is_asked_again(page):
    def down() -> str:
        raise RuntimeError("no token today")

    page.tokens = [down, lambda: None, lambda: "not a token", page.tokens[0]]
    await page.own_time()
    await page.start()
    for count in (1, 2, 3):
        await page.heard("otto", "error", count)
        await page.later(3_000)
    await page.told("otto", "state", state="open")
    assert await page.states() == ["waiting", "connecting"] * 3 + ["open"]
    assert len(await page.js("of('otto', 'error')")) == 3
    assert page.errors == []


# When to come back


async def test_what_is_final_stops_it(page, app):
    for close in (close for close in CLOSES if close.client == "stop" and close.code >= 4000):
        await page.start()
        await page.listen(close.name, CHANNEL)
        await page.joined(close.name)
        connection = page.connection
        page.end(close.code)
        stopped = await page.told("otto", "state", state="stopped", code=close.code)
        assert stopped == {"state": "stopped", "code": close.code, "reason": close.name}
        await page.gone(connection)
        await page.listen("late", CHANNEL)
        assert await page.js("otto.state") == "stopped"
        assert not app[keys.HUB].connections


async def test_a_message_too_large_stops_it(page):
    await page.start()
    await page.told("otto", "state", state="open")
    await page.js(f"""(() => {{
        const {{ send }} = WebSocket.prototype;
        WebSocket.prototype.send = function () {{ send.call(this, "x".repeat({MAX_MESSAGE} + 1000)); }};
    }})()""")
    await page.listen("all", CHANNEL)
    assert (await page.told("otto", "state", state="stopped"))["reason"] == "too_large"


async def test_how_soon_it_comes_back(page):
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    for times, close in enumerate((c for c in CLOSES if c.client in {"back off", "reconnect now"}), start=2):
        page.end(close.code)
        waiting = await page.told("otto", "state", state="waiting", code=close.code)
        low, high = (100, 300) if close.client == "back off" else (0, 100)
        assert low <= waiting["retryMs"] <= high, "each time as if it were the first, since it was open in between"
        assert waiting["reason"] == close.name
        await page.joined("all", times)


async def test_attempts_that_fail_come_ever_later(page, app):
    await page.own_time()
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    await page.time_stops()
    app[keys.HEALTH].draining = True  # 503 to whoever comes
    page.end(1012)
    code = (await page.told("otto", "state", state="waiting"))["code"]
    # At once after 1012; as a lost link if the browser's answer to it met a closed connection.
    bounds = [
        (0, 100) if code == 1012 else (100, 300),
        (250, 750),
        (500, 1500),
        (1000, 3000),
        (2500, 7500),
        (2500, 7500),
    ]
    for count, (low, high) in enumerate(bounds, start=1):
        changes = await page.heard("otto", "state", 2 * count)  # after "open", "waiting" and "connecting" by turns
        assert low <= changes[-1]["retryMs"] <= high, changes
        app[keys.HEALTH].draining = count < len(bounds)
        await page.later(high)
    await page.joined("all", 2)
    page.end(1011)
    assert 100 <= (await page.told("otto", "state", code=1011))["retryMs"] <= 300, "a join should begin anew"


async def test_a_link_that_goes_silent_is_replaced(page, base, proxy):
    await page.own_time()
    await page.load(proxy.address)
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    heard = page.connection.last_heard
    await page.later(30_000)
    await until(lambda: page.connection.last_heard > heard)  # its ping
    await emit(base)
    assert await page.seqs("all", 1) == [1]  # and before it the answer: the link is well
    await page.later(10_000)
    assert await page.states() == ["open"]
    proxy.go_silent()
    await emit(base)
    await page.later(30_000)
    await page.later(10_000)
    assert (await page.told("otto", "state", state="waiting"))["reason"] == "silent"
    await page.later(1_000)
    assert await page.seqs("all", 2) == [1, 2]


async def test_a_page_that_comes_back_looks_at_once(page, base, proxy):
    await page.own_time()
    await page.load(proxy.address)
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    proxy.go_silent()
    await emit(base)
    await page.js("document.dispatchEvent(new Event('visibilitychange'))")
    await page.later(5_000)
    await page.later(1_000)
    assert await page.seqs("all", 1) == [1]


async def test_a_network_that_is_back_is_used_at_once(page, app, base):
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    await page.time_stops()
    await page.offline(True)
    page.end(1011)
    await page.told("otto", "state", state="waiting")
    await emit(base)
    await page.offline(False)
    assert await page.seqs("all", 1) == [1]


async def test_close_leaves_nothing(page, base):
    await page.js("""(() => {
        window.timers = new Set();
        window.listeners = 0;
        const { setTimeout, clearTimeout } = window;
        window.setTimeout = (action, ms) => {
            const timer = setTimeout(() => (timers.delete(timer), action()), ms);
            timers.add(timer);
            return timer;
        };
        window.clearTimeout = (timer) => (timers.delete(timer), clearTimeout(timer));
        for (const target of [window, document]) {
            const { addEventListener, removeEventListener } = target;
            target.addEventListener = (...a) => (listeners++, addEventListener.apply(target, a));
            target.removeEventListener = (...a) => (listeners--, removeEventListener.apply(target, a));
        }
    })()""")
    await page.start()
    await page.listen("all", CHANNEL)
    await page.joined("all")
    assert await page.js("[timers.size > 0, listeners]") == [True, 3]
    connection = page.connection
    await page.js("otto.close()")
    assert await page.js("[timers.size, listeners, otto.state]") == [0, 0, "stopped"]
    await page.gone(connection)
    await page.js("otto.close(), subscriptions.all.close(), otto.subscribe('tenant:demo:events').close()")
    # While it connects, and while it waits for its token.
    for moment in ("", "await Promise.resolve();", "await new Promise((go) => setTimeout(go, 1));"):
        await page.js(f"(async () => {{ start(); {moment} otto.close(); await nextToken(); }})()")
        assert await page.js("[timers.size, listeners, otto.state]") == [0, 0, "stopped"]
    assert page.errors == []
