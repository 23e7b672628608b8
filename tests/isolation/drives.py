"""How tenant A tries to get at B's data through each route: one line a route in DRIVES.

A route of ottoai/web/routes.py that has no line here fails tests/isolation/test_routes.py. For a new one, take a shape
from below (`public`, `listing`, `things`, `channels`, `forged`) or write another: a function that gives the
requests to make. Each is made many times, with every method, token and forged header of `disguises`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import jwt
import msgspec

from ottoai.web import inputs
from ottoai.web.api.calls import CallQuery
from ottoai.web.api.leads import LeadQuery
from ottoai.web.api.messages import MessageQuery
from ottoai.web.api.missed_calls import MissedCallQuery
from ottoai.web.api.tasks import TaskQuery
from ottoai.web.api.timeline import TimelineQuery
from ottoai.web.routes import ROUTES
from ottoai.webhooks import callrail, twilio
from tests.conftest import SECRET, SIGNING_KEY
from tests.helpers import report
from tests.isolation.canaries import THING_IDS, A, B

MISSING: Final = "11111111-1111-4111-8111-111111111111"
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
LISTS: Final = {
    "/api/calls": ("calls", CallQuery),
    "/api/leads": ("leads", LeadQuery),
    "/api/leads/{id}/messages": ("messages", MessageQuery),
    "/api/leads/{id}/timeline": ("timeline", TimelineQuery),
    "/api/tasks": ("tasks", TaskQuery),
    "/api/missed-calls": ("missed_calls", MissedCallQuery),
}
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True)
class Ask:
    """One request. `path` may have a query; `method` "" is the route's own."""

    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = ""


PRESSED: Final = (
    "/ops/jobs/retry", "/ops/jobs/discard", "/ops/quarantine/replay", "/ops/connections/kick",
    "/ops/alerts/acknowledge", "/ops/queues/pause", "/ops/queues/resume",
)  # fmt: skip


Drive = Callable[[str], Iterable[Ask]]  # given the route's path


def public(*queries: str) -> Drive:
    """A route that is the same for everybody."""
    return lambda path: [Ask(path + query) for query in ("", *queries, f"?tenant_id={B.id}&org={B.id}")]


def pressing(path: str) -> Iterable[Ask]:
    """A button of operators, pressed by somebody who is none."""
    return [
        Ask(path, body.encode(), FORM) for body in (f"id={B.uuid(6)}", "all=1", "queue=urgent", f"job={B.word}&all=1")
    ]


def listing(path: str) -> Iterable[Ask]:
    """A list of the tenant's own: with B's id wherever one could be believed, and B's place as a cursor."""
    values = {
        "limit": "200", "cursor": place_of_b(path), "lead_id": B.lead, "q": B.word, "name": B.word,
        "phone": B.phone, "assigned_to": B.user, "kind": f"{B.word}-kind",
    }  # fmt: skip
    words = ("", *(f"{name}={quote(value)}" for name, value in values.items()))
    tenants = [f"{name}={B.id}" for name in ("tenant_id", "tenant", "org", "org_id", "company_id")]
    return [Ask(f"{path}?{query}") for query in (*words, *tenants)]


def place_of_b(path: str) -> str:
    """A cursor of this list, without filters, at a row of B's."""
    name, kind = LISTS[path]
    filters = inputs.filters(kind()) | ({"lead_id": A.lead} if "{id}" in path else {})
    return inputs.cursor_of(datetime(2099, 1, 1, tzinfo=UTC), B.lead, msgspec.json.encode((name, filters)))


def of_a_lead(path: str) -> Iterable[Ask]:
    """A list of what one lead has: B's lead, and B's place among what A's has."""
    yield from things("lead")(path)
    own = path.replace("{id}", A.lead)
    yield from (Ask(f"{own}?{query}") for query in (f"cursor={place_of_b(path)}", f"lead_id={B.lead}"))


def things(noun: str) -> Drive:
    """/api/NOUN/{id} and what is below it, with B's ids in every spelling, and as somebody else's filter."""
    own, foreign = A.uuid(THING_IDS[noun]), B.uuid(THING_IDS[noun])
    body = msgspec.json.encode({"tenant_id": B.id, "lead_id": B.lead, "assigned_to": B.user, "status": "done"})

    def drive(path: str) -> Iterable[Ask]:
        ids = (foreign, foreign.upper(), foreign.replace("-", ""), f"{foreign}%00", f"{own},{foreign}", MISSING, "x")
        for wanted in (*ids, *(B.uuid(n) for n in THING_IDS.values())):
            yield Ask(path.replace("{id}", wanted))
            yield Ask(path.replace("{id}", wanted), body, {"Content-Type": "application/json"})
        yield Ask(path.replace("{id}", own) + f"?id={foreign}&tenant_id={B.id}")

    return drive


def changes(noun: str, body: dict[str, Any]) -> Drive:
    """A change of /api/NOUN/{id}, or below it, that would be made if the id were A's, with B's ids in every spelling;
    and of A's own, naming B wherever a tenant or a thing could be named.
    """
    own, foreign = A.uuid(THING_IDS[noun]), B.uuid(THING_IDS[noun])
    headers = {"Content-Type": "application/json", "If-Match": "*"}

    def drive(path: str) -> Iterable[Ask]:
        for wanted in (foreign, foreign.upper(), f"{own},{foreign}", f"{foreign}%00", MISSING, B.lead, B.uuid(3), "x"):
            yield Ask(path.replace("{id}", wanted), msgspec.json.encode(body), headers)
            keyed = {**headers, "If-Match": '"1"', "Idempotency-Key": f"{B.word}-request-key"}
            yield Ask(path.replace("{id}", wanted), msgspec.json.encode(body), keyed)
        for named in ({"tenant_id": B.id}, {"id": foreign}, {"lead_id": B.lead}, {"author": B.user}):
            yield Ask(path.replace("{id}", own), msgspec.json.encode(body | named), headers)
        yield Ask(path.replace("{id}", own) + f"?id={foreign}&tenant_id={B.id}", msgspec.json.encode(body), headers)

    return drive


def settings(path: str) -> Iterable[Ask]:
    """The settings, as a member and naming B's."""
    headers = {"Content-Type": "application/json", "If-Match": "*"}
    for body in ({"name": "Robin's"}, {"id": B.id}, {"tenant_id": B.id, "name": "Mine"}, {}):
        for query in ("", f"?tenant_id={B.id}", f"?id={B.id}"):
            yield Ask(path + query, msgspec.json.encode(body), headers)


def channels(path: str) -> Iterable[Ask]:
    """A route that takes channels: B's, alone, beside an own one, and written in odd ways. Refused ones only: what
    an own one brings while B is at work is watched in test_live.py.
    """
    foreign = foreign_channels()
    yield from (Ask(f"{path}?channel={quote(name)}") for name in foreign)
    yield Ask(f"{path}?channel={A.id}&" + "&".join(f"channel={quote(name)}" for name in foreign))
    yield Ask(f"{path}?channel={quote(f'tenant:{A.id}:events')}&channel={quote(f'tenant:{B.id}:events')}&since=0")


def foreign_channels() -> list[str]:
    """Names by which A could hope to hear B."""
    return [
        f"tenant:{B.id}:events", f"lead:{B.lead}:timeline", f"lead:{B.lead.upper()}:timeline",
        f"user:{B.user}:tasks", f"tenant:{A.id},{B.id}:events", f"tenant:{A.id}:events tenant:{B.id}:events",
        "tenant:*:events", f"tenant:{B.id}", f"hint:{B.id}", f"tenant:{A.id}:events:tenant:{B.id}:events",
    ]  # fmt: skip


def callrail_webhook(path: str) -> Iterable[Ask]:
    """A delivery of A's that names B: with A's key, B's company, number and hook, in every mixture."""
    for kind in callrail.RANKS:
        for named in ({"company_id": int(B.company)}, {"tracking_phone_number": B.number}, {"company_id": A.company}):
            body = msgspec.json.encode(
                report(kind, 7001, **{"company_resource_id": None, **named, "id": f"{B.word}-call"})
            )
            for key in (SIGNING_KEY.format(A.id), "", "guessed"):
                headers = {"Content-Type": "application/json"} | (
                    {"Signature": callrail.sign(body, key)} if key else {}
                )
                yield Ask(_filled(path, kind=kind, hook=f"{B.word}-hook"), body, headers)


def twilio_webhook(path: str) -> Iterable[Ask]:
    """A callback that names B's number or account, with a guessed signature, a key of A's, and without one."""
    for kind in twilio.KINDS:
        for named in ({"To": B.number}, {"From": B.number}, {"AccountSid": f"{B.word}-twilio-account"}):
            form = {
                "CallSid": "CA1",
                "CallStatus": "completed",
                "MessageSid": "SM1",
                "Body": "x",
                "From": A.phone,
                **named,
            }
            where = _filled(path, kind=kind, hook=f"{B.word}-hook")
            for key in (f"{A.word}-twilio-token", "", "guessed"):
                headers = {"X-Twilio-Signature": twilio.sign(f"http://127.0.0.1{where}", form, key)} if key else {}
                yield Ask(where, urlencode(form).encode(), {**FORM, **headers})


def forged(provider: Any, told: dict[str, Any]) -> dict[tuple[str, str], Drive]:
    """The lines of a provider: reports as told, also to B's hook path, with no signature and with a guessed one."""
    body = msgspec.json.encode(told)

    def drive(path: str) -> Iterable[Ask]:
        for kind in provider.KINDS:
            for headers in ({}, {provider.SIGNATURE: "guessed"}):
                yield Ask(_filled(path, kind=kind, hook=f"{B.word}-hook"), body, headers)

    return dict.fromkeys([("POST", f"/{provider.FOLDER}/{{kind}}{hook}") for hook in ("", "/{hook}")], drive)


def _filled(path: str, **values: str) -> str:
    """A route's path with its parameters, which may carry patterns, filled in."""
    return "/".join(
        values[part[1:].partition(":")[0].rstrip("}")] if part[:1] == "{" else part for part in _parts(path)
    )


def _parts(path: str) -> list[str]:
    parts, depth = [""], 0
    for letter in path:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "/" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def emitting(path: str) -> Iterable[Ask]:
    """Without the developers' key it is closed, and with it the lead must be the tenant's."""
    for tenant, lead, key in ((B.id, B.lead, "guessed"), (B.id, "", ""), (A.id, B.lead, "dev"), (A.id, B.lead, "")):
        yield Ask(f"{path}?event=test.x&tenant_id={tenant}&lead_id={lead}", b"{}", {"X-Dev-Key": key} if key else {})


def clerk(path: str) -> Iterable[Ask]:
    """An event that would end the access of B's users, with no signature and with a guessed one."""
    body = msgspec.json.encode({"type": "organization.deleted", "data": {"id": B.id}})
    signed = {"svix-id": "msg_1", "svix-timestamp": "1700000000", "svix-signature": "v1,AAAA"}
    return [Ask(path, body), Ask(path, body, signed)]


DRIVES: Final[dict[tuple[str, str], Drive]] = {
    ("GET", "/health"): public(),
    ("GET", "/ready"): public(),
    ("GET", "/internal/worker/heartbeat"): public(),
    ("GET", "/metrics"): public("?scope=local", "?scope=fleet"),
    ("GET", "/ws"): public(f"?channel=tenant:{B.id}:events"),
    ("GET", "/ws/test-emit"): emitting,
    ("POST", "/ws/test-emit"): emitting,
    ("POST", "/call-rail/{kind}"): callrail_webhook,
    ("POST", "/call-rail/{kind}/{hook}"): callrail_webhook,
    ("POST", "/twilio/{kind}"): twilio_webhook,
    ("POST", "/twilio/{kind}/{hook}"): twilio_webhook,
    ("POST", "/clerk/webhook"): clerk,
    ("GET", "/ops"): public(),
    ("GET", "/ops.txt"): public(),
    ("GET", "/ops.json"): public(),
    ("GET", "/ops/alerts"): public("", "?before=1"),
    ("GET", "/ops/quarantine"): public(f"?tenant={B.id}"),
    ("GET", "/ops/jobs"): public(f"?tenant={B.id}", f"?state=open&tenant={B.id}"),
    ("GET", "/ops/jobs/{id}"): lambda _: [Ask(f"/ops/jobs/{each}") for each in (MISSING, B.uuid(6), B.word)],
    ("GET", "/ops/audit"): public("?before=1"),
    **{("POST", path): pressing for path in PRESSED},
    ("GET", "/docs/problems/{type}"): public(),
    # There in development alone, where it shows to whoever asks the tenant that they name, as `ottoai token` does.
    ("GET", "/demo"): public("?tenant=nobody", f"?tenant={A.id}", f"?tenant={A.id}&tenant={B.id}"),
    ("GET", "/demo/token"): public(f"?tenant={A.id}"),
    ("GET", "/demo/samples/{name}"): lambda _: [
        Ask(f"/demo/samples/{name}?{query}")
        for name in ("missed", "unnoticed", "reply", B.word)
        for query in ("", f"tenant={A.id}", f"tenant_id={B.id}")
    ],
    ("GET", "/docs"): public(),
    ("GET", "/openapi.json"): public(),
    ("GET", "/asyncapi.json"): public(),
    ("GET", "/static/{name}"): lambda _: [Ask("/static/otto.js"), Ask(f"/static/{B.word}.js")],
    ("GET", "/api/events"): channels,
    ("GET", "/api/events/stream"): channels,
    ("GET", "/api/calls"): listing,
    ("GET", "/api/calls/{id}"): things("call"),
    ("GET", "/api/leads"): listing,
    ("GET", "/api/leads/{id}"): things("lead"),
    ("PATCH", "/api/leads/{id}"): changes("lead", {"name": "taken over"}),
    ("POST", "/api/leads/{id}/messages"): changes("lead", {"body": "taken over"}),
    ("PATCH", "/api/tasks/{id}"): changes("task", {"status": "done", "assigned_to": "me"}),
    ("PATCH", "/api/settings"): settings,
    ("GET", "/api/leads/{id}/messages"): of_a_lead,
    ("GET", "/api/leads/{id}/timeline"): of_a_lead,
    ("GET", "/api/tasks"): listing,
    ("GET", "/api/tasks/{id}"): things("task"),
    ("GET", "/api/settings"): public(),
    ("GET", "/api/missed-calls"): listing,
    ("GET", "/api/missed-calls/{id}"): things("missed_call"),
}

# Where B's own token shows B's data: what makes sure that the canaries would be seen.
SHOWN_TO_B: Final = {
    "/api/calls": f"{B.word} customer",
    f"/api/calls/{B.uuid(2)}": f"{B.word} customer",
    "/api/leads": f"{B.word} lead name",
    f"/api/leads/{B.lead}": f"{B.word} lead name",
    f"/api/leads/{B.lead}/messages": f"{B.word} message body",
    f"/api/leads/{B.lead}/timeline": f"{B.word} task about",
    "/api/tasks": f"{B.word} task about",
    f"/api/tasks/{B.uuid(5)}": f"{B.word} task about",
    "/api/settings": B.id,
    "/api/missed-calls": B.uuid(3),
    f"/api/missed-calls/{B.uuid(3)}": B.uuid(3),
    "/api/events?since=0": f"{B.word} in the log",
}


def plain(path: str) -> str:
    """A route's path without the patterns of its parameters."""
    return "/".join(
        "{" + part[1:].partition(":")[0].rstrip("}") + "}" if part[:1] == "{" else part for part in _parts(path)
    )


def listed() -> list[tuple[str, str]]:
    """(method, path) of every route there is."""
    return [(method, plain(path)) for method, path, _ in ROUTES]


def disguises(ask: Ask, method: str, token: str) -> Iterable[Ask]:
    """The request as A can make it: plainly, with forged headers and tokens, and by other methods."""
    own = {"Authorization": f"Bearer {token}", **ask.headers}
    yield replace(ask, method=method, headers=own)
    yield replace(ask, method=method, headers=ask.headers)
    forged = dict.fromkeys(("X-Tenant-Id", "X-Org-Id", "X-Organization-Id", "X-User-Id", "X-Forwarded-User"), B.id)
    forged |= {"Cookie": f"org={B.id}; tenant_id={B.id}; __session={token}", "X-Request-Id": "abc", "Host": f"{B.id}.x"}
    yield replace(ask, method=method, headers=own | forged)
    for bad in bad_tokens(token):
        yield replace(ask, method=method, headers=own | {"Authorization": f"Bearer {bad}"})
    for other in METHODS:
        if other != method:
            yield replace(ask, method=other, headers=own)


def bad_tokens(token: str) -> list[str]:
    """Tokens that claim to be B's, or both's, and are not; and one that is A's and mentions B."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    head, _, signature = token.split(".")
    as_b = {**claims, "org_id": B.id, "sub": B.user}
    return [
        jwt.encode(as_b, "", algorithm="none"),
        jwt.encode(as_b, "another-secret-that-is-as-long-as-ours-is", "HS256"),
        f"{head}.{jwt.encode(as_b, SECRET, 'HS256').split('.')[1]}.{signature}",  # other claims under A's signature
        jwt.encode({**claims, "o": {"id": B.id}}, SECRET, "HS256"),  # two orgs that disagree
        jwt.encode({**claims, "tenant_id": B.id, "org": B.id, "orgs": [B.id], "org_slug": B.id}, SECRET, "HS256"),
    ]
