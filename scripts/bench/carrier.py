"""A carrier for benchmarks, a process of its own: takes texts as Twilio's API does, after a while, and remembers when
each came. `python -m scripts.bench.carrier PORT`.
"""

import asyncio
import sys
import time

from aiohttp import web

ANSWERS_AFTER = 0.15  # seconds, as Twilio does on a good day


def build() -> web.Application:
    """The application; GET /taken tells (account, phone, time on the monotonic clock) of every text."""
    taken: list[tuple[str, str, float]] = []

    async def take(request: web.Request) -> web.Response:
        at = time.monotonic()
        form = await request.post()
        taken.append((request.match_info["account"], str(form["To"]), at))
        await asyncio.sleep(ANSWERS_AFTER)
        return web.json_response({"sid": f"SM{len(taken):032x}", "status": "queued"}, status=201)

    async def tell(_request: web.Request) -> web.Response:
        return web.json_response(taken)

    app = web.Application()
    app.router.add_post("/2010-04-01/Accounts/{account}/Messages.json", take)
    app.router.add_get("/taken", tell)
    return app


if __name__ == "__main__":
    web.run_app(build(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
