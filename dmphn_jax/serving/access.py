"""Who may ask: the Host header, the origin of a page that asks, the token."""

from __future__ import annotations

import secrets
import urllib.parse
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from dmphn_jax.serving.refusal import Refusal

COOKIE = "dmphn_token"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Access:
    """The rules.

    Attributes:
      hosts: names that the Host header may have; None: any. On a loopback address this keeps a
        page out whose own name was made to lead there (DNS rebinding).
      token: that every request has to bring; None: none.
    """

    hosts: frozenset[str] | None = LOOPBACK
    token: str | None = None

    def check(self, method: str, headers: Headers, *, public: bool) -> None:
        """Raises Refusal for a request that may not be answered; `public` ones need no token."""
        host = headers.get("host", "")
        if self.hosts is not None and hostname(host) not in self.hosts:
            raise Refusal(421, "this server is not called that; --allow-host adds a name")
        if method not in _SAFE:
            _check_origin(headers, host)
        if not public and not self.knows(given(headers)):
            raise Refusal(
                401,
                "a token is needed: the header 'Authorization: Bearer TOKEN', or the address "
                "that dmphn serve printed",
            )

    def knows(self, token: str | None) -> bool:
        """Tells whether a token is the right one, in a time that tells nothing of it."""
        if self.token is None:
            return True
        return secrets.compare_digest((token or "").encode(), self.token.encode())

    def cookie(self, headers: Headers) -> str:
        """Returns the Set-Cookie header that gives a browser the token."""
        assert self.token is not None
        # Behind a proxy that ends TLS; who claims it without one only keeps itself out.
        secure = "; Secure" if headers.get("x-forwarded-proto") == "https" else ""
        value = urllib.parse.quote(self.token, safe="")
        return f"{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/{secure}"


def given(headers: Headers) -> str | None:
    """Returns the token that a request brings, as Bearer or in the cookie."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    value = cookie_parser(headers.get("cookie", "")).get(COOKIE)
    return None if value is None else urllib.parse.unquote(value)


def answered(host: str, address: str, allowed: frozenset[str]) -> frozenset[str] | None:
    """Returns the names to answer to; None, any, where a network may ask and none was allowed.

    Args:
      host: to listen at.
      address: that is printed, `http://HOST:PORT/`.
      allowed: names beside these.
    """
    if host not in LOOPBACK and not allowed:
        return None
    return LOOPBACK | allowed | {hostname(host), hostname(urllib.parse.urlsplit(address).netloc)}


def hostname(host: str) -> str:
    """Returns the name in a Host header, without the port; "" for a damaged one.

    An IPv6 address may lack its brackets.
    """
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    try:
        return (urllib.parse.urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _check_origin(headers: Headers, host: str) -> None:
    """Refuses what another site's page makes a browser send; programs send no such headers."""
    origin = headers.get("origin")
    try:
        own = origin is None or urllib.parse.urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # a damaged one
        own = False
    site = headers.get("sec-fetch-site", "same-origin")
    if not own or (origin is None and site not in ("same-origin", "none")):
        raise Refusal(403, "asked for by a page of another site")
