"""`queues`: which are paused, pausing one and letting it go on. How full they are: /ops, /metrics."""

import asyncio
from argparse import ArgumentParser, Namespace

from ottoai import __version__
from ottoai.commands import who
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import audit, paused
from ottoai.metrics import Metrics
from ottoai.queue import QUEUES
from ottoai.terminal import say


def arguments(command: ArgumentParser) -> None:
    """The command line of `queues`."""
    command.set_defaults(do=list_)
    sub = command.add_subparsers(dest="action", metavar="ACTION")
    sub.add_parser("list", help="all queues, and which are paused (what happens without ACTION)").set_defaults(do=list_)
    pause = sub.add_parser("pause", help="begin no more jobs of a queue; what runs goes on")
    resume = sub.add_parser("resume", help="let a paused queue go on")
    for parsed, do in ((pause, pause_), (resume, resume_)):
        parsed.add_argument("queue", choices=QUEUES)
        parsed.set_defaults(do=do)


def list_(config: Config, _args: Namespace) -> int:
    """List the queues."""

    async def run() -> None:
        async with open_pool(config, Metrics(__version__)) as db:
            stopped = {each.queue: each for each in await paused.paused(db.system())}
        for name in QUEUES:
            found = stopped.get(name)
            say(
                f"{name}\t"
                + (f"paused by {found.paused_by} at {found.paused_at:%Y-%m-%dT%H:%M:%SZ}" if found else "open")
            )

    asyncio.run(run())
    return 0


def pause_(config: Config, args: Namespace) -> int:
    """Pause a queue; exits 1 when it was paused already."""

    async def run() -> bool:
        async with (
            open_pool(config, Metrics(__version__)) as db,
            audit.act(db.system(), who(), "pause", args.queue) as act,
        ):
            done = await paused.pause(db.system(), args.queue, who())
            act.outcome = "paused" if done else "it was paused already"
            return done

    done = asyncio.run(run())
    say("paused: within seconds no job of it is begun any more" if done else "it was paused already")
    return 0 if done else 1


def resume_(config: Config, args: Namespace) -> int:
    """Let a queue go on; exits 1 when it was not paused."""

    async def run() -> bool:
        async with (
            open_pool(config, Metrics(__version__)) as db,
            audit.act(db.system(), who(), "resume", args.queue) as act,
        ):
            done = await paused.resume(db.system(), args.queue)
            act.outcome = "goes on" if done else "it was not paused"
            return done

    done = asyncio.run(run())
    say("goes on" if done else "it was not paused")
    return 0 if done else 1
