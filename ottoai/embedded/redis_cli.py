"""A stand-in for redis-cli where no wheel brings one (Python 3.13 and later): `-u URL`, then one command.

Enough for the lines of the operations guide, `monitor` among them. Not a shell.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import redis

DEFAULT_URL = "redis://127.0.0.1:6379/0"  # where the real one looks, too


def main(words: Sequence[str]) -> int:
    """Run one command and print its reply; the exit code."""
    url = DEFAULT_URL
    if len(words) > 1 and words[0] == "-u":
        url, words = words[1], words[2:]
    if not words or words[0].startswith("-"):
        print("usage: redis-cli [-u URL] COMMAND [ARGUMENT …]   (a stand-in; install redis-tools for the real one)")
        return 2
    try:
        with redis.Redis.from_url(url) as client:
            for line in _replies(client, words):
                print(line, flush=True)
    except redis.RedisError as error:
        print(f"(error) {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _replies(client: Any, words: Sequence[str]) -> Iterator[str]:
    if words[0].lower() == "monitor":
        with client.monitor() as monitor:
            yield "OK"
            for seen in monitor.listen():
                source = f"{seen['db']} {seen['client_address']}:{seen['client_port']}"
                yield f"{seen['time']:.6f} [{source}] {seen['command']}"
        return
    client.response_callbacks.clear()  # replies as they came over the wire
    yield from _lines(client.execute_command(*words))


def _lines(reply: Any) -> Iterator[str]:
    if isinstance(reply, dict):
        reply = [part for pair in reply.items() for part in pair]
    if isinstance(reply, list | tuple | set):
        for part in reply:
            yield from _lines(part)
    else:
        yield reply.decode(errors="replace") if isinstance(reply, bytes) else "" if reply is None else str(reply)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
