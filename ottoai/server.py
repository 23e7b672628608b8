"""Running the API process: listening, and stopping in good order."""

import asyncio
import logging
import signal
import socket as sockets
from typing import Final

from aiohttp import web

from ottoai import __version__, background, log, memory, trace
from ottoai.app import build_app, drain
from ottoai.config import Config

logger = logging.getLogger(__name__)

SHUTDOWN: Final = 8.0  # seconds for requests in flight, after the draining of sockets took up to 21: under 30 in all
BACKLOG: Final = 1024  # connections waiting to be accepted: a thousand clients come back at once after a deploy


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    memory.one_heap()
    log.setup(config, "api")
    with trace.setup(config, "ottoai-api"):
        return asyncio.run(_serve(config))


def runner_of(app: web.Application, config: Config) -> web.AppRunner:
    """What serves an application. A connection without a finished request ends when its time is over, in the middle of
    its headers too; aiohttp would wait for an hour. Nothing is decompressed, not even what is refused and read away.
    """
    return web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=SHUTDOWN,
        keepalive_timeout=config.idle_seconds,
        auto_decompress=False,
    )


async def listen(runner: web.AppRunner, config: Config, port: int, backlog: int = 128) -> None:
    """Listen on a port. The kernel ends a connection whose client takes nothing for IDLE_SECONDS, though it may answer
    that it will: aiohttp would wait for it for ever, with its answers in memory. What is accepted inherits that.
    """
    site = web.TCPSite(runner, config.host, port, backlog=backlog)
    await site.start()
    server = site._server  # noqa: SLF001 - asyncio's, which aiohttp shows to nobody
    for each in server.sockets if isinstance(server, asyncio.Server) else ():
        each.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(config.idle_seconds * 1000))


async def _serve(config: Config) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    app = build_app(config)
    runner = runner_of(app, config)
    await runner.setup()
    try:
        await listen(runner, config, config.port, BACKLOG)
        if config.metrics_port:
            await listen(runner, config, config.metrics_port)
        memory.settle()
        logger.info("API listening", extra={"host": config.host, "port": config.port, "version": __version__})
        async with background.running(memory.collect):
            await stopping.wait()
        logger.info("API stopping")
        # Still listening: /health says 503, and who comes is answered, or told to go elsewhere if it would stay.
        await asyncio.gather(drain(app), asyncio.sleep(config.drain_seconds))
    finally:
        await runner.cleanup()
    logger.info("API stopped")
    return 0
