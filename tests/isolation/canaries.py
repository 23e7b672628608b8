"""Two tenants in which every column tells whose it is: planted rows, what they hold, and where it turns up.

A new table or column fails `test_every_column_of_both_tenants_is_planted` until it is planted here.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ottoai.vault import Vault
from tests.conftest import SECRET_KEY, execute
from tests.isolation.sessions import acting, trying

VAULT = Vault((SECRET_KEY,))
MIN_LENGTH = 8  # shorter values are words that many rows share


@dataclass(frozen=True)
class Planted:
    """A tenant whose data can be recognised: `word` is in every text, `seed` begins every id."""

    id: str
    word: str
    seed: str
    phone: str
    company: str
    number: str

    def uuid(self, n: int) -> str:
        return f"{self.seed}-0000-4000-8000-{n:012d}"

    @property
    def lead(self) -> str:
        return self.uuid(1)

    @property
    def user(self) -> str:
        return f"{self.word}-user"


A = Planted("robin", "robin", "a0a0a0a0", "+12125550161", "161161161", "+12125550162")
# No phone of a sample: one that /demo thought of could be the same.
B = Planted("kestrel", "kestrel", "b0b0b0b0", "+19075550171", "171171171", "+19075550172")
THING_IDS = {"lead": 1, "call": 2, "missed_call": 3, "message": 4, "task": 5}
# Written by ottoai_system, or by the operator's login; the rest as the tenant itself.
BY_SYSTEM = {"credentials", "revocations", "tenant_routes", "unclaimed_deliveries"}


def rows(t: Planted) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row of every table but tenants and heads, which `tenants.add` makes."""
    w = t.word
    at = "2026-01-02T03:04:05+00:00"
    call = {"1": {"customer_phone": t.phone, "customer_name": f"{w} in a report", "direction": "inbound"}}
    yield "leads", {
        "id": t.lead, "phone": t.phone, "name": f"{w} lead name", "source": f"{w} lead source", "last_contact_at": at,
        "named_by": t.user,
    }  # fmt: skip
    yield "calls", {
        "id": t.uuid(2), "lead_id": t.lead, "provider": "callrail", "external_id": f"{w}-call", "status": "completed",
        "direction": "inbound", "answered": False, "missed": True, "started_at": at, "customer_phone": t.phone,
        "customer_name": f"{w} customer", "tracking_phone": t.number, "source": f"{w} source",
        "reports": json.dumps(call),
    }  # fmt: skip
    yield "missed_calls", {
        "id": t.uuid(3), "call_id": t.uuid(2), "lead_id": t.lead, "status": "queued", "called_at": at,
    }  # fmt: skip
    yield "messages", {
        "id": t.uuid(4), "lead_id": t.lead, "missed_call_id": t.uuid(3), "step": 1, "direction": "outbound",
        "status": "sent", "sender": "development", "provider_id": f"{w}-text", "body": f"{w} message body",
    }  # fmt: skip
    yield "tasks", {
        "id": t.uuid(5), "lead_id": t.lead, "kind": f"{w}-kind", "title": f"{w} task about {t.phone}",
        "assigned_to": t.user,
    }  # fmt: skip
    yield "opt_outs", {"digest": f"{w}-digest", "source": "text"}
    yield "idempotency_keys", {
        "id": t.uuid(6), "provider": "callrail", "kind": f"{w}-report", "external_id": f"{w}-call",
        "variant": f"{w}-variant", "outcome": "processed", "trace_id": f"{w}-trace-of-key",
    }  # fmt: skip
    yield "payloads", {
        "idempotency_key_id": t.uuid(6), "headers": json.dumps({"user-agent": f"{w}-agent"}),
        "body": json.dumps({"customer_phone_number": t.phone, "note": f"{w} payload"}).encode(),
        "error": f"{w} payload error",
    }  # fmt: skip
    yield "outbox", {
        "id": t.uuid(7), "job": f"{w}-job", "queue": f"{w}-queue", "subject_id": t.uuid(3), "state": "dead",
        "due_at": at, "enqueue_at": at, "error": f"{w} job error", "trace_context": f"{w}-trace-of-job",
    }  # fmt: skip
    yield "development_texts", {"message_id": t.uuid(4), "recipient": t.phone, "body": f"{w} text body"}
    yield "tenant_routes", {"provider": "twilio", "kind": "account", "value": f"{w}-twilio-account"}
    yield "tenant_routes", {"provider": "callrail", "kind": "hook", "value": f"{w}-hook"}
    yield "credentials", {
        "provider": "twilio", "name": "auth_token",
        "current": VAULT.seal(f"{w}-twilio-token"), "previous": VAULT.seal(f"{w}-twilio-before"),
    }  # fmt: skip
    yield "reconciliations", {
        "account": f"{w}-callrail-account", "companies": [f"{w}-company"], "error": f"{w} reconcile error",
    }  # fmt: skip
    yield "users", {
        "user_id": t.user, "role": "member", "member": True, "membership_stamp": f"{w}-stamp-of-membership",
        "name": f"{w} user name", "person_stamp": f"{w}-stamp-of-person",
    }  # fmt: skip
    yield "request_keys", {
        "user_id": t.user, "key": f"{w}-request-key", "fingerprint": f"{w}-fingerprint", "status": 202,
        "answer": json.dumps({"body": f"{w} answer to {t.phone}"}),
    }  # fmt: skip
    yield "recaps", {"day": "2026-01-02", "data": json.dumps({"note": f"{w} recap"})}
    yield "revocations", {"user_id": f"{w}-revoked-user", "valid_after": "2020-01-01T00:00:00+00:00"}


def events(t: Planted) -> list[dict[str, Any]]:
    """What the tenant's log holds."""
    lead = {"id": t.lead, "phone": t.phone, "name": f"{t.word} in the log", "status": "completed"}
    return [
        {"event": "lead.created", "lead_id": t.lead, "data": lead},
        {"event": f"test.{t.word}", "severity": "warning", "user_id": t.user, "data": {"note": f"{t.word} noted"}},
    ]


def plant(url: str, t: Planted) -> None:
    """Give a tenant that was added a row in every table."""
    for table, values in rows(t):
        insert(url, table, {"tenant_id": t.id, **values}, as_tenant=None if table in BY_SYSTEM else t.id)
    with trying(url) as cursor:
        cursor.execute("select set_config('role', 'ottoai_app', true), set_config('app.tenant_id', %s, true)", (t.id,))
        cursor.execute("select append_events(%s, %s, %s)", (t.id, f"{t.word}-trace", json.dumps(events(t))))
        cursor.connection.commit()


def insert(url: str, table: str, values: dict[str, Any], as_tenant: str | None) -> None:
    """One row, as ottoai_app for a tenant or as the operator's login."""
    sql = f"insert into {table} ({', '.join(values)}) values ({', '.join(['%s'] * len(values))})"
    if as_tenant is None:
        execute(url, sql, *values.values())
        return
    with trying(url) as cursor:
        cursor.execute(
            "select set_config('role', 'ottoai_app', true), set_config('app.tenant_id', %s, true)", (as_tenant,)
        )
        cursor.execute(sql, list(values.values()))
        cursor.connection.commit()


def dump(url: str, tenant: str) -> dict[str, list[str]]:
    """Every row of a tenant in every table, as JSON text, by table."""
    with trying(url) as cursor, acting(cursor, "ottoai_privacy", tenant):
        cursor.execute("select name from tenant_tables()")
        found = {}
        for (table,) in cursor.fetchall():
            cursor.execute("select content::text from tenant_rows(%s, 0, 100000, null, '{}') as r (content)", (table,))
            found[table] = sorted(row[0] for row in cursor.fetchall())
        return found


def canaries_of(url: str, t: Planted, other: Planted) -> frozenset[str]:
    """Every value of a tenant by which it can be recognised: those that the other does not have too."""
    others = set(_leaves(dump(url, other.id)))
    found = {leaf for leaf in _leaves(dump(url, t.id)) if len(leaf) >= MIN_LENGTH} - others
    return frozenset(found | {t.word, t.phone.lstrip("+"), t.number.lstrip("+"), t.seed})


def _leaves(dumped: dict[str, list[str]]) -> Iterator[str]:
    stack: list[Any] = [json.loads(row) for table in dumped.values() for row in table]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, str):
            yield value
            if value[:1] in "{[" and value[1:2]:
                try:
                    stack.append(json.loads(value))
                except ValueError:
                    continue


def found_in(text: str, canaries: frozenset[str]) -> list[str]:
    """Which of these occur."""
    lowered = text.lower()
    return sorted(canary for canary in canaries if canary.lower() in lowered)
