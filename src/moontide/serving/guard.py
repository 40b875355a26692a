"""What every response carries and no request may exceed, as one layer around the app.

The content policy names no outside address: the page works on a machine without a network and cannot be
made to send anything anywhere.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moontide.serving.request import LIMITS

MAX_BODY = LIMITS.max_bytes + 64 * 1024  # a picture and the form around it
TOO_LARGE = f"the upload is larger than {LIMITS.max_bytes // 2**20} MB: shrink the picture"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Adds the safety headers, and stops reading a body at `MAX_BODY` bytes with a 413."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        is_static = scope["path"].startswith("/static/")

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-cache" if is_static else "no-store")
            await send(message)

        declared = Headers(scope=scope).get("content-length", "")
        is_declared = declared.isdecimal() and (len(declared) > 15 or int(declared) > MAX_BODY)
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            if is_declared:  # raised where the body is read, so that the app words the answer
                raise HTTPException(413, TOO_LARGE)
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:  # sent in chunks, without a declared length
                raise HTTPException(413, TOO_LARGE)
            return message

        await self.app(scope, receive_bounded, send_guarded)
