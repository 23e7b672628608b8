"""Traces: where a request came from and what it set off, across processes.

A trace id always exists inside `span`, so that every log line, error, event and job can carry it; spans are recorded
and sent (OTLP over HTTP) only where an endpoint is configured. The only importer of OpenTelemetry. What goes into a
span never includes a query string, a raw path or the text of an exception: those hold tokens, secret hooks and phones.
"""

import logging
import os
import random
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_getter
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ottoai.config import Config, Network, within

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.util.types import Attributes

__all__ = ["SpanKind", "chosen", "recorded", "setup", "span", "took", "trace_id", "traceparent"]

log = logging.getLogger(__name__)

EXCLUDED_URLS: Final = "^/(health|ready|metrics|ws)$"  # probes say nothing; a WebSocket is not one request
EXPORT_TIMEOUT_SECONDS: Final = 3.0  # of one batch, its retries included
EXIT_SECONDS: Final = 3.0  # what is not sent by then is given up: an absent collector must not hold up the exit
# What the instrumentation may say of a request; the rest is its caller's words: address, headers, host.
PUBLIC_ATTRIBUTES: Final = frozenset({
    "error.type", "http.request.method", "http.response.status_code", "http.route", "network.protocol.version",
    "url.scheme",
})  # fmt: skip

_PROPAGATOR: Final = TraceContextTextMapPropagator()


class _State:
    """The one provider of this process, while `setup` is open. Module state, because a span may begin anywhere."""

    provider: "TracerProvider | None" = None


@contextmanager
def setup(config: Config, service: str) -> Iterator[None]:
    """Record and send spans while open, if an endpoint is configured; flush at the end.

    Enter it before the first `web.Application` is made (that class is replaced by an instrumented one), and give that
    application its middlewares as a list: the instrumentation puts its own in front and fails on a tuple.
    """
    if not config.otel_endpoint:
        yield
        return
    # Read by the instrumentation itself, and by nothing else: it knows no argument for these two.
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"
    os.environ["OTEL_PYTHON_AIOHTTP_SERVER_EXCLUDED_URLS"] = EXCLUDED_URLS
    from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

    exporter = _exporter(config.otel_endpoint.rstrip("/"))
    provider = _State.provider = _provider(config, service, exporter)
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(_Trusted(config.trusted_proxies))
    instrumentor = AioHttpServerInstrumentor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp about the subclass made here
        instrumentor.instrument(tracer_provider=provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()
        propagate.set_global_textmap(before)
        _State.provider = None
        give_up = threading.Timer(EXIT_SECONDS, exporter.shutdown)
        give_up.daemon = True
        give_up.start()
        provider.shutdown()
        give_up.cancel()


@contextmanager
def span(
    name: str,
    *,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, str | int | float | bool] | None = None,
) -> Iterator[Span]:
    """One step of a trace: of the W3C `traceparent` where given and valid, else of the current one, else of a new one.

    An exception that passes marks the span as failed, with the exception's type and not its text.
    """
    parent = context.get_current() if traceparent is None else _continued(traceparent)
    started = _started(name, parent, kind, attributes)
    token = context.attach(trace.set_span_in_context(started, parent))
    try:
        yield started
    except Exception as error:
        started.set_status(Status(StatusCode.ERROR))
        started.set_attribute("error.type", type(error).__qualname__)
        raise
    finally:
        context.detach(token)
        started.end()


def took(
    name: str,
    seconds: float,
    *,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, str | int | float | bool] | None = None,
) -> None:
    """Record a step that has just ended, as a part of `traceparent` or of the current position, if that is recorded;
    else it costs next to nothing.
    """
    if _State.provider is None:
        return
    parent = context.get_current() if traceparent is None else _continued(traceparent)
    if not trace.get_current_span(parent).get_span_context().trace_flags.sampled:
        return
    ended = time.time_ns()
    tracer = _State.provider.get_tracer("ottoai")
    step = tracer.start_span(name, parent, kind, attributes, start_time=ended - int(seconds * 1e9))
    step.end(ended)


def recorded() -> bool:
    """Whether the current position is recorded and sent."""
    return _State.provider is not None and trace.get_current_span().get_span_context().trace_flags.sampled


def chosen(ratio: float) -> bool:
    """Whether the current trace is among so large a share of all: the same ones in every process."""
    return ratio >= 1 or trace.get_current_span().get_span_context().trace_id % 2**64 < ratio * 2**64


def trace_id() -> str:
    """The current trace id, 32 hexadecimal digits; "" outside of any span."""
    current = trace.get_current_span().get_span_context()
    return f"{current.trace_id:032x}" if current.is_valid else ""


def traceparent() -> str:
    """The current position as W3C traceparent, to be stored and given to `span` elsewhere; "" outside of any span."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return ""
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags & TraceFlags.SAMPLED:02x}"


class _Trusted(TraceContextTextMapPropagator):
    """Goes on with the trace of a request that a trusted proxy passed on. Anybody else could fill the collector, and
    have what it does looked for in another's trace.
    """

    def __init__(self, proxies: tuple[Network, ...]) -> None:
        self._proxies = proxies

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = default_getter) -> Context:
        if not within(carrier.remote or "", self._proxies):
            return context or Context()
        return super().extract(carrier, context, getter)


def _continued(given: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": given}, context=Context())


def _started(
    name: str, parent: Context, kind: SpanKind, attributes: Mapping[str, str | int | float | bool] | None
) -> Span:
    if _State.provider:
        return _State.provider.get_tracer("ottoai").start_span(name, parent, kind, attributes)
    above = trace.get_current_span(parent).get_span_context()
    return NonRecordingSpan(
        SpanContext(
            trace_id=above.trace_id or random.getrandbits(128) or 1,
            span_id=random.getrandbits(64) or 1,
            is_remote=False,
            trace_flags=above.trace_flags,
        )
    )


# What follows imports where needed: without an endpoint no process pays memory and start-up time for the SDK.
def _exporter(endpoint: str) -> "SpanExporter":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Exporter(OTLPSpanExporter):
        """Tells once that its receiver is away, and once that it is back. Their own does with every try."""

        lost = False

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            result = super().export(spans)
            lost = result is not SpanExportResult.SUCCESS
            if lost and not self.lost:
                log.warning("Traces cannot be sent; they are lost meanwhile", extra={"count": len(spans)})
            elif self.lost and not lost:
                log.info("Traces are sent again")
            self.lost = lost
            return result

    for noisy in ("opentelemetry.exporter", "opentelemetry.sdk.trace.export", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    return Exporter(
        endpoint=endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces",
        timeout=EXPORT_TIMEOUT_SECONDS,
    )


def _provider(config: Config, service: str, exporter: "SpanExporter") -> "TracerProvider":
    """The provider, with every choice given: what the environment says otherwise does not count."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        sampler=_sampler(config.otel_ratio),
        resource=Resource({"service.name": service, "deployment.environment.name": config.environment}),
        span_limits=SpanLimits(max_events=0),  # an event is an exception's text and frames: the log has them, redacted
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=2048,
            schedule_delay_millis=5000,
            max_export_batch_size=512,
            export_timeout_millis=EXPORT_TIMEOUT_SECONDS * 1000,
        )
    )
    return provider


def _sampler(ratio: float) -> "Sampler":
    from opentelemetry.sdk.trace.sampling import ParentBased, SamplingResult, TraceIdRatioBased

    class Private(ParentBased):
        """Samples by the parent, else by the trace id; the one place where attributes can still be taken back."""

        def should_sample(
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: "Attributes" = None,
            *rest: Any,
        ) -> SamplingResult:
            allowed = attributes
            if kind is SpanKind.SERVER:
                allowed = {key: value for key, value in (attributes or {}).items() if key in PUBLIC_ATTRIBUTES}
            return super().should_sample(parent_context, trace_id, name, kind, allowed, *rest)

    return Private(TraceIdRatioBased(ratio))
