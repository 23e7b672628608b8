"""Sample webhooks: bodies as CallRail sends them, about people and numbers that do not exist."""

import random
from datetime import UTC, datetime, timedelta
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
TRACKING_NUMBER: Final = "+14045550114"
KINDS: Final = ("pre-call", "routing-complete", "call-complete", "call-modified")


def daytime_phone(now: datetime, number: int | None = None) -> str:
    """A fictitious phone number in a place where it is day."""
    picked = random.randrange(100, 200) if number is None else number  # noqa: S311 - a sample, not a secret
    for zone, pattern in PHONES.items():
        if DAY[0] <= now.astimezone(ZoneInfo(zone)).hour < DAY[1]:
            return pattern.format(picked)
    raise AssertionError("it is day somewhere")


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
        "company_resource_id": "COM0123456789abcdef0123456789abcdef",
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


def new_call_id() -> int:
    """An id that no sample had before, in all likelihood."""
    return random.randrange(10**9, 10**12)  # noqa: S311 - a sample, not a secret
