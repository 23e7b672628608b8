"""A small OTLP receiver (OTLP over HTTP, protobuf), for tests: it keeps what it was sent, or misbehaves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.canary import watch

Manner = Literal["takes", "hangs", "fails"]


class Collector:
    """The receiver. `manner`: what it does with what comes next; `asked`: how often something came."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        self.manner: Manner = "takes"
        self.asked = 0
        self.let_go = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.asked += 1
                collector.paths.add(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                watch.saw("traces", body)
                if collector.manner == "hangs":
                    collector.let_go.wait(60)
                    return
                if collector.manner == "takes":
                    collector.bodies.append(body)
                self.send_response(200 if collector.manner == "takes" else 500)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def sent(self) -> list[tuple[str, Any]]:
        """(service, span) of all that it took."""
        return [
            (service.value.string_value, span)
            for body in list(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for service in resource.resource.attributes
            if service.key == "service.name"
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def spans(self) -> dict[str, Any]:
        """Spans by name."""
        return {span.name: span for _, span in self.sent()}

    def close(self) -> None:
        """Be away. A second call does nothing."""
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A running receiver."""
    receiver = Collector()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.close()
        thread.join()
