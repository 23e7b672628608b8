"""What every answer carries, whatever kind it is."""

import base64

from ottoai.web import edge
from tests.conftest import make_config
from tests.security.conftest import request

UPGRADE = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
OPERATOR = f"Authorization: Basic {base64.b64encode(b'operator:secret').decode()}"


ANSWERS = (
    ("GET /health", ()),
    ("HEAD /health", ()),
    ("GET /metrics", ()),
    ("GET /nothing", ()),
    ("DELETE /health", ()),
    ("GET /docs", ()),
    ("GET /docs/problems/not-found", ()),
    ("GET /openapi.json", ()),
    ("GET /static/otto.js", ()),
    ("GET /demo", ()),
    ("GET /ops", ()),
    ("GET /ops", (OPERATOR,)),
    ("GET /ops/alerts", (OPERATOR,)),
    ("GET /ops.txt", (OPERATOR,)),
    ("GET /api/calls", ()),
    ("GET /ws", ()),
    ("GET /ws", (*UPGRADE, "Origin: https://evil.example")),
    ("POST /call-rail/call-complete", ()),
    ("OPTIONS /api/calls", ("Origin: https://evil.example", "Access-Control-Request-Method: GET")),
)


async def test_every_answer_is_hardened(say):
    for line, headers in ANSWERS:
        fields = _fields(await say(request(line, *headers)))
        assert fields["x-content-type-options"] == "nosniff", (line, headers)
        assert "default-src 'none'" in fields["content-security-policy"], (line, headers)
        assert "frame-ancestors 'none'" in fields["content-security-policy"], (line, headers)
        assert "unsafe" not in fields["content-security-policy"], (line, headers)
        assert fields["referrer-policy"] in {"no-referrer", "same-origin"}, (line, headers)
        assert fields["cross-origin-opener-policy"] == "same-origin", (line, headers)
        assert "permissions-policy" in fields, (line, headers)
        assert fields["strict-transport-security"] == "max-age=31536000", (line, headers)
        assert fields["server"] == "ottoai", (line, headers)
        assert "access-control-allow-origin" not in fields, (line, headers)


def test_what_is_reached_by_http_promises_no_https():
    assert "Strict-Transport-Security" not in edge.headers(make_config("postgresql://x", "redis://x"))


async def test_a_tenants_data_is_kept_by_no_shared_cache(say, make_token):
    fields = _fields(await say(request("GET /api/calls", f"Authorization: Bearer {make_token()}")))
    assert fields["cache-control"] == "private, no-cache"
    assert "Authorization" in fields["vary"]


def _fields(answer: bytes) -> dict[str, str]:
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
