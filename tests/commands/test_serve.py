"""`dmphn serve`: its flags, what it says, how it starts and ends."""

import signal
import socket
import sys

import pytest

from dmphn_jax.commands import serve
from dmphn_jax.errors import run_command
from tests.support.commands import help_without
from tests.support.serving import Client, process

CHECKPOINT = ("-c", "stack4")


def error(capsys, *arguments):
    """The one line of a use that is wrong."""
    assert run_command(serve.main, [str(argument) for argument in arguments]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_help_needs_no_jax_and_no_server():
    text = help_without("serve", "jax", "uvicorn", "starlette", "PIL", "numpy")
    assert "--max-upload" in text


def test_a_port_that_is_taken_and_an_address_that_is_not_here(checkpoint, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = error(capsys, "-c", checkpoint, "--port", port)
        assert f"--host 127.0.0.1 --port {port}: Address already in use" in line
    assert "--host 192.0.2.1" in error(capsys, "-c", checkpoint, "--host", "192.0.2.1")
    assert "--host no.such.name.invalid" in error(
        capsys, "-c", checkpoint, "--host", "no.such.name.invalid"
    )


def test_a_wrong_checkpoint_is_told_before_it_listens(capsys):
    assert "stack5: no such checkpoint folder" in error(capsys, "-c", "stack5", "--port", 0)


def test_a_missing_package_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'dmphn_jax[serve]'" in error(capsys, *CHECKPOINT)


@pytest.mark.parametrize("token", ["short", "x" * 15, "ünguessable, in all likelihood"])
def test_a_token_that_can_be_guessed_is_refused(capsys, monkeypatch, token):
    assert "--token: at least 16" in error(capsys, *CHECKPOINT, "--token", token)
    monkeypatch.setenv(serve.TOKEN, token)
    assert f"{serve.TOKEN}: at least 16" in error(capsys, *CHECKPOINT)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ([], False),
        (["--host", "localhost"], False),
        (["--host", "::1"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", "192.168.1.2"], True),
        (["--allow-host", "photos.example"], True),
    ],
)
def test_others_than_this_machine_have_to_bring_a_token(arguments, asked):
    token = serve._token(serve.parser().parse_args([*CHECKPOINT, *arguments]))
    assert (token is not None) is asked
    assert token is None or len(token) >= 32


@pytest.mark.parametrize(
    "arguments",
    [["--port", "70000"], ["--max-upload", "much"], ["--queue", "0"], ["--seconds", "0"]],
)
def test_wrong_numbers_are_told(capsys, arguments):
    with pytest.raises(SystemExit):
        serve.main([*CHECKPOINT, *arguments])
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


def test_it_says_where_it_is_and_ends_at_an_interrupt(checkpoint, compiled_once):
    token = "a token + of some length"
    with process("-c", checkpoint, "--host", "0.0.0.0", "-q", DMPHN_SERVE_TOKEN=token) as started:
        assert started.address.endswith("?token=a%20token%20%2B%20of%20some%20length")
        stranger = Client(started.client.port)
        assert stranger.get("/healthz").status == 200
        assert stranger.get("/v1/model").status == 401
        assert stranger.get("/v1/model", Authorization=f"Bearer {token}").status == 200
        assert stranger.get("/v1/model", Host="any.example").status == 401
        started.process.send_signal(signal.SIGINT)
        _, said = started.process.communicate(timeout=60)
        assert started.process.returncode == 0
        assert said == "dmphn: stopped\n"


def test_weights_that_are_of_no_use_end_it(checkpoint, capfd, monkeypatch):
    """The first computation fails: it does not go on as if it were ready."""
    from dmphn_jax.inference import deblurrer

    def broken(self, images):
        raise serve.UserError("these weights are of no use")

    monkeypatch.setattr(deblurrer.Deblurrer, "submit", broken)
    assert run_command(serve.main, ["-c", checkpoint, "--port", "0"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "dmphn: error: these weights are of no use\n"
    assert "dmphn_jax.serving" in sys.modules
