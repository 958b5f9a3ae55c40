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


def test_names_that_are_none_are_told(capsys):
    assert "--allow-host :80: not the name of a host" in error(
        capsys, *CHECKPOINT, "--allow-host", ":80"
    )
    assert "--host a..b --port" in error(capsys, *CHECKPOINT, "--host", "a..b")


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
    [
        ["--port", "70000"],
        ["--max-upload", "much"],
        ["--queue", "0"],
        ["--seconds", "0"],
        ["--warm", "0x720"],
    ],
)
def test_wrong_numbers_are_told(capsys, arguments):
    with pytest.raises(SystemExit):
        serve.main([*CHECKPOINT, *arguments])
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


LIMITS = {
    "--max-upload": ("1M", "upload_bytes", 1_000_000),
    "--max-pixels": ("2M", "pixels", 2_000_000),
    "--queue": ("3", "queue", 3),
    "--seconds": ("4.5", "seconds", 4.5),
    "--upload-seconds": ("5", "upload_seconds", 5),
    "--films": ("6", "films", 6),
    "--max-film": ("7M", "film_bytes", 7_000_000),
    "--film-frames": ("8", "film_frames", 8),
    "--film-seconds": ("9.5", "film_seconds", 9.5),
    "--keep-seconds": ("10", "keep_seconds", 10),
}


@pytest.fixture(scope="module")
def told(checkpoint, compiled_once):
    """What a server tells of its limits that was given all of them."""
    flags = [word for flag, (value, _, _) in LIMITS.items() for word in (flag, value)]
    with process("-c", checkpoint, "-q", *flags) as started:
        yield started.client.get("/v1/model").json["limits"]


@pytest.mark.parametrize("flag", LIMITS)
def test_a_limit_that_is_given_is_the_servers(told, flag):
    _, name, value = LIMITS[flag]
    assert told[name] == value


def test_there_is_no_other_limit(told):
    assert set(told) == {name for _, name, _ in LIMITS.values()}


def test_one_device_computes_the_sizes_of_warm_before_it_is_ready(checkpoint, capfd, monkeypatch):
    import jax

    from dmphn_jax.inference import deblurrer
    from dmphn_jax.inference.pending import Ready

    computed = []

    def submit(self, images):
        computed.append((images.shape[1:3], self.devices))
        if images.shape[1:3] == (64, 32):  # the last: ends the server
            raise serve.UserError("enough")
        return Ready(images)

    local = [*jax.local_devices(), *jax.local_devices()]
    monkeypatch.setattr(jax, "local_devices", lambda: local)
    monkeypatch.setattr(deblurrer.Deblurrer, "submit", submit)
    sizes = ["--warm", "40x48", "64x32"]
    assert run_command(serve.main, ["-c", checkpoint, "--port", "0", "-q", *sizes]) == 2
    assert [size for size, _ in computed] == [(256, 256), (40, 48), (64, 32)]
    assert {devices for _, devices in computed} == {tuple(local[:1])}
    assert capfd.readouterr().out == ""  # no word of being ready


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
