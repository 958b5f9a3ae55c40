"""`dmphn serve --checkpoint CKPT`: a web page and an HTTP interface to one network."""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from urllib.parse import quote

from dmphn_jax import checkpoints
from dmphn_jax.commands import arguments
from dmphn_jax.commands.network import add_network_flags
from dmphn_jax.errors import UserError
from dmphn_jax.serving.limits import Limits

TOKEN = "DMPHN_SERVE_TOKEN"  # of the environment
_LEAST_TOKEN = 16  # characters
_EPILOG = """\
The page is at the address that is printed: drop a photograph or a short film, compare, download.
Programs: POST /v1/deblur, POST /v1/films; /docs and /openapi.json describe them, /healthz tells
whether it is ready, /metrics is for Prometheus (docs/serving.md).

Listens on 127.0.0.1, for this machine alone. With another --host every request has to bring a
token: --token, or the environment's DMPHN_SERVE_TOKEN, or one made at the start and printed.
There is no TLS: put a reverse proxy before it where others can listen in.

Ends at Ctrl-C or SIGTERM, once the pictures under way are done; a second one does not wait.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line of `dmphn serve`."""
    result = argparse.ArgumentParser(
        prog="dmphn serve",
        description="Serve a web page and an HTTP interface that deblur photographs and films.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add_network_flags(result)
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=_port, default=8080, help="port, 0 for any free one (default 8080)")
    add("--token", metavar="T", help=f"ask for this token; better in {TOKEN}: others see arguments")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests to this name too, as a reverse proxy passes it on; may be repeated",
    )
    add("--stages", type=arguments.count, metavar="N", help="run a stack's first N stages at most")
    add(
        "--warm",
        type=arguments.size,
        nargs="+",
        default=[],
        metavar="HxW",
        help="compile for pictures of these sizes before it is ready, such as 720x1280",
    )
    add("-q", "--quiet", action="store_true", help="no line per request, no progress of a download")
    _add_limits(result.add_argument_group("limits"))
    return result


def _add_limits(group: argparse._ArgumentGroup) -> None:
    """Adds a flag for every field of `Limits`, under the field's name, with its default."""

    def add(flag: str, field: str, type: Callable[[str], float], metavar: str, text: str) -> None:
        default = getattr(Limits, field)
        shown = f"{default // 10**6}M" if default >= 10**6 else f"{default:g}"
        text = f"{text} (default {shown})"
        group.add_argument(flag, dest=field, type=type, metavar=metavar, default=default, help=text)

    size, seconds = arguments.pixels, arguments.positive
    add("--max-upload", "upload_bytes", _amount, "N", "bytes of a picture's file")
    add("--max-pixels", "pixels", size, "N", "of a picture or a film's frame")
    add("--queue", "queue", arguments.count, "N", "pictures under way, waiting ones too")
    add("--seconds", "seconds", seconds, "S", "from a picture's arrival to its result")
    add("--upload-seconds", "upload_seconds", seconds, "S", "for a file to come in")
    add("--films", "films", arguments.natural, "N", "held at once, results too; 0: none")
    add("--max-film", "film_bytes", _amount, "N", "bytes of a film's file")
    add("--film-frames", "film_frames", arguments.count, "N", "of a film")
    add("--film-seconds", "film_seconds", seconds, "S", "that a film may be computed")
    add("--keep-seconds", "keep_seconds", seconds, "S", "that a film's result is kept")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _amount(text: str) -> int:
    try:
        return arguments.pixels(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of bytes, such as 100M"
        ) from None


def main(argv: list[str]) -> int:
    """Runs the command until it is told to end; returns 0. Raises UserError for wrong use."""
    args = parser().parse_args(argv)
    _check_packages()
    token, allowed = _token(args), _allowed(args.allow_host)
    # Slow to import, and not needed for --help.
    import jax

    from dmphn_jax.inference.deblurrer import Deblurrer
    from dmphn_jax.runtime import cache_compilations
    from dmphn_jax.serving import server
    from dmphn_jax.serving.access import Access, answered
    from dmphn_jax.serving.service import Service

    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata is dropped silently
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    checkpoints.find(args.checkpoint)  # a wrong one is told before any work
    with closing(server.listen(args.host, args.port)) as listening:
        cache_compilations()
        deblurrer = Deblurrer(
            checkpoints.resolve(args.checkpoint, quiet=args.quiet),
            stages=args.stages,
            precision=args.precision,
            devices=jax.local_devices()[:1],  # each more would compile every size once more
            tile=args.tile,
            overlap=args.overlap,
            layout=args.layout,
        )
        hosts = answered(args.host, server.address(listening), allowed)
        if not args.quiet:
            server.log_to_stderr()
        service = Service(
            deblurrer,
            name=os.path.basename(os.path.normpath(args.checkpoint)),
            limits=Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)}),
            access=Access(hosts, token),
            sizes=args.warm,
        )
        shown = server.address(listening) + (f"?token={quote(token, safe='')}" if token else "")
        with closing(service):
            server.Server(service).serve_on(listening, lambda: print(f"ready: {shown}", flush=True))
    print("dmphn: stopped", file=sys.stderr)
    return 0


def _check_packages() -> None:
    """Raises UserError if a package of the extra `serve` is missing."""
    for name in ("uvicorn", "starlette", "python_multipart", "prometheus_client"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"dmphn serve needs {name}: pip install 'dmphn_jax[serve]'")


def _allowed(names: Sequence[str]) -> frozenset[str]:
    """Returns the names of --allow-host as a Host header's name is read: without port or dot."""
    from dmphn_jax.serving.access import hostname

    for name in names:
        if not hostname(name):
            raise UserError(f"--allow-host {name}: not the name of a host")
    return frozenset(map(hostname, names))


def _token(args: argparse.Namespace) -> str | None:
    """Returns the token to ask for; None where nobody but this machine can ask."""
    from dmphn_jax.serving.access import LOOPBACK

    given = args.token or os.environ.get(TOKEN)
    if given and (len(given) < _LEAST_TOKEN or not given.isascii() or not given.isprintable()):
        where = "--token" if args.token else TOKEN
        raise UserError(
            f"{where}: at least {_LEAST_TOKEN} characters, of ASCII, so that none can guess it"
        )
    if given or (args.host in LOOPBACK and not args.allow_host):
        return given or None
    return secrets.token_urlsafe(24)
