"""The commands `python -m jobs worker`, `beat` and `dashboard`: one long-running process each."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from ottoai import __version__, embedded, log, memory, terminal, trace
from ottoai.config import Config
from ottoai.errors import ConfigError
from ottoai.metrics import Metrics
from ottoai.queue import QUEUES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs",
        description="Background processes of OttoAI. Each runs until SIGTERM or SIGINT; settings come from the "
        "environment (python -m ottoai config shows them), completed by what `make run` has started.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    worker = commands.add_parser("worker", help="run jobs; start as many as there is work for")
    worker.add_argument(
        "--queues",
        type=_queues,
        default=QUEUES,
        metavar="NAME,NAME",
        help=f"the queues to serve, most urgent first (all of them: {','.join(QUEUES)})",
    )
    commands.add_parser("beat", help="enqueue what is due, repair what was lost; a second one stands by")
    commands.add_parser("dashboard", help="serve the RQ dashboard to the operators of OPS_USERS on DASHBOARD_PORT")
    return parser


def _queues(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not set(names) <= set(QUEUES):
        raise argparse.ArgumentTypeError(f"the queues are {', '.join(QUEUES)}")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    args = _parser().parse_args(argv)
    memory.one_heap()
    try:
        config = Config.load(embedded.discover(os.environ))
        log.setup(config, args.command)
        with trace.setup(config, f"ottoai-{args.command}"):
            _run(args, config)
    except ConfigError as error:
        terminal.tell(str(error))
        return 2
    return 0


def _run(args: argparse.Namespace, config: Config) -> None:
    # Imported by the one process that needs it: each of these brings megabytes that the others do not use.
    if args.command == "dashboard":
        from jobs import dashboard

        dashboard.serve(config)
    elif args.command == "beat":
        from jobs import beat

        asyncio.run(beat.serve(config, Metrics(__version__, "beat")))
    else:
        from jobs import worker

        asyncio.run(worker.serve(config, args.queues, Metrics(__version__, "worker")))


if __name__ == "__main__":
    sys.exit(main())
