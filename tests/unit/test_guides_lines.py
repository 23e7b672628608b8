"""The log lines of the operations guide: each is written at one place, so that it always means the same."""

import re
from pathlib import Path

import pytest

LINES = {
    "WebSocket connection established": "ottoai/web/session.py",
    "Disconnecting stale connection": "ottoai/realtime/wheel.py",
    "Event %s published to %d channels": "ottoai/realtime/bus.py",
    "Webhook processed successfully": "ottoai/web/webhooks.py",
    "Webhook ignored by idempotency key": "ottoai/web/webhooks.py",
    "Rate limit hit: %s": "ottoai/web/throttle.py",
    "Unauthorized access: tenant_id mismatch": "ottoai/web/foreign.py",
    "Slow query": "ottoai/db.py",
    "Self-probe failed": "ottoai/ops/probes.py",
}


@pytest.mark.parametrize("message", LINES)
def test_one_place_writes_it(repository: Path, message: str) -> None:
    call = re.compile(rf'\.(?:log|debug|info|warning|error)\((?:\s*level,)?\s*"{re.escape(message)}"')
    found = [
        str(path.relative_to(repository))
        for folder in ("ottoai", "jobs")
        for path in sorted((repository / folder).rglob("*.py"))
        for _ in call.finditer(path.read_text())
    ]
    assert found == [LINES[message]]
