"""Other people's servers under the same load: what they need says what a delivery may cost on this machine."""

import asyncio
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from ottoai.embedded.folder import any_port
from scripts.bench.cores import api_cores, child, load_cores, on_cores
from scripts.bench.listeners import upgrade
from scripts.bench.targets import SIZE, Target, payload

STARTS_WITHIN = 10.0
SYSTEM = ":/usr/sbin:/sbin:/usr/local/sbin"  # where servers are, beside PATH
MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules")

NGINX = """\
load_module {module};
{user}
worker_processes 1;
worker_rlimit_nofile 8192;
daemon off;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  keepalive_requests 1000000;
  nchan_shared_memory_size 128M;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    nchan_channel_id bench;
    nchan_message_buffer_length 1000;
    location = /publish {{ nchan_publisher http; }}
    location = /listen {{ nchan_subscriber websocket; nchan_subscriber_first_message newest; }}
  }}
}}
"""
NATS = 'host: 127.0.0.1\nport: {port}\nping_interval: "10m"\nmax_pending: 256MB\nwrite_deadline: "60s"\n'


@asynccontextmanager
async def nginx() -> AsyncIterator[Target | None]:
    """Nginx with nchan: one worker, published over HTTP on a connection that stays. None where it is not installed."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + SYSTEM)
    module = next((found for place in MODULES if (found := Path(place, "ngx_nchan_module.so")).exists()), None)
    if program is None or module is None:
        yield None
        return
    port = any_port()
    user = "user root;" if os.geteuid() == 0 else ""
    with _server([program, "-c", "server.conf"], NGINX.format(module=module, port=port, user=user), port) as process:
        base = f"http://127.0.0.1:{port}"
        head = f"POST /publish HTTP/1.1\r\nHost: bench\r\nContent-Length: {SIZE}\r\n\r\n".encode()
        async with _writer(port) as write:
            worker = process.children()[0]
            yield Target(
                "nginx + nchan", worker, base,
                lambda count: [[(upgrade(base, "/listen"), b"\r\n\r\n")] for _ in range(count)],
                lambda number: write(head + payload(number)), SIZE + 4,
            )  # fmt: skip


@asynccontextmanager
async def nats() -> AsyncIterator[Target | None]:
    """NATS over TCP, without WebSocket framing; Go's scheduler held to one core. None where it is not installed."""
    program = shutil.which("nats-server", path=os.environ.get("PATH", "") + SYSTEM)
    if program is None:
        yield None
        return
    port = any_port()
    with _server([program, "-c", "server.conf"], NATS.format(port=port), port) as process:
        hello = b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"0","protocol":0}\r\n'
        joining = [(hello + b"SUB bench 1\r\nPING\r\n", b"PONG\r\n")]
        async with _writer(port) as write:
            write(hello)
            size = len(b"MSG bench 1 %d\r\n" % SIZE) + SIZE + 2
            yield Target(
                "nats-server", process, f"http://127.0.0.1:{port}",
                lambda count: [joining for _ in range(count)],
                lambda number: write(b"PUB bench %d\r\n%s\r\n" % (SIZE, payload(number))), size,
            )  # fmt: skip


@contextmanager
def _server(words: list[str], config: str, port: int) -> Iterator[psutil.Process]:
    with TemporaryDirectory(prefix="ottoai-bench-") as folder, on_cores(load_cores()):
        Path(folder, "server.conf").write_text(config)
        words = [*words, *(["-p", folder, "-e", "error.log"] if "nginx" in words[0] else [])]
        env = {**os.environ, "GOMAXPROCS": "1"}
        with child(words, cores=api_cores(), env=env, cwd=folder, quiet=True) as process:
            deadline = time.monotonic() + STARTS_WITHIN
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{words[0]} did not start.")
                time.sleep(0.05)
            time.sleep(0.2)
            yield psutil.Process(process.pid)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def _writer(port: int) -> AsyncIterator[Callable[[bytes], None]]:
    """A connection to publish on; what is answered is thrown away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def discard() -> None:
        while await reader.read(65536):
            pass

    task = asyncio.create_task(discard())
    try:
        yield writer.write
    finally:
        task.cancel()
        writer.close()
