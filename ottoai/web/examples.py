"""One of each thing that clients see, for the documents about the API. Tests hold them against the schemas."""

from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec

from ottoai.domain.catalogue import Call, Lead, Message, MissedCall, Settings, Task
from ottoai.realtime.messages import Envelope
from ottoai.web import problem
from ottoai.web.api import timeline
from ottoai.web.api.events import Events
from ottoai.web.api.leads import LeadPatch
from ottoai.web.api.messages import NewMessage
from ottoai.web.api.settings import SettingsPatch
from ottoai.web.api.tasks import TaskPatch
from ottoai.web.emit import Emitted
from ottoai.web.health import Readiness
from ottoai.web.internal import Alive
from ottoai.web.operations import page_of
from ottoai.webhooks.receive import Receipt

NOW: Final = datetime(2026, 11, 23, 21, 20, 18, tzinfo=UTC)
LATER: Final = NOW.replace(second=20)
TRACE: Final = "60aebd9e618c8df386edc8a282016b3d"
CURSOR: Final = "MGIxYzJkM2V8MjAyNi0xMS0yM1QyMToyMDoxOCswMDowMHwzZjljMmUxYQ=="

LEAD: Final = Lead(
    id="7d1f0a52-3d0e-4b63-9a4b-6f1f2f3c9a10",
    phone="+12125550142",
    name="Robin Sample",
    source="Google Ads",
    created_at=NOW,
    last_contact_at=NOW,
    version=1,
)
CALL: Final = Call(
    id="3f9c2e1a-6b7d-4c58-8e21-0d4f5a6b7c8d",
    lead_id=LEAD.id,
    provider="callrail",
    external_id="766970532",
    direction="inbound",
    status="completed",
    answered=False,
    voicemail=False,
    missed=True,
    duration_seconds=24,
    started_at=NOW,
    customer_phone=LEAD.phone,
    customer_name=LEAD.name,
    tracking_phone="+12125550100",
    source=LEAD.source,
    version=2,
)
MISSED_CALL: Final = MissedCall(
    id="b2d4f6a8-1c3e-4a5b-9d7f-2e4c6a8b0d1f",
    call_id=CALL.id,
    lead_id=LEAD.id,
    status="texted",
    called_at=NOW,
    text_due_at=NOW,
    first_text_at=LATER,
    escalated_at=None,
    ended_at=None,
    ended_by=None,
    version=2,
)
MESSAGE: Final = Message(
    id="e5a1c3b7-9d2f-4e6a-8b0c-7f1d3e5a9c2b",
    lead_id=LEAD.id,
    missed_call_id=MISSED_CALL.id,
    step=0,
    direction="outbound",
    status="sent",
    body="Sorry we missed your call! How can we help?",
    author=None,
    created_at=NOW,
    sent_at=LATER,
    error_code=None,
    version=3,
)
TASK: Final = Task(
    id="9c7e5a3b-1d2f-4b6c-8a0e-4f6d8b2c1a3e",
    lead_id=LEAD.id,
    kind="missed_call",
    subject_id=MISSED_CALL.id,
    title="Call Robin Sample back",
    status="open",
    assigned_to=None,
    created_at=LATER,
    updated_at=LATER,
    completed_at=None,
    completed_by=None,
    version=1,
)
SETTINGS: Final = Settings(
    id="demo",
    name="Demo Roofing",
    timezone="America/New_York",
    hours="Mon-Fri 09:00-17:00",
    holidays=[date(2026, 11, 26), date(2026, 12, 25)],
    texts_enabled=True,
    first_text="Hi, this is {company}. Sorry we missed your call! How can we help?",
    follow_up_text=None,
    sla_minutes=120,
    version=4,
)
TIMELINE: Final = [
    timeline.MessageHappened(at=MESSAGE.created_at, item=MESSAGE),
    timeline.CallHappened(at=CALL.started_at, item=CALL),
]
EVENT: Final = Envelope(
    version="1",
    event="lead.created",
    seq=42,
    ts=NOW,
    severity="info",
    trace_id=TRACE,
    tenant_id="demo",
    lead_id=LEAD.id,
    data=msgspec.Raw(msgspec.json.encode(LEAD)),
)

EXAMPLES: Final[tuple[msgspec.Struct, ...]] = (
    LEAD,
    CALL,
    MISSED_CALL,
    MESSAGE,
    TASK,
    SETTINGS,
    page_of("Lead", Lead)([LEAD], CURSOR),
    page_of("Call", Call)([CALL], CURSOR),
    page_of("MissedCall", MissedCall)([MISSED_CALL], None),
    page_of("Message", Message)([MESSAGE], None),
    page_of("Task", Task)([TASK], None),
    page_of("Timeline", timeline.Happened)(TIMELINE, None),
    LeadPatch(name="Robin Sample"),
    TaskPatch(status="done", assigned_to="me"),
    SettingsPatch(hours=SETTINGS.hours, holidays=SETTINGS.holidays, sla_minutes=90),
    NewMessage("We can be there at four this afternoon. Does that suit you?"),
    Events([msgspec.Raw(msgspec.json.encode(EVENT))], "1795468818.42", 1795468818, 42, recovered=True),
    Emitted(True, "test.hello", 43, ("tenant:demo:events",), "demo", TRACE),
    Receipt("processed", "callrail", "call-complete", CALL.external_id, "demo"),
    Alive("healthy", "ottoai-api", "0.1.0", "production"),
    Readiness(
        ready=True,
        database=True,
        redis=True,
        components={"database": True, "redis": True, "worker": True, "beat": True, "migrations": True},
        duration_ms=3.2,
        timestamp=NOW,
    ),
    problem.Problem(
        problem.TYPES + "invalid-input",
        "Invalid input",
        400,
        "limit: expected `int` <= 200",
        "/api/calls",
        TRACE,
    ),
)


def of(kind: type) -> list[Any]:
    """The examples of a type, as they are in JSON."""
    return [msgspec.json.decode(msgspec.json.encode(each)) for each in EXAMPLES if type(each) is kind]
