"""The ASGI application: routes, what goes around them, and the page's files."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmphn_jax.files import shown
from dmphn_jax.serving import metrics, openapi, uploads
from dmphn_jax.serving.api import Api
from dmphn_jax.serving.refusal import Refusal, problem, refused
from dmphn_jax.serving.service import Service

PAGE = Path(__file__).parent / "page"
_PUBLIC = ("/healthz", "/static/", "/session")  # they tell nothing, or take the token
_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
log = logging.getLogger("dmphn.serve")

Endpoint = Callable[[Request], Awaitable[Response]]


def build(service: Service) -> ASGIApp:
    """Returns the application of a service."""
    api = Api(service)
    routes = [
        Route("/", _page),
        Route("/docs", _docs),
        Route("/openapi.json", _openapi),
        Route("/healthz", _healthz(service)),
        Route("/metrics", _metrics(service)),
        Route("/session", _session(service), methods=["POST"]),
        Route("/v1/model", api.model),
        Route("/v1/places", api.places),
        Route("/v1/deblur", api.deblur, methods=["POST"]),
        Route("/v1/films", api.post_film, methods=["POST"]),
        Route("/v1/films/{id}", api.get_film, methods=["GET"]),
        Route("/v1/films/{id}", api.delete_film, methods=["DELETE"]),
        Route("/v1/films/{id}/result", api.get_film_result),
        Mount("/static", StaticFiles(directory=PAGE)),
    ]
    handlers = {
        Refusal: _on_refusal,
        HTTPException: _on_http_error,
        ClientDisconnect: _on_disconnect,
        Exception: _on_fault,
    }
    return _Around(_Guard(Starlette(routes=routes, exception_handlers=handlers), service), service)


class _Around:
    """Puts security headers on every answer, counts it, and logs it in a line."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return
        begun, status = time.perf_counter(), 499  # no answer: the client has gone
        state = scope.setdefault("state", {})

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - begun
            route, method = _route(scope), scope["method"]
            method = method if method in ("GET", "HEAD", "POST", "DELETE") else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            if route not in ("/healthz", "/metrics") and not route.startswith("/static"):
                client = (scope.get("client") or ("-",))[0]
                told = shown(state.get("told", ""))  # it may quote what a stranger sent
                log.info("%s %s %s %d %.2f s %s", client, method, route, status, seconds, told)


def _route(scope: Scope) -> str:
    """Returns the pattern of the route that was taken: few, whatever strangers ask for."""
    route = scope.get("route")
    return route.path if isinstance(route, Route | Mount) else "other"


class _Guard:
    """Lets in who may."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._access = app, service.access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        headers, path = Headers(scope=scope), scope["path"]
        try:
            self._access.check(scope["method"], headers, public=path.startswith(_PUBLIC))
        except Refusal as refusal:
            token = Request(scope).query_params.get("token")
            wants_page = refusal.status == 401 and path == "/" and scope["method"] == "GET"
            if wants_page and token is not None and self._access.knows(token):
                given = {"Set-Cookie": self._access.cookie(headers)}
                response: Response = FileResponse(PAGE / "index.html", headers=given)
            elif wants_page:
                response = _token_page(refusal.headers)
            else:
                response = refused(refusal)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _token_page(headers: dict[str, str], said: str = "") -> Response:
    """Returns the page that asks for the token.

    A form of a page without any referrer would be sent with the origin `null`, as another site's.
    """
    text = (PAGE / "token.html").read_text().replace("{said}", said)
    return HTMLResponse(text, 401, headers | {"Referrer-Policy": "same-origin"})


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html")


async def _docs(request: Request) -> Response:
    return FileResponse(PAGE / "docs.html")


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi.document())


def _healthz(service: Service) -> Endpoint:
    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": service.state}, 200 if service.state == "ready" else 503)

    return healthz


def _metrics(service: Service) -> Endpoint:
    async def figures(request: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    return figures


def _session(service: Service) -> Endpoint:
    async def session(request: Request) -> Response:
        """Takes the token from the form that asks for it."""
        body = uploads.limited(request, uploads.Bounds(4096, 30))
        async with body.form(max_files=0, max_fields=1) as form:
            token = form.get("token")
        access = service.access
        if access.token is None or not isinstance(token, str) or not access.knows(token.strip()):
            return _token_page({}, "This is not the token.")
        cookie = {"Set-Cookie": access.cookie(request.headers)}
        return RedirectResponse("./", 303, cookie)

    return session


async def _on_refusal(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    request.state.told = refusal.detail
    return refused(refusal)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {404: "nothing is here; /docs tells what is", 405: "not with this method"}
    detail = details.get(error.status_code, error.detail)
    return problem(error.status_code, detail, dict(error.headers or {}))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    request.state.told = "the client has gone"
    return Response(status_code=499)  # nobody reads it


async def _on_fault(request: Request, error: Exception) -> Response:
    # It is raised again behind this, and logged by uvicorn.
    return problem(500, "a fault of this server; its log tells more")
