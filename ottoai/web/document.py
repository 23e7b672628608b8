"""How a document about the API is served: the same for everybody, and for as long as the process runs."""

from hashlib import sha256
from typing import Final

from aiohttp import web

CACHE: Final = "public, max-age=300"


def respond(request: web.Request, body: bytes, content_type: str = "application/json") -> web.Response:
    """The document, or 304 to who has it."""
    etag = sha256(body).hexdigest()[:32]
    known = request.if_none_match or ()
    if any(tag.value in {etag, "*"} for tag in known):
        response = web.Response(status=304)
    else:
        charset = "utf-8" if content_type.startswith("text/") else None
        response = web.Response(body=body, content_type=content_type, charset=charset)
    response.etag = etag
    response.headers["Cache-Control"] = CACHE
    return response
