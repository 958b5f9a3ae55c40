"""Who is let in, and what every answer carries."""

import pytest

from dmphn_jax.serving.access import LOOPBACK, Access, answered, hostname
from tests.support.serving import Client, running, until

TOKEN = "a token of some length"
EVERY = ["/", "/docs", "/openapi.json", "/healthz", "/metrics", "/v1/model", "/v1/films/x", "/none"]


@pytest.fixture(scope="module")
def local():
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def guarded():
    with running(access=Access(hosts=None, token=TOKEN)) as started:
        yield started


def stranger(client):
    return Client(client.port)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:80", "LOCALHOST."])
def test_this_machines_names_are_answered(local, host):
    assert local.get("/v1/model", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "[", "", "10.0.0.1"])
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/healthz"])
def test_a_name_that_was_made_to_lead_here_is_not(local, host, path):
    answer = local.get(path, Host=host)
    assert answer.status == 421
    assert "--allow-host" in answer.detail


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/deblur"), ("POST", "/v1/films"), ("DELETE", "/v1/films/x")]
)
def test_another_sites_page_cannot_ask(local, headers, method, path):
    answer = local.ask(method, path, b"x", **headers)
    assert answer.status == 403
    assert answer.detail == "asked for by a page of another site"


def test_the_own_page_and_programs_can(local):
    own = {"Origin": f"http://localhost:{local.port}", "Host": f"localhost:{local.port}"}
    assert local.ask("POST", "/v1/deblur", b"x", **own).status == 422
    assert local.ask("POST", "/v1/deblur", b"x").status == 422
    # What a proxy that ends TLS passes on.
    proxied = {"Origin": "https://localhost", "Host": "localhost"}
    assert local.ask("POST", "/v1/deblur", b"x", **proxied).status == 422


@pytest.mark.parametrize("path", EVERY)
def test_security_headers_are_on_every_answer(local, guarded, path):
    answers = [local.get(path), stranger(guarded).get(path), local.get(path, Host="evil.example")]
    for answer in [*answers, local.ask("POST", path, b"")]:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        form = b"<form action" in answer.body  # whose origin the browser would keep back
        assert answer.headers["Referrer-Policy"] == ("same-origin" if form else "no-referrer")
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "Server" not in answer.headers


@pytest.mark.parametrize("path", [path for path in EVERY if path != "/healthz"])
def test_without_the_token_nobody_gets_in(guarded, path):
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a token of some lengt"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "dmphn_token=wrong"},
    ):
        answer = stranger(guarded).get(path, **headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert stranger(guarded).ask("POST", "/v1/deblur", b"x").status == 401
    assert stranger(guarded).get(f"/v1/model?token={TOKEN.replace(' ', '+')}").status == 401


def test_health_and_the_page_for_the_token_need_none(guarded):
    assert stranger(guarded).get("/healthz").status == 200
    assert stranger(guarded).get("/static/style.css").status == 200
    page = stranger(guarded).get("/")
    assert page.status == 401
    assert b"<form" in page.body


def test_the_printed_address_gives_a_browser_a_cookie(guarded):
    page = stranger(guarded).get("/?token=a%20token%20of%20some%20length")
    assert page.status == 200
    cookie, *attributes = page.headers["Set-Cookie"].split("; ")
    assert attributes == ["HttpOnly", "SameSite=Strict", "Path=/"]
    assert stranger(guarded).get("/v1/model", Cookie=cookie).status == 200
    assert stranger(guarded).get("/?token=wrong").status == 401
    behind_tls = stranger(guarded).get("/?token=a+token+of+some+length", X_Forwarded_Proto="https")
    assert behind_tls.headers["Set-Cookie"].endswith("; Secure")


def test_so_does_the_form(guarded):
    kind = "application/x-www-form-urlencoded"

    def enter(token):
        body = f"token={token}".encode()
        return stranger(guarded).ask("POST", "/session", body, Content_Type=kind)

    right = enter("a+token+of+some+length+")
    assert (right.status, right.headers["Location"]) == (303, "./")
    cookie = right.headers["Set-Cookie"].partition(";")[0]
    assert stranger(guarded).get("/metrics", Cookie=cookie).status == 200
    assert enter("wrong").status == 401
    assert enter("x" * 5000).status == 413
    assert stranger(guarded).ask("POST", "/session", b"\xff", Content_Type=kind).status == 401


def test_the_token_is_not_in_the_log(guarded, caplog):
    caplog.set_level("INFO", "dmphn.serve")
    stranger(guarded).get("/?token=a+token+of+some+length")
    until(lambda: " GET other 200 " in caplog.text)
    assert "token" not in caplog.text


def test_the_printed_address_is_answered_beside_names_that_are_allowed():
    allowed = frozenset({"photos.example"})
    names = answered("192.168.1.2", "http://192.168.1.2:8080/", allowed)
    assert {"192.168.1.2", "photos.example", "localhost"} <= names
    assert "127.0.0.1" in answered("0.0.0.0", "http://127.0.0.1:8080/", allowed)
    assert "fe80::1" in answered("fe80::1", "http://[fe80::1]:8080/", allowed)
    assert answered("192.168.1.2", "http://192.168.1.2:8080/", frozenset()) is None
    assert "evil.example" not in answered("127.0.0.1", "http://127.0.0.1:8080/", frozenset())


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Photos.Example.org", "photos.example.org"),
        ("photos.example.org.", "photos.example.org"),
        ("photos.example.org:8443", "photos.example.org"),
        ("fe80::1", "fe80::1"),
        ("[fe80::1]:80", "fe80::1"),
        ("[", ""),
    ],
)
def test_a_hosts_name_is_read_one_way(given, name):
    assert hostname(given) == name


def test_hosts_may_be_added():
    with running(access=Access(LOOPBACK | {"photos.example"}, TOKEN)) as client:
        assert client.get("/v1/model", Host="photos.example").status == 200
        assert client.get("/v1/model", Host="evil.example").status == 421
