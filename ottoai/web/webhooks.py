"""POST of providers' webhooks: reads the request, and measures and logs what `receive` made of it."""

import logging
import time
from datetime import UTC, datetime

from aiohttp import web

from ottoai import log
from ottoai.errors import InvalidInput, OttoError, Unauthenticated
from ottoai.web import keys
from ottoai.web.api.reading import respond
from ottoai.webhooks import callrail
from ottoai.webhooks.delivery import Raw
from ottoai.webhooks.receive import Receipt, receive, wanted_headers

logger = logging.getLogger(__name__)

OUTCOMES = {
    "processed": "processed",
    "duplicate_ignored": "duplicate",
    "quarantined": "quarantined",
    "unclaimed": "unclaimed",
}


async def call_rail(request: web.Request) -> web.Response:
    """POST /call-rail/{kind}[/{hook}]: one report about one call."""
    return await _take(request, callrail.NAME, request.match_info["kind"])


async def _take(request: web.Request, provider: str, kind: str) -> web.Response:
    metrics = request.app[keys.METRICS]
    started = time.perf_counter()
    outcome = "failed"
    try:
        receipt = await receive(request.app[keys.INGEST], await _raw(request, provider, kind))
        outcome = OUTCOMES[receipt.status]
        _tell(receipt)
        if outcome == "duplicate":
            metrics.idempotency_duplicates_total.inc(provider=provider)
        return respond(receipt, 202 if receipt.status == "unclaimed" else 200)
    except (InvalidInput, Unauthenticated, web.HTTPRequestEntityTooLarge) as error:
        outcome = "rejected"
        detail = error.detail if isinstance(error, OttoError) else "body: larger than 1 MiB"
        logger.warning("Webhook rejected", extra={"provider": provider, "kind": kind, "detail": detail})
        raise
    finally:
        metrics.webhook_requests_total.inc(provider=provider, outcome=outcome)
        metrics.webhook_processing_seconds.observe(time.perf_counter() - started, provider=provider)


async def _raw(request: web.Request, provider: str, kind: str) -> Raw:
    received_at = datetime.now(UTC)
    return Raw(
        provider=provider,
        kind=kind,
        hook=request.match_info.get("hook", ""),
        headers={name: request.headers[name] for name in wanted_headers(provider) if name in request.headers},
        body=await _body(request),
        received_at=received_at,
    )


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.RequestPayloadError as error:  # it says it is compressed, and is not
        raise InvalidInput("body: cannot be decoded as its Content-Encoding says") from error


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
            case "duplicate_ignored":
                logger.info("Webhook ignored by idempotency key", extra={**fields, "status": receipt.status})
            case "processed":
                logger.info("Webhook processed successfully", extra={**fields, "status": receipt.status})
