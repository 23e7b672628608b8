"""Webhooks that nobody receives: a kind of report that is not known, or a provider that is not. They are answered 404
as everything else that is not there, but whoever sends them means us, so they are counted and named in the log.
"""

import logging
import re
from typing import Final

from aiohttp import web

from ottoai.web import keys
from ottoai.webhooks import clerk
from ottoai.webhooks.receive import PROVIDERS

logger = logging.getLogger(__name__)

OTHER: Final = "other"  # the label of providers we do not know: their names are anybody's words
FOLDERS: Final = {each.FOLDER: each.NAME for each in PROVIDERS.values()} | {"clerk": clerk.NAME}
OURS: Final = frozenset({"api", "demo", "docs", "internal", "ops", "static", "ws"})  # no provider is called like that

# A webhook's address is words: who reports, what, and perhaps a secret. What scanners ask for seldom looks like it.
ADDRESS: Final = re.compile(r"/(?P<provider>[a-z][a-z0-9-]{1,30})/(?P<kind>[^/]{1,100})(/[^/]{1,100})?/?")
WORDS: Final = re.compile(r"[a-z]+([-_.][a-z]+)*")  # secrets have digits or capitals


def note(request: web.Request) -> None:
    """Count and log a POST to an address that leads nowhere, if it looks like a webhook's."""
    address = ADDRESS.fullmatch(request.path)
    if address is None or address["provider"] in OURS:
        return
    provider = FOLDERS.get(address["provider"])
    request.app[keys.METRICS].webhook_requests_total.inc(provider=provider or OTHER, outcome="unknown")
    kind = address["kind"] if WORDS.fullmatch(address["kind"]) else OTHER
    if provider:
        logger.warning("Webhook of an unknown kind refused", extra={"provider": provider, "kind": kind})
    else:
        logger.warning("New webhook provider detected", extra={"provider": address["provider"], "kind": kind})
