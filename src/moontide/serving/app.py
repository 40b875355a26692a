"""The HTTP face of a pipeline: a JSON search, pictures, a health check, and one page for people.

    GET  /search?q=&shopper=&k=    JSON
    POST /search                   the same as a form, with a picture in `image`
    GET  /  POST /                 the page; with the header `x-fragment` only its results
    GET  /image/ID                 a stored picture
    GET  /healthz                  what is loaded and what is missing

A refused request gets a 4xx and one sentence: `{"error": ...}`, or the page saying so.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from moontide.serving.guard import HEADERS, Guard
from moontide.serving.page import Page
from moontide.serving.pipeline import Pipeline
from moontide.serving.request import RequestError

log = logging.getLogger(__name__)
OUR_FAULT = "the server failed on this request: its log says why"
SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def create_app(source: Path | str | Pipeline) -> FastAPI:
    """The web app of a run folder, or of a pipeline that is loaded already.

    Raises:
        CheckpointError: there is no run at the path.
        DataError: its dataset is gone.
    """
    pipeline = source if isinstance(source, Pipeline) else Pipeline.load(source)
    app = FastAPI(title="moontide", docs_url=None, redoc_url=None)  # their pages load scripts from elsewhere
    app.add_middleware(Guard)
    page = Page(pipeline)
    _add_errors(app, page)
    _add_search(app, pipeline)
    _add_page(app, pipeline, page)
    _add_files(app, pipeline)
    return app


@dataclass(frozen=True)
class Form:
    """The fields of a posted form; `like` is the id of a stored picture to search with."""

    text: str
    image: bytes | None
    like: str
    shopper: str | None
    num: int


def _add_search(app: FastAPI, pipeline: Pipeline) -> None:
    @app.get("/search")
    def search(q: str = "", shopper: str | None = None, k: int = 12) -> JSONResponse:
        """Ads and products for a text."""
        return JSONResponse(pipeline.search(q, None, shopper, k).to_dict())

    @app.post("/search")
    async def search_by_form(request: Request) -> JSONResponse:
        """Ads and products for a text, a picture or both, sent as a form: q, image, shopper, k."""
        form = await _read_form(request)
        answer = await run_in_threadpool(pipeline.search, form.text, form.image, form.shopper, form.num)
        return JSONResponse(answer.to_dict())

    @app.get("/healthz")
    async def health() -> dict:
        """Whether all parts are loaded, and what a search has to do without."""
        missing = pipeline.parts.missing
        return {
            "status": "degraded" if missing else "ok",
            "missing": missing,
            "versions": pipeline.parts.versions,
            "products": len(pipeline.stock.products),
            "advertised": len(pipeline.stock.campaigns),
        }


def _add_page(app: FastAPI, pipeline: Pipeline, page: Page) -> None:
    def answer(request: Request, form: Form) -> HTMLResponse:
        show = partial(page.render, request, text=form.text, like=form.like, shopper=form.shopper or "")
        try:
            image = form.image or _stored(pipeline, form.like)
            found = pipeline.search(form.text, image, form.shopper, page.num_products)
        except RequestError as error:
            return HTMLResponse(show(None, error=str(error)), error.status)
        return HTMLResponse(show(found, upload=form.image))

    @app.get("/", response_class=HTMLResponse)
    def show(
        request: Request,
        q: str = "",
        like: Annotated[str, Query(description="id of a stored picture to search with")] = "",
        shopper: str = "",
    ) -> HTMLResponse:
        """The page, with results if something is asked."""
        if not q.strip() and not like:
            return HTMLResponse(page.render(request, None, shopper=shopper))
        return answer(request, Form(q, None, like, shopper or None, page.num_products))

    @app.post("/", response_class=HTMLResponse)
    async def show_form(request: Request) -> HTMLResponse:
        """The page's form, which may carry a picture."""
        return await run_in_threadpool(answer, request, await _read_form(request))


def _stored(pipeline: Pipeline, image_id: str) -> bytes | None:
    """The stored picture of an id; None for no id.

    Raises:
        RequestError: there is no such picture.
    """
    image = pipeline.image(image_id) if image_id else None
    if image_id and image is None:
        raise _unknown(image_id)
    return image


def _unknown(image_id: str) -> RequestError:
    return RequestError(f"no picture has the id {image_id[:80]!r}", 404)


def _add_files(app: FastAPI, pipeline: Pipeline) -> None:
    @app.get("/image/{image_id:path}")
    def image(image_id: str, request: Request) -> Response:
        """A stored picture; browsers keep it and ask whether it is still the same: runs share their ids."""
        data = pipeline.image(image_id)
        if data is None:
            raise _unknown(image_id)
        tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
        headers = {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        kind = next((kind for start, kind in SIGNATURES.items() if data.startswith(start)), None)
        return Response(data, media_type=kind or "application/octet-stream", headers=headers)

    folder = resources.files("moontide.serving") / "static"
    app.mount("/static", StaticFiles(directory=str(folder)), name="static")


async def _read_form(request: Request) -> Form:
    """The checked fields of a posted form.

    Raises:
        RequestError: a field is of the wrong kind.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise RequestError(f"send a form, as multipart/form-data, not {kind or 'nothing'}", 415)
    async with request.form(max_files=1, max_fields=8, max_part_size=64 * 1024) as form:
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        upload = form.get("image")
        image = await upload.read() if isinstance(upload, UploadFile) else None
    if fields.get("image"):
        raise RequestError("send the picture as a file in the field `image`, not as text")
    num = fields.get("k") or "12"
    if not re.fullmatch("[0-9]{1,9}", num):
        raise RequestError(f"k must be a whole number, got {num[:20]!r}")
    like = "" if image else fields.get("like", "")
    return Form(fields.get("q", ""), image or None, like, fields.get("shopper") or None, int(num))


def _add_errors(app: FastAPI, page: Page) -> None:
    def refuse(request: Request, status: int, sentence: str) -> Response:
        if request.url.path == "/":
            asked = request.query_params
            text, shopper = asked.get("q", ""), asked.get("shopper", "")
            return HTMLResponse(page.render(request, None, text, "", shopper, error=sentence), status)
        return JSONResponse({"error": sentence}, status)

    @app.exception_handler(RequestError)
    def on_refused(request: Request, error: RequestError) -> Response:
        return refuse(request, error.status, str(error))

    @app.exception_handler(RequestValidationError)
    def on_invalid(request: Request, error: RequestValidationError) -> Response:
        mistake = error.errors()[0]
        value = str(mistake.get("input"))[:40]
        return refuse(request, 400, f"{mistake['loc'][-1]}: {mistake['msg'].lower()}, got {value!r}")

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> Response:
        text = error.detail
        if error.status_code == 404 and text == "Not Found":
            text = f"nothing is at {request.url.path[:80]}: the page is at /"
        elif error.status_code == 405:
            text = f"{request.method} is not possible here: use {(error.headers or {}).get('Allow', 'GET')}"
        return refuse(request, error.status_code, text)

    @app.exception_handler(Exception)
    def on_failure(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse({"error": OUR_FAULT}, 500, headers={**HEADERS, "cache-control": "no-store"})
