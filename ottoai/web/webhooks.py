"""POST of providers' webhooks: reads the request, and measures and logs what was made of it."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from ottoai import log
from ottoai.errors import InvalidInput, NotFound, OttoError, Unauthenticated
from ottoai.web import edge, keys
from ottoai.web.api.reading import respond
from ottoai.web.middlewares import public_url
from ottoai.webhooks import clerk, twilio
from ottoai.webhooks.delivery import HEADERS, Provider, Raw
from ottoai.webhooks.provision import provision
from ottoai.webhooks.receive import Receipt, receive

logger = logging.getLogger(__name__)

Answer = Callable[[Receipt, int], web.Response]

TWIML = '<?xml version="1.0" encoding="UTF-8"?><Response/>'


def _no_instructions(receipt: Receipt, status: int) -> web.Response:
    """Empty TwiML; what became of the delivery is in a header."""
    headers = {"X-Webhook-Status": receipt.status}
    return web.Response(text=TWIML, status=status, content_type="text/xml", headers=headers)


# Twilio takes what is answered for instructions, and reads nothing but TwiML.
ANSWERS: Final[dict[str, Answer]] = {twilio.NAME: _no_instructions}

OUTCOMES = {
    "processed": "processed",
    "duplicate_ignored": "duplicate",
    "ignored": "ignored",
    "quarantined": "quarantined",
    "unclaimed": "unclaimed",
    "spooled": "spooled",
}


def reports(provider: Provider) -> Handler:
    """What answers where a provider reports."""
    headers, answer = (provider.SIGNATURE, *HEADERS), ANSWERS.get(provider.NAME, respond)

    async def report(request: web.Request) -> web.Response:
        take = partial(receive, request.app[keys.INGEST], spool=request.app[keys.SPOOL])
        return await _take(request, provider.NAME, request.match_info["kind"], headers, take, answer)

    report.__name__ = provider.FOLDER.replace("-", "_")
    report.__doc__ = f"POST /{provider.FOLDER}/{{kind}}[/{{hook}}]: one report about one call or text message."
    return report


async def clerk_event(request: web.Request) -> web.Response:
    """POST /clerk/webhook: one event of Clerk's. Without its secret there is no such address."""
    if not request.app[keys.CONFIG].clerk_webhook_secrets:
        raise NotFound("There is nothing at this address.")
    take = partial(provision, request.app[keys.INGEST])
    return await _take(request, clerk.NAME, "", clerk.HEADERS, take)


async def _take(
    request: web.Request,
    provider: str,
    kind: str,
    headers: Iterable[str],
    take: Callable[[Raw], Awaitable[Receipt]],
    answer: Answer = respond,
) -> web.Response:
    metrics = request.app[keys.METRICS]
    started = time.perf_counter()
    outcome = "failed"
    try:
        receipt = await take(await _raw(request, provider, kind, headers))
        _tell(receipt)
        outcome = OUTCOMES[receipt.status]
        if outcome == "duplicate":
            metrics.idempotency_duplicates_total.inc(provider=provider)
        return answer(receipt, 202 if receipt.status == "unclaimed" else 200)
    except (InvalidInput, Unauthenticated, web.HTTPRequestEntityTooLarge) as error:
        outcome = "rejected"
        detail = error.detail if isinstance(error, OttoError) else "body: larger than 1 MiB"
        logger.warning("Webhook rejected", extra={"provider": provider, "kind": kind, "detail": detail})
        raise
    finally:
        metrics.webhook_requests_total.inc(provider=provider, outcome=outcome)
        metrics.webhook_processing_seconds.observe(time.perf_counter() - started, provider=provider)


async def _raw(request: web.Request, provider: str, kind: str, headers: Iterable[str]) -> Raw:
    received_at = datetime.now(UTC)
    return Raw(
        provider=provider,
        kind=kind,
        hook=request.match_info.get("hook", ""),
        headers={name: request.headers[name] for name in headers if name in request.headers},
        url=public_url(request, request.app[keys.CONFIG]),
        body=await edge.body(request),
        received_at=received_at,
    )


def _tell(receipt: Receipt) -> None:
    fields = {"provider": receipt.provider, "kind": receipt.kind, "external_id": receipt.external_id}
    with log.bind(tenant_id=receipt.tenant_id or ""):
        match receipt.status:
            case "quarantined":
                logger.warning(
                    "Webhook quarantined", extra={**fields, "status": receipt.status, "detail": receipt.detail}
                )
            case "unclaimed":
                logger.warning("Webhook of an unknown company kept", extra={**fields, "status": receipt.status})
            case "spooled":
                logger.warning("Webhook spooled, the database is away", extra={**fields, "status": receipt.status})
            case "ignored":
                logger.info("Webhook of no concern ignored", extra={**fields, "status": receipt.status})
            case "duplicate_ignored":
                logger.info("Webhook ignored by idempotency key", extra={**fields, "status": receipt.status})
            case "processed":
                logger.info("Webhook processed successfully", extra={**fields, "status": receipt.status})
