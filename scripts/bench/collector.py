"""Takes traces as an OTLP receiver does, in a process of its own: `python -m scripts.bench.collector PORT`."""

import sys

from aiohttp import web


def build() -> web.Application:
    """The application; GET /taken tells the bytes that came."""
    taken = {"bytes": 0, "requests": 0}

    async def take(request: web.Request) -> web.Response:
        taken["bytes"] += len(await request.read())
        taken["requests"] += 1
        return web.Response(content_type="application/x-protobuf")

    async def tell(_request: web.Request) -> web.Response:
        return web.json_response(taken)

    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/traces", take)
    app.router.add_get("/taken", tell)
    return app


if __name__ == "__main__":
    web.run_app(build(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
