"""Sample webhooks: bodies as CallRail and Twilio send them, about people and numbers that do not exist."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

# Numbers reserved for fiction, in zones around the globe: at any moment it is day at one of them, so that a sample
# missed call is texted at once whenever it is sent.
PHONES: Final = {
    "America/New_York": "+1212555{:04}",
    "Pacific/Honolulu": "+1808555{:04}",
    "Pacific/Guam": "+1671555{:04}",
    "Europe/London": "+442079460{:03}",
}
DAY: Final = (9, 19)  # hours of the day, well inside the legal ones
COMPANY: Final = "155920786"
COMPANY_RESOURCE: Final = "COM0123456789abcdef0123456789abcdef"
TRACKING_NUMBER: Final = "+14045550114"
TWILIO_ACCOUNT: Final = "AC0123456789abcdef0123456789abcdef"
TWILIO_NUMBER: Final = "+14045550115"
CALLRAIL: Final = ("pre-call", "routing-complete", "call-complete", "call-modified", "text-message")
TWILIO: Final = ("call-status", "sms")
KINDS: Final = (*CALLRAIL, *TWILIO)


def daytime_phone(now: datetime, number: int | None = None) -> str:
    """A fictitious phone number in a place where it is day."""
    picked = random.randrange(100, 200) if number is None else number  # noqa: S311 - a sample, not a secret
    for zone, pattern in PHONES.items():
        if DAY[0] <= now.astimezone(ZoneInfo(zone)).hour < DAY[1]:
            return pattern.format(picked)
    raise AssertionError("it is day somewhere")


def quiet_phone(now: datetime, heard: Sequence[str]) -> str:
    """One of those from which nobody called lately, since who was texted within two hours is not texted again. `heard`:
    those who did call, the latest first.
    """
    places = {phone: place for place, phone in enumerate(heard)}
    return max((daytime_phone(now, number) for number in range(100, 200)), key=lambda p: places.get(p, len(heard)))


def callrail(kind: str, call_id: int, *, now: datetime | None = None, **fields: Any) -> dict[str, Any]:
    """A report about an inbound call that nobody answered. `fields` replace or add."""
    now = now or datetime.now(UTC)
    started = (now - timedelta(seconds=25)).isoformat(timespec="milliseconds")
    phone = fields.pop("customer_phone_number", None) or daytime_phone(now)
    body: dict[str, Any] = {
        "answered": False,
        "business_phone_number": "",
        "call_type": "missed" if kind == "pre-call" else "abandoned",
        "company_id": int(COMPANY),
        "company_name": "Demo Roofing",
        "company_resource_id": COMPANY_RESOURCE,
        "company_time_zone": "America/New_York",
        "created_at": started,
        "customer_city": "Rochester",
        "customer_country": "US",
        "customer_name": "Robin Sample",
        "customer_phone_number": phone,
        "customer_state": "NY",
        "device_type": "",
        "direction": "inbound",
        "duration": "0" if kind == "pre-call" else "21",
        "first_call": True,
        "formatted_duration": "" if kind == "pre-call" else "21s",
        "id": call_id,
        "lead_status": None,
        "note": "",
        "prior_calls": 0,
        "recording": None,
        "recording_player": None,
        "resource_id": f"CAL{call_id:032x}",
        "source_name": "Google Ads",
        "start_time": started,
        "tags": [],
        "timestamp": started,
        "total_calls": 1,
        "tracking_phone_number": TRACKING_NUMBER,
        "transcription": "",
        "utm_source": "google",
        "value": "",
        "voicemail": False,
    }
    return {**body, **fields}


def callrail_text(text_id: int, *, now: datetime | None = None, **fields: Any) -> dict[str, Any]:
    """A text message that a customer sent. `fields` replace or add."""
    now = now or datetime.now(UTC)
    body: dict[str, Any] = {
        "company_resource_id": COMPANY_RESOURCE,
        "content": "Hi, do you also repair gutters?",
        "conversation_id": f"SMT{text_id:032x}",
        "destination_number": TRACKING_NUMBER,
        "id": text_id,
        "lead_status": None,
        "media_urls": [],
        "message_type": "sms",
        "person_resource_id": f"PER{text_id:032x}",
        "resource_id": f"SMS{text_id:032x}",
        "source_number": fields.pop("customer_phone_number", None) or daytime_phone(now),
        "timestamp": now.isoformat(timespec="milliseconds"),
    }
    return {**body, **fields}


def twilio_call(status: str, call_id: int, *, now: datetime | None = None, **fields: str) -> dict[str, str]:
    """A callback about an inbound call. `fields` replace or add."""
    now = now or datetime.now(UTC)
    order = ("queued", "initiated", "ringing", "in-progress")
    over = status not in order
    body = {
        "AccountSid": TWILIO_ACCOUNT,
        "ApiVersion": "2010-04-01",
        "CallSid": f"CA{call_id:032x}",
        "CallStatus": status,
        "CallbackSource": "call-progress-events",
        "Called": TWILIO_NUMBER,
        "CalledCountry": "US",
        "Caller": "",
        "CallerCity": "ROCHESTER",
        "CallerState": "NY",
        "Direction": "inbound",
        "From": daytime_phone(now),
        "SequenceNumber": str(len(order) if over else order.index(status)),
        "Timestamp": format_datetime(now - timedelta(seconds=0 if over else 25)),
        "To": TWILIO_NUMBER,
    }
    if over:
        body |= {"CallDuration": "21" if status == "completed" else "0", "Duration": "1"}
    body |= fields
    return {**body, "Caller": body["From"], "Called": body["To"]}


def twilio_text(text_id: int, *, now: datetime | None = None, **fields: str) -> dict[str, str]:
    """A text message that a customer sent. `fields` replace or add."""
    sid = f"SM{text_id:032x}"
    body = {
        "AccountSid": TWILIO_ACCOUNT,
        "ApiVersion": "2010-04-01",
        "Body": "Hi, do you also repair gutters?",
        "From": daytime_phone(now or datetime.now(UTC)),
        "FromCity": "ROCHESTER",
        "FromState": "",
        "MessageSid": sid,
        "NumMedia": "0",
        "NumSegments": "1",
        "SmsMessageSid": sid,
        "SmsSid": sid,
        "SmsStatus": "received",
        "To": TWILIO_NUMBER,
    }
    return {**body, **fields}


def twilio_text_status(status: str, text_id: int, **fields: str) -> dict[str, str]:
    """A callback about a text message that the tenant sent. `fields` replace or add."""
    sid = f"SM{text_id:032x}"
    body = {
        "AccountSid": TWILIO_ACCOUNT,
        "ApiVersion": "2010-04-01",
        "From": TWILIO_NUMBER,
        "MessageSid": sid,
        "MessageStatus": status,
        "SmsSid": sid,
        "SmsStatus": status,
        "To": daytime_phone(datetime.now(UTC)),
    }
    if status in {"failed", "undelivered"}:
        body["ErrorCode"] = "30003"
    return {**body, **fields}


def sample(kind: str, number: int, phone: str | None = None) -> dict[str, Any]:
    """A webhook of KINDS about call or text `number`, from a customer with this phone."""
    phone = phone or daytime_phone(datetime.now(UTC))
    match kind:
        case "text-message":
            return callrail_text(number, customer_phone_number=phone)
        case "call-status":
            return twilio_call("no-answer", number) | {"From": phone, "Caller": phone}
        case "sms":
            return twilio_text(number) | {"From": phone}
    return callrail(kind, number, customer_phone_number=phone)


def new_call_id() -> int:
    """An id that no sample had before, in all likelihood."""
    return random.randrange(10**9, 10**12)  # noqa: S311 - a sample, not a secret
