"""An event stream as a client reads it: with an ordinary HTTP request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec


class EventStream:
    """Server-sent events, one by one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id: str | None = None
        self.comments = 0

    async def message(self, within: float = 10.0) -> dict[str, Any] | None:
        """The next message; None at the end."""
        async with asyncio.timeout(within):
            fields: dict[str, str] = {}
            while line := await self.response.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == ":":
                    self.comments += 1
                elif name:
                    assert name not in fields
                    fields[name] = value
                elif fields:
                    self.last_id = fields.get("id", self.last_id)
                    message = msgspec.json.decode(fields["data"])
                    assert message["type"] == fields["event"]
                    return message
        return None

    async def event(self, within: float = 10.0) -> dict[str, Any]:
        """The next event of the log or a transient one."""
        while message := await self.message(within):
            if message["type"] == "event":
                return message
        raise EOFError


@asynccontextmanager
async def open_stream(base: str, token: str, *channels: str, since: str | None = None) -> AsyncIterator[EventStream]:
    """Open a stream at `since`, given as a browser's EventSource would."""
    headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": since} if since else {})
    query = [("channel", channel) for channel in channels]
    url = f"{base}/api/events/stream"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, params=query) as response:
        yield EventStream(response)
