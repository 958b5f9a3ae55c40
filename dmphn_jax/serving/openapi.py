"""The interface's description, for programs and for the page that shows it."""

from __future__ import annotations

import functools
from typing import Any

from dmphn_jax import __version__
from dmphn_jax.serving.engine import ENSEMBLES
from dmphn_jax.serving.films import State

Json = dict[str, Any]

_ABOUT = (
    "Motion deblurring of photographs and short films. Where the server asks for a token, every "
    "request brings it: Authorization: Bearer TOKEN. What cannot be served is answered with a "
    "problem document (RFC 9457), whose detail says why."
)
_REFUSALS = {
    400: "a parameter or the form is wrong",
    401: "no token, or a wrong one",
    403: "asked for by a page of another site",
    404: "no such film here (any more)",
    408: "the file came too slowly",
    409: "not done yet, or failed",
    413: "too large",
    415: "compressed in transfer",
    421: "the server is not called that",
    422: "the file cannot be used; the reason names why",
    501: "this server takes no films",
    503: "full, or stopping; Retry-After says when to ask again",
    504: "not done in time",
    507: "the server's disk is full",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_HOW = [
    {
        "name": "stages",
        "in": "query",
        "description": "run a stack's first so many stages; all by default",
        "schema": {"type": "integer", "minimum": 1},
    },
    {
        "name": "ensemble",
        "in": "query",
        "description": "none (the default); flips: the mean over 8 flips and quarter turns; "
        "shifts: over places of the patch grid",
        "schema": {"type": "string", "enum": list(ENSEMBLES), "default": ENSEMBLES[0]},
    },
]
_ID = [
    {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "of the film",
        "schema": {"type": "string"},
    }
]


@functools.cache
def document() -> Json:
    """Returns the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "dmphn serve", "version": __version__, "description": _ABOUT},
        "security": [{"token": []}, {}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _paths() -> Json:
    film, model, places, health = map(_json, ("Film", "Model", "Places", "Health"))
    return {
        "/v1/deblur": {
            "post": {
                "operationId": "deblur",
                "summary": "A picture in, the same picture deblurred out.",
                "description": "PNG, JPEG, WebP, BMP, TIFF or a still GIF. The result has the "
                "format of the file's content (PNG for GIF), and keeps what dmphn deblur keeps: "
                "16 bits, alpha, grayness, ICC profile, EXIF, XMP, resolution.",
                "parameters": _HOW,
                "requestBody": _body("image"),
                "responses": {
                    "200": {
                        "description": "the picture; Dmphn-Seconds tells how long it took, "
                        "Dmphn-Notes what could not be kept",
                        "content": {"image/*": _BINARY},
                    },
                    **_refusals(400, 401, 403, 408, 413, 415, 421, 422, 503, 504, 507),
                },
                "x-example": "curl --data-binary @photo.jpg -o sharp.jpg "
                "http://127.0.0.1:8080/v1/deblur",
            }
        },
        "/v1/films": {
            "post": {
                "operationId": "postFilm",
                "summary": "A film in; it is made in the background.",
                "description": "Told by its content: v1/model names the containers. Sound, "
                "subtitles and frame times are kept.",
                "parameters": _HOW,
                "requestBody": _body("film"),
                "responses": {
                    "202": {"description": "taken; Location tells where to ask", **film},
                    **_refusals(400, 401, 403, 408, 413, 415, 421, 422, 501, 503, 507),
                },
                "x-example": "curl -F film=@in.mp4 http://127.0.0.1:8080/v1/films",
            }
        },
        "/v1/films/{id}": {
            "get": {
                "operationId": "getFilm",
                "summary": "How far a film is.",
                "parameters": _ID,
                "responses": {
                    "200": {"description": "where it stands", **film},
                    **_refusals(401, 404, 421),
                },
            },
            "delete": {
                "operationId": "deleteFilm",
                "summary": "Stops and forgets a film.",
                "parameters": _ID,
                "responses": {"204": {"description": "gone"}, **_refusals(401, 403, 404, 421)},
            },
        },
        "/v1/films/{id}/result": {
            "get": {
                "operationId": "getFilmResult",
                "summary": "The film that came out; it is kept for a while.",
                "description": "Once it was sent whole, by one request, another film may have its "
                "place.",
                "parameters": _ID,
                "responses": {
                    "200": {
                        "description": "the film; ranges are answered",
                        "content": {"video/*": _BINARY},
                    },
                    **_refusals(401, 404, 409, 421),
                },
            }
        },
        "/v1/model": {
            "get": {
                "operationId": "getModel",
                "summary": "What this server runs, and how much it takes.",
                "responses": {
                    "200": {"description": "model and limits", **model},
                    **_refusals(401, 421),
                },
            }
        },
        "/v1/places": {
            "get": {
                "operationId": "getPlaces",
                "summary": "How many pictures and films would be taken now.",
                "responses": {
                    "200": {"description": "free places; seconds: when to ask again", **places},
                    **_refusals(401, 421, 503),
                },
            }
        },
        "/healthz": {
            "get": {
                "operationId": "healthz",
                "summary": "Whether the server is ready; needs no token.",
                "responses": {
                    "200": {"description": "ready", **health},
                    "503": {"description": "starting or stopping", **health},
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Figures for Prometheus.",
                "responses": {
                    "200": {
                        "description": "its text format",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                    **_refusals(401, 421),
                },
            }
        },
    }


def _schemas() -> Json:
    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    maybe = {"type": ["number", "null"]}
    return {
        "Problem": _object(title=text, status=whole, detail=text),
        "Health": _object(status={"type": "string", "enum": ["starting", "ready", "stopping"]}),
        "Model": _object(
            model=text,
            stages=whole,
            precision=text,
            ensembles={"type": "array", "items": text},
            films={"type": "boolean"},
            film_extensions={"type": "array", "items": text},
            limits={"type": "object", "additionalProperties": number},
        ),
        "Places": _object(pictures=whole, films=whole, seconds=whole),
        "Film": _object(
            id=text,
            name=text,
            state={"type": "string", "enum": [str(state) for state in State]},
            frames_done=whole,
            frames_total={"type": ["integer", "null"]},
            seconds=number,
            frames_per_second=maybe,
            seconds_left=maybe,
            detail={"type": ["string", "null"], "description": "why it failed"},
            notes={"type": "array", "items": text},
            result={
                "type": ["string", "null"],
                "description": "where it is, from the page's address on; null before it is done",
            },
        ),
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(schema: str) -> Json:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _body(field: str) -> Json:
    form = {
        "type": "object",
        "required": [field],
        "properties": {field: {"type": "string", "format": "binary"}},
    }
    return {
        "required": True,
        "content": {"multipart/form-data": {"schema": form}, "application/octet-stream": _BINARY},
    }


def _refusals(*statuses: int) -> Json:
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    return {str(each): {"description": _REFUSALS[each], "content": content} for each in statuses}
