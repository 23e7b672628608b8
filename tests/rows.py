"""Rows put where the API reads them, with the event that tells of them: what a test lists."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.conftest import of_tenant

BEGAN: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)
EVENTS: Final = {
    "calls": "telephony.call.completed",
    "leads": "lead.updated",
    "messages": "telephony.sms.received",
    "missed_calls": "missed_call.queued",
    "tasks": "task.created",
}

_numbers = itertools.count(1)


def minutes(count: float) -> datetime:
    """So long after it all began."""
    return BEGAN + timedelta(minutes=count)


def add(url: str, table: str, tenant: str = "demo", **columns: Any) -> str:
    """A row and its event, in one commit; its id."""
    names, values = ", ".join(columns), ", ".join(["%s"] * len(columns))
    sql = (
        f"with new as (insert into {table} (tenant_id, {names}) values (%s, {values}) returning id)"
        " select id::text, (select count(*) from append_events(%s, '', jsonb_build_array(jsonb_build_object("
        "'event', %s::text, 'data', '{}'::jsonb)))) from new"
    )
    [(row_id, _)] = of_tenant(url, sql, tenant, *columns.values(), tenant, EVENTS[table], tenant=tenant)
    return str(row_id)


def change(url: str, table: str, row_id: str, column: str, value: Any, tenant: str = "demo") -> None:
    """The same for a change of a row."""
    sql = (
        f"with changed as (update {table} set {column} = %s, version = version + 1 where id = %s returning id)"
        " select (select count(*) from append_events(%s, '', jsonb_build_array(jsonb_build_object("
        "'event', %s::text, 'data', '{}'::jsonb)))) from changed"
    )
    of_tenant(url, sql, value, row_id, tenant, EVENTS[table], tenant=tenant)


def add_lead(url: str, tenant: str = "demo", **columns: Any) -> str:
    """A lead with a phone of its own."""
    phone = f"+1404555{next(_numbers):04}"
    return add(url, "leads", tenant, **{"phone": phone, "last_contact_at": BEGAN, **columns})


def add_call(url: str, tenant: str = "demo", **columns: Any) -> str:
    """A call: answered, inbound and completed unless told otherwise."""
    usual = {
        "provider": "callrail", "external_id": f"CAL{next(_numbers)}", "direction": "inbound", "status": "completed",
        "answered": True, "started_at": BEGAN, "reports": "{}",
    }  # fmt: skip
    return add(url, "calls", tenant, **usual | columns)


def add_message(url: str, lead: str, tenant: str = "demo", **columns: Any) -> str:
    """A text that came in."""
    usual = {"direction": "inbound", "status": "received", "sender": "development", "body": "hello"}
    return add(url, "messages", tenant, lead_id=lead, **usual | columns)


def add_missed(url: str, lead: str, tenant: str = "demo", **columns: Any) -> str:
    """A missed call, with the call that it was."""
    at = columns.pop("called_at", BEGAN)
    call = add_call(url, tenant, lead_id=lead, answered=False, missed=True, started_at=at)
    return add(url, "missed_calls", tenant, call_id=call, lead_id=lead, called_at=at, **{"status": "queued"} | columns)


def add_task(url: str, tenant: str = "demo", **columns: Any) -> str:
    """A task that nobody has taken."""
    return add(url, "tasks", tenant, **{"kind": "call_back", "title": "Call back"} | columns)
