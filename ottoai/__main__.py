"""`python -m ottoai COMMAND`: the command line of operators and developers. What the commands do is in commands.py."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Final

from ottoai import (
    __version__,
    commands,
    commands_jobs,
    commands_privacy,
    commands_queues,
    commands_settings,
    embedded,
    operate,
    terminal,
)
from ottoai.config import Config
from ottoai.domain import tenants
from ottoai.domain.roles import Role
from ottoai.errors import OttoError

TENANT_HELP: Final = {name: given.meaning for name, given in tenants.ROUTES.items()} | {
    name: f"{given.meaning} (- reads it from standard input)" for name, given in tenants.SECRETS.items()
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m ottoai", description="OttoAI's backend.")
    top.add_argument("--version", action="version", version=__version__)
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sub.add_parser("dev", help="run everything here, with PostgreSQL and Redis of its own (`make run`)")
    sub.add_parser("api", help="run the API process").set_defaults(do=commands.api)
    sub.add_parser("migrate", help="bring the database's schema up to date").set_defaults(do=commands.migrate)
    sub.add_parser("config", help="show the effective settings, secrets masked").set_defaults(do=commands.config)
    rekey = sub.add_parser("rekey", help="encrypt tenants' secrets with the first of SECRET_KEYS")
    rekey.set_defaults(do=commands.rekey)
    _tenant(sub.add_parser("tenant", help="add, list and change tenants"))
    operate.arguments(sub.add_parser("quarantine", help="deliveries that could not be used: list, show, replay"))
    commands_jobs.arguments(
        sub.add_parser("jobs", help="jobs that are open or were given up: list, show, retry, discard")
    )
    commands_queues.arguments(sub.add_parser("queues", help="queues of jobs: list, pause, resume"))
    _token(sub.add_parser("token", help="issue or inspect a token"))
    send = sub.add_parser("send-webhook", help="sign and send a sample webhook")
    send.add_argument("kind", nargs="?", default="call-complete", choices=commands.SAMPLE_KINDS)
    send.add_argument("--tenant", default="demo", help="whose signing key to use (demo)")
    send.add_argument("--id", type=int, help="id of the call (a new one)")
    send.add_argument("--phone", help="the customer's number (a fictitious one where it is day)")
    send.add_argument("--base", help="address of the API (the local one)")
    send.set_defaults(do=commands.send_webhook)
    tail = sub.add_parser("tail", help="print events as they happen")
    tail.add_argument("--org", default="demo", help="tenant to listen to (demo)")
    tail.add_argument("--token", help="token to use (one is issued)")
    tail.add_argument("--channel", help="channel (the tenant's)")
    tail.add_argument("--since", help='also what came after this: "epoch.seq" or a number')
    tail.add_argument("--base", help="address of the API (the local one)")
    tail.set_defaults(do=commands.tail)
    return top


def _tenant(command: argparse.ArgumentParser) -> None:
    sub = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    sub.add_parser("list", help="all tenants").set_defaults(do=commands.tenant_list)
    show = sub.add_parser("show", help="a tenant's settings")
    show.add_argument("id")
    show.set_defaults(do=commands_settings.tenant_show)
    add = sub.add_parser("add", help="register a tenant; exits 1 if it is there")
    change = sub.add_parser("set", help="change a tenant")
    rotate = sub.add_parser("rotate-key", help="replace a secret; the previous one stays valid until `retire-key`")
    rotate.add_argument("id")
    rotated = rotate.add_mutually_exclusive_group(required=True)
    for name in tenants.SECRETS:
        rotated.add_argument("--" + name.replace("_", "-"), help=TENANT_HELP[name])
    rotate.set_defaults(do=commands.tenant_set)
    keys = sub.add_parser("keys", help="which secrets a tenant has, not what they are")
    keys.add_argument("id")
    keys.set_defaults(do=commands.tenant_keys)
    retire = sub.add_parser("retire-key", help="accept the previous one of a tenant's secrets no longer")
    retire.add_argument("id")
    retire.add_argument("secret", choices=[name.replace("_", "-") for name in tenants.SECRETS])
    retire.set_defaults(do=commands.tenant_retire_key)
    revoke = sub.add_parser("revoke", help="refuse all tokens issued up to now, and end the connections they opened")
    revoke.add_argument("id")
    revoke.add_argument("--user", help="only this user's")
    revoke.set_defaults(do=commands.tenant_revoke)
    _privacy(sub)
    compare = sub.add_parser("reconcile", help="take in the calls that CallRail lists and no webhook told of")
    compare.add_argument("id")
    compare.add_argument("--since", help="2026-11-24, 2026-11-24T08:00 (UTC), or how long ago: 36h (not settled yet)")
    compare.add_argument("--until", help="likewise (now)")
    compare.set_defaults(do=commands.tenant_reconcile)
    for parsed in (add, change):
        parsed.add_argument("id", help="letters, digits, - and _; the `org` of its users' tokens")
        parsed.add_argument("--name", required=parsed is add)
        commands_settings.arguments(parsed)
        for name in (*tenants.ROUTES, *tenants.SECRETS):
            parsed.add_argument("--" + name.replace("_", "-"), help=TENANT_HELP[name])
    add.set_defaults(do=commands.tenant_add)
    change.set_defaults(do=commands.tenant_set)


def _privacy(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = sub.add_parser("export", help="write all that is kept of a tenant, or of one phone, as JSON Lines")
    export.add_argument("--output", metavar="FILE", help="a file that is not there yet (ID-export.jsonl); - is stdout")
    export.set_defaults(do=commands_privacy.tenant_export)
    erase = sub.add_parser("erase", help="erase a tenant, or one phone, for good")
    erase.add_argument("--yes", action="store_true", help="do not ask")
    erase.set_defaults(do=commands_privacy.tenant_erase)
    for parsed in (export, erase):
        parsed.add_argument("id")
        parsed.add_argument("--phone", metavar="NUMBER", help="only what is kept of this phone (+12125550123)")


def _token(command: argparse.ArgumentParser) -> None:
    command.add_argument("--org", help="tenant")
    command.add_argument("--user", help="user id")
    command.add_argument(
        "--role", default=Role.MEMBER.value, choices=[role.value for role in Role], help="role (member)"
    )
    command.add_argument("--ttl", default="1h", help="how long it is valid: 30m, 12h, 7d (1h)")
    command.set_defaults(do=commands.token)
    sub = command.add_subparsers(dest="action", metavar="inspect")
    inspect = sub.add_parser("inspect", help="say what a token says, and whether it is valid")
    inspect.add_argument("jwt", help="the token (- reads it from standard input)")
    inspect.set_defaults(do=commands.token_inspect)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = parser().parse_args(argv)
    try:
        if args.command == "dev":
            from ottoai import dev  # needs what is not installed in production

            return dev.run(os.environ, commands.prepare)
        do: Callable[[Config, argparse.Namespace], int] = args.do
        return do(Config.load(embedded.discover(os.environ)), args)
    except OttoError as error:
        terminal.tell(error.detail)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads has seen enough: `… list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails too
        return 0


if __name__ == "__main__":
    sys.exit(main())
