"""Tokens that somebody else signs: their keys come, go, and stay away, and nothing else is taken for one of them."""

import asyncio
import base64
import gzip
import json
import logging
import re
import time
from argparse import Namespace
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ottoai import commands
from ottoai.app import build_app
from ottoai.client import Closed, connect
from ottoai.domain.roles import Role
from ottoai.errors import InvalidInput
from ottoai.web import auth, keys
from ottoai.web.jwks import MAX_SET, Pace
from tests.conftest import SECRET, make_config
from tests.helpers import get, lags
from tests.issuer import claims_of, issuing, jwk, private_key, signed
from tests.streams import open_stream

# What takes minutes and hours otherwise. `refresh` is left long: only what a token asks for is fetched, unless a test
# says otherwise.
FAST = Pace(refresh=60.0, retry=0.2, unknown=0.1, timeout=10.0, wait=10.0, stale=60.0)
HASTY = replace(FAST, timeout=0.5, wait=0.3)  # where the issuer hangs; elsewhere a pause of the machine is no failure


@pytest.fixture
async def issuer():
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
def config(database_url, redis_url, issuer):
    return make_config(database_url, redis_url, JWT_JWKS_URL=issuer.url)


@pytest.fixture
def pace():
    return FAST


@pytest.fixture
async def app(config, demo, pace):
    return build_app(config, pace)


@asynccontextmanager
async def serving(config, aiohttp_server, pace=FAST):
    server = await aiohttp_server(build_app(config, pace))
    yield str(server.make_url("")).rstrip("/")


async def status(base: str, token: str) -> int:
    return (await get(base, "/api/calls", token))[0]


async def fetchable(base: str) -> None:
    """The keys are there, and one that is not known may have them fetched again."""
    await becomes(base, signed("one"), 200)
    await asyncio.sleep(FAST.unknown)


async def becomes(base: str, token: str, wanted: int, within: float = 20.0) -> float:
    """Ask until the answer is this one; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while await status(base, token) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_token_opens_everything_that_ours_do(base, make_token):
    channel = "tenant:demo:events"
    for token in (signed("one"), signed("one", org_id=None, org_role=None, o={"id": "demo", "rol": "admin"}, v=2)):
        assert await status(base, token) == 200
        async with connect(base, token) as socket:
            await socket.send(type="auth", token=signed("one"))
            await socket.answer("welcome")
        async with connect(base) as socket:  # as the first message
            await socket.send(type="auth", token=token)
            await socket.answer("welcome")
        async with open_stream(base, token, channel) as stream:
            assert (await stream.message())["type"] == "welcome"
    assert await status(base, make_token()) == 200


async def test_claims_are_checked_as_in_ours(database_url, redis_url, demo, issuer, aiohttp_server):
    settings = {"JWT_ISSUER": "https://clerk.example", "JWT_AUTHORIZED_PARTIES": "https://a.example,https://b.example"}
    config = make_config(database_url, redis_url, JWT_JWKS_URL=issuer.url, **settings)
    now = int(time.time())
    good = {"iss": "https://clerk.example", "azp": "https://b.example"}
    cases = [
        ({}, 200),
        ({"azp": None}, 200),
        ({"azp": "https://c.example"}, 401),
        ({"azp": ["https://a.example"]}, 401),
        ({"iss": None}, 401),
        ({"iss": "https://other.example"}, 401),
        ({"exp": None}, 401),
        ({"iat": None}, 401),
        ({"sub": None}, 401),
        ({"org_id": None}, 401),
        ({"exp": now - 2}, 200),  # within the leeway
        ({"exp": now - 20}, 401),
        ({"iat": now + 3}, 200),
        ({"iat": now + 60}, 401),
        ({"nbf": now + 60}, 401),
        ({"exp": 10**18}, 401),
        ({"exp": "soon"}, 401),
        ({"exp": float("nan")}, 401),
        ({"exp": float("inf")}, 401),
        ({"iat": float("-inf")}, 401),
        ({"org_id": "demo", "o": {"id": "other"}}, 401),
    ]
    async with serving(config, aiohttp_server) as base:
        for claims, wanted in cases:
            assert await status(base, signed("one", **good | claims)) == wanted, claims


async def test_confusions_are_refused(base, issuer, make_token, caplog):
    issuer.kids = ["one", "two"]
    assert await status(base, signed("one")) == 200
    public = private_key("one").public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    elliptic = ec.generate_private_key(ec.SECP256R1())
    claims = claims_of()

    def hs256(secret: bytes, **header: str) -> str:
        """PyJWT would not sign with a public key."""
        import hashlib
        import hmac

        parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT", **header}, claims)]
        told = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        digest = base64.urlsafe_b64encode(hmac.digest(secret, told, hashlib.sha256)).rstrip(b"=")
        return (told + b"." + digest).decode()

    def unsigned(**header: str) -> str:
        return jwt.encode(claims, None, "none", headers=header)

    head, told, signature = signed("one").split(".")
    other = base64.urlsafe_b64encode(json.dumps(claims_of(sub="ben")).encode()).rstrip(b"=").decode()
    forged = {
        "none": unsigned(),
        "none with a kid": unsigned(kid="one"),
        "nothing signed": f"{head}.{told}.",
        "another body": f"{head}.{other}.{signature}",
        "public PEM as a secret": hs256(pem),
        "public PEM, stripped": hs256(pem.strip()),
        "public PEM with its kid": hs256(pem, kid="one"),
        "public DER": hs256(der),
        "modulus": hs256(jwk("one")["n"].encode()),
        "nothing as a secret": hs256(b""),
        "our secret under a key's id": hs256(SECRET.encode(), kid="one"),
        "key of another id": signed("one", "two"),
        "id of another key": signed("two", "one"),
        "unknown id": signed("three", "one"),
        "no id": jwt.encode(claims, private_key("one"), "RS256"),
        "an empty id": jwt.encode(claims, private_key("one"), "RS256", headers={"kid": ""}),
        "ES256": jwt.encode(claims, elliptic, "ES256", headers={"kid": "one"}),
        "RS512": jwt.encode(claims, private_key("one"), "RS512", headers={"kid": "one"}),
        "PS256": jwt.encode(claims, private_key("one"), "PS256", headers={"kid": "one"}),
        "HS512": jwt.encode(claims, SECRET * 2, "HS512"),
        "no token": "a.b.c",
        "not even dots": "nothing",
    }
    for name, token in forged.items():
        assert await status(base, token) == 401, name
    # The check of this test itself: our own secret without a key's id is well.
    assert await status(base, hs256(SECRET.encode())) == 200
    assert await status(base, hs256(SECRET.encode(), kid="ours")) == 200
    # Had a header brought its own key, it would have been asked for.
    lure = jwt.encode(
        claims, private_key("evil"), "RS256", headers={"kid": "one", "jku": issuer.url, "jwk": jwk("evil")}
    )
    assert await status(base, lure) == 401
    assert "unexpectedly" not in caplog.text


@pytest.mark.parametrize("secret", [SECRET, ""])
@pytest.mark.parametrize("with_url", [True, False])
async def test_what_is_not_configured_is_not_accepted(
    database_url, redis_url, demo, issuer, aiohttp_server, make_token, secret, with_url
):
    if not secret and not with_url:
        return  # refused by Config
    url = {"JWT_JWKS_URL": issuer.url} if with_url else {}
    async with serving(make_config(database_url, redis_url, JWT_SECRET=secret, **url), aiohttp_server) as base:
        assert await status(base, make_token()) == (200 if secret else 401)
        assert await status(base, signed("one")) == (200 if with_url else 401)
        for guess in ("", "None", "0"):
            header = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=").decode()
            assert await status(base, f"{header}.{guess}.{guess}") == 401


# The keys come and go


async def test_rotation(database_url, redis_url, demo, issuer, aiohttp_server, caplog):
    config = make_config(database_url, redis_url, JWT_JWKS_URL=issuer.url)
    pace = replace(FAST, refresh=0.2)
    async with serving(config, aiohttp_server, pace) as base:
        old, new = signed("one"), signed("two")
        assert await status(base, old) == 200
        assert await status(base, new) == 401
        issuer.kids = ["one", "two"]
        await becomes(base, new, 200)
        assert await status(base, old) == 200
        with caplog.at_level(logging.INFO, logger="ottoai.web.jwks"):
            issuer.kids = ["two"]
            await becomes(base, old, 401)  # though it was verified before, and has not expired
        fetched = [(r.new, r.withdrawn) for r in caplog.records if r.message == "Token keys fetched"]
        assert fetched[-1] == ([], ["one"])
        assert await status(base, signed("one", sub="ben")) == 401
        assert await status(base, new) == 200
        # Another key under an old one's name.
        issuer.body = json.dumps({"keys": [jwk("two", "three")]}).encode()
        await becomes(base, new, 401)
        assert await status(base, signed("two", "three")) == 200


async def test_a_connection_lasts_as_long_as_its_token_though_its_key_was_withdrawn(app, base, issuer):
    await fetchable(base)
    token = signed("one")
    async with connect(base, token) as socket:
        issuer.kids = ["two"]
        assert await status(base, signed("two")) == 200
        assert await status(base, token) == 401
        await socket.send(type="ping")
        await socket.answer("pong")
        await socket.send(type="auth", token=token)
        assert (await socket.answer("error"))["code"] == "unauthenticated"
        await socket.send(type="auth", token=signed("two"))
        await socket.answer("welcome")
        app[keys.HUB].wheel.tick(time.monotonic(), time.time() + 600 + 30)
        with pytest.raises(Closed):
            while True:
                await socket.receive()


async def test_made_up_kids_cause_no_flood_of_fetches(database_url, redis_url, demo, issuer, aiohttp_server):
    config = make_config(database_url, redis_url, JWT_JWKS_URL=issuer.url)
    pace = Pace(refresh=60.0, unknown=30.0)
    async with serving(config, aiohttp_server, pace) as base:
        assert await status(base, signed("one")) == 200
        before = issuer.asked
        answers = await asyncio.gather(*(status(base, signed(f"made-up-{n}", "one")) for n in range(200)))
        assert answers == [401] * 200
        assert issuer.asked - before <= 1
        assert await status(base, signed("one", sub="ben")) == 200


async def test_all_who_wait_share_one_fetch(base, issuer):
    await fetchable(base)
    issuer.kids = ["one", "two"]
    before = issuer.asked
    answers = await asyncio.gather(*(status(base, signed("two", sub=f"u{n}")) for n in range(50)))
    assert answers == [200] * 50
    assert issuer.asked - before == 1


# They stay away


@pytest.mark.parametrize("pace", [HASTY])
async def test_while_the_server_hangs_nobody_else_does(base, issuer, caplog):
    """The times are a twentieth of the real ones or less; so is the bound: 30 s become 1.5."""
    await fetchable(base)
    new = signed("two")
    with caplog.at_level(logging.INFO, logger="ottoai.web.jwks"):
        issuer.hang()
        issuer.kids = ["one", "two"]
        with lags() as lag:
            until = time.monotonic() + 2.0
            asked = asyncio.gather(*(becomes(base, signed("two", sub=f"u{n}"), 503) for n in range(10)))
            while time.monotonic() < until:
                late, began = len(lag), time.monotonic()
                assert await status(base, signed("one", sub=f"u{int(began * 1000)}")) == 200
                await asyncio.sleep(0.005)  # so that what held the loop up last is told too
                assert time.monotonic() - began < HASTY.wait / 2 + sum(lag[late:])
                assert await status(base, new) == 503  # it may be a new key's
            await asked
            late = len(lag)
            issuer.recover()
            assert await becomes(base, new, 200) < 1.5 + sum(lag[late:])
    # A fetch on the loop would hold it for HASTY.timeout, several times; one hiccup of the machine is none.
    assert sorted(lag)[-2] < HASTY.timeout / 2
    assert len(lag) > 20
    told = [r.message for r in caplog.records if r.name == "ottoai.web.jwks"]
    assert told == ["Token keys cannot be fetched", "Token keys fetched"]


async def test_a_key_that_came_back_counts_without_anybody_asking(
    database_url, redis_url, demo, issuer, aiohttp_server
):
    issuer.hang()
    config = make_config(database_url, redis_url, JWT_JWKS_URL=issuer.url)
    async with serving(config, aiohttp_server, Pace(retry=0.2, unknown=60.0, timeout=0.2, wait=0.1)) as base:
        token = signed("one")
        assert await status(base, token) == 503  # the process started, and is well but for these
        assert (await get(base, "/health"))[0] == 200
        issuer.recover()
        await becomes(base, token, 200)


@pytest.mark.parametrize("failure", ["status", "redirect", "malformed", "empty", "too large", "compressed"])
async def test_a_bad_answer_takes_no_key_away(base, issuer, failure):
    await fetchable(base)
    good = json.dumps({"keys": [jwk("two")]}).encode()
    match failure:
        case "status":
            issuer.status = 500
        case "redirect":
            issuer.status, issuer.headers = 302, {"Location": "/elsewhere"}
        case "malformed":
            issuer.body = b"<html>Sorry</html>"
        case "empty":
            issuer.body = b'{"keys": []}'
        case "too large":
            issuer.body = good + b" " * MAX_SET
        case "compressed":
            issuer.body, issuer.headers = gzip.compress(good), {"Content-Encoding": "gzip"}
    before = issuer.asked
    assert await status(base, signed("two")) == 503
    assert issuer.asked > before
    assert await status(base, signed("one", sub="ben")) == 200
    issuer.recover()
    issuer.kids = ["two"]
    await becomes(base, signed("two"), 200)
    assert await status(base, signed("one")) == 401


async def test_an_outage_is_bridged_for_a_day_and_no_longer(database_url, redis_url, demo, issuer, aiohttp_server):
    config = make_config(database_url, redis_url, JWT_JWKS_URL=issuer.url)
    pace = replace(FAST, refresh=0.1, retry=0.1, stale=2.0)
    async with serving(config, aiohttp_server, pace) as base:
        token = signed("one")
        assert await status(base, token) == 200
        issuer.status = 503
        began = time.monotonic()
        await becomes(base, token, 503)
        assert 0.6 < time.monotonic() - began < 20
        issuer.recover()
        await becomes(base, token, 200)
    assert Pace().stale == 24 * 3600
    assert Pace().retry + Pace().timeout + Pace().unknown < 30


@pytest.mark.parametrize("pace", [HASTY])
async def test_a_socket_is_told_to_try_later(base, issuer):
    await fetchable(base)
    issuer.hang()
    async with connect(base) as socket:
        await socket.send(type="auth", token=signed("two"))
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 1013
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connect(base, signed("two")):
            pass
    assert refused.value.status == 503


async def test_nobody_waits_long_for_a_key(database_url, redis_url, demo, issuer, aiohttp_server):
    config = make_config(database_url, redis_url, JWT_JWKS_URL=issuer.url)
    issuer.hang()
    async with serving(config, aiohttp_server, Pace(timeout=20.0, wait=0.2)) as base:
        began = time.monotonic()
        assert await status(base, signed("one")) == 503
        assert time.monotonic() - began < 5
        issuer.recover()  # the fetch goes on for whoever comes later
        await becomes(base, signed("one"), 200)
        assert issuer.asked == 1


async def test_an_endless_token_is_refused_unread(base):
    async with connect(base) as socket:
        await socket.send(type="auth", token=signed("one", padding="x" * 8192))
        with pytest.raises(Closed) as closed:
            await socket.receive()
        assert closed.value.code == 4401


async def test_fetches_are_counted(base, issuer):
    assert await status(base, signed("one")) == 200
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics?scope=local") as response:
        text = await response.text()
    for result, number in {"ok": 1, "failed": 0}.items():
        assert re.search(rf'jwks_fetches_total{{[^}}]*result="{result}"}} {number}\n', text)


# What is made of it


async def test_a_handler_demands_a_role(app, aiohttp_server):
    async def settle(request):
        auth.demand(request[keys.PRINCIPAL], Role.MANAGER)
        return aiohttp.web.json_response({})

    app.router.add_get("/api/for-managers", settle)
    server = await aiohttp_server(app)
    base = str(server.make_url("")).rstrip("/")
    for role, wanted in (("org:admin", 200), ("org:member", 403), ("service", 403), (None, 403)):
        found, headers, problem = await get(base, "/api/for-managers", signed("one", org_role=role))
        assert found == wanted
        if wanted == 403:
            assert (headers["Content-Type"], problem["type"]) == (
                "application/problem+json",
                "/docs/problems/forbidden",
            )


async def test_without_a_secret_none_are_issued(database_url, redis_url, issuer):
    config = make_config(database_url, redis_url, JWT_SECRET="", JWT_JWKS_URL=issuer.url)
    with pytest.raises(InvalidInput, match="JWT_SECRET is not set"):
        auth.issue(config, "demo", "ann", Role.MEMBER, timedelta(hours=1))


async def test_inspect_tells_whether_it_counts(config, demo, issuer, capsys):
    def inspect(token: str) -> int:
        return commands.token_inspect(config, Namespace(jwt=token))

    assert await asyncio.to_thread(inspect, signed("one", org_role="org:admin")) == 0
    assert "valid: tenant demo, user ann, role manager" in capsys.readouterr().out
    assert await asyncio.to_thread(inspect, signed("two")) == 1
    assert "NOT VALID: The token is not valid: the key it names" in capsys.readouterr().out
