"""Answers to foreign sites and to hostile texts, on every route: refuses cross-site writes, sends the headers.

Cross-site requests: a method that changes something is refused when the browser says that another site made it
(`Sec-Fetch-Site`, or for older ones an `Origin` whose host is not ours). A client that sends neither is no browser
and holds no cookie that it was not given. Plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.web.problems import problem_response

_READING_METHODS = {"GET", "HEAD", "OPTIONS"}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def is_cross_site(method: str, headers: Headers) -> bool:
    """True for a writing request that another site's page made."""
    if method in _READING_METHODS:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def content_security_policy(nonce: str) -> str:
    """Nothing is loaded but our own style sheet, scripts that carry the nonce, and our own streams."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


class SecurityMiddleware:
    """Puts `scope["state"]["nonce"]` in place for templates."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)
        scope.setdefault("state", {})["nonce"] = nonce

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", content_security_policy(nonce))
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if is_cross_site(scope["method"], Headers(scope=scope)):
            refusal = problem_response(403, "cross_site", "This request came from another site; use the page itself.")
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)
