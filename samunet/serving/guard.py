"""Who may speak with the server: programs of this machine that know the token, and the server's own page.

The token is in the address. A page of another origin cannot use it, even where it knows it, and one that gives this
machine a name of its own (DNS rebinding) is told by that name.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LARGEST_BODY = 512 * 2**20  # bytes of a request
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",  # the address holds the token
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application around another one, for requests below /TOKEN/.

    Args:
        token: what the address begins with.
        port: on which the server listens.
        largest: bytes of a request's body.
    """

    def __init__(self, app: App, token: str, port: int, largest: int = LARGEST_BODY) -> None:
        self.app, self.token, self.largest = app, token, largest
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = self._refusal(scope)
            body = bytearray()
            while refusal is None:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                if len(body) > self.largest:
                    refusal = 413, f"A request has {self.largest} bytes at most; this one has more."
                elif not message.get("more_body"):
                    break
            if refusal is not None:
                await _refuse(send, *refusal)
                return
            given = iter([{"type": "http.request", "body": bytes(body)}])

            async def receive_once() -> Message:
                return next(given, None) or await receive()

            await self.app({**scope, "root_path": f"/{self.token}"}, receive_once, _with_headers(send))

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        """Return status and reason where a request is not let in."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host") not in self.hosts:
            return 403, "This server is reached as 127.0.0.1 or localhost alone."
        if headers.get("origin", f"http://{headers['host']}") != f"http://{headers['host']}":
            return 403, f"Pages of {headers['origin'][:200]} may not use this server."
        given = scope["path"].lstrip("/").partition("/")[0].encode()
        if not hmac.compare_digest(given, self.token.encode()):
            return 403, "The address lacks the token; copy the whole address that the command printed."
        if not headers.get("content-length", "0").isdecimal() or int(headers.get("content-length", 0)) > self.largest:
            return 413, f"A request has {self.largest} bytes at most; this one has {headers['content-length'][:20]}."
        return None


def _with_headers(send: Send) -> Send:
    async def send_safely(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *given]}
        await send(message)

    return send_safely


async def _refuse(send: Send, status: int, reason: str) -> None:
    send, body = _with_headers(send), json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
