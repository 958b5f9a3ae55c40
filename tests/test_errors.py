"""Every command through `run_command`: one line, the right status, and no work lost to a stream."""

import errno
import os
import subprocess
import sys

import pytest

from dmphn_jax.errors import UNPRINTED, UserError, run_command

SCRIPT = """
import os, sys
from pathlib import Path
from dmphn_jax.errors import run_command

def command(argv):
    print("figures " * 10_000)   # more than any buffer holds
    Path(argv[0]).write_text("work")
    print("gr\\xf6\\xdfe", flush=True)
    return int(argv[1])

sys.exit(run_command(command, sys.argv[1:]))
"""


def shell(line, *arguments, **environment):
    """Runs a shell line whose $0 runs SCRIPT."""
    return subprocess.run(
        ["sh", "-c", line, sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">/dev/full", "No space left"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("status", [0, 1])
def test_work_goes_on_without_a_place_to_print(tmp_path, redirection, reason, status):
    done = shell(f'"$0" -c "$1" "$2" "$3" {redirection}', tmp_path / "x", status)
    assert (tmp_path / "x").read_text() == "work"
    assert done.returncode == (status or UNPRINTED)
    assert done.stderr.count("\n") == 1
    assert f"the output could not be printed: {reason}" in done.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "0<&- 2>&-"])
def test_work_goes_on_without_a_place_for_errors(tmp_path, redirection):
    done = shell(f'"$0" -c "$1" "$2" 0 {redirection}', tmp_path / "x")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x").read_text() == "work"


def test_a_reader_that_leaves_ends_the_command(tmp_path):
    done = shell('{ "$0" -c "$1" "$2" 0; echo $? >&2; } | head -c 1', tmp_path / "x")
    assert done.stderr == "141\n"
    assert not (tmp_path / "x").exists()


def test_a_closed_stdout_is_not_taken_by_the_next_file(tmp_path):
    code = (
        "import os, subprocess, sys; from dmphn_jax.errors import run_command\n"
        "def command(argv):\n"
        "    with open(argv[0], 'wb') as file:\n"
        "        os.write(1, b'a library prints')\n"
        "        subprocess.run(['echo', 'a program prints'], check=True)\n"
        "        file.write(b'work')\n"
        "sys.exit(run_command(command, sys.argv[1:]))"
    )
    line = f'"{sys.executable}" -c "$0" "$1" >&-'
    done = subprocess.run(["sh", "-c", line, code, str(tmp_path / "x")], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "x").read_bytes() == b"work"


def test_an_ascii_locale_escapes_what_it_lacks(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = shell('"$0" -c "$1" "$2" 0', tmp_path / "x", PYTHONIOENCODING="ascii", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("gr\\xf6\\xdfe\n")


def test_help_that_cannot_be_printed_says_so():
    line = f'"{sys.executable}" -m dmphn_jax --version > /dev/full'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == UNPRINTED
    assert done.stderr.count("\n") == 1


def test_a_removed_working_folder_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run_command(lambda argv: print(os.path.abspath("x")), []) == 2
    error = capsys.readouterr().err
    assert "working folder" in error
    assert error.count("\n") == 1


def _deep():
    return _deep()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("--flag: no\nsuch thing"), "error: --flag: no such thing"),
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory."),
            "not enough memory",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "c\nd"), "c d: Permission denied"),
        (None, "nested too deeply"),
    ],
)
def test_what_a_user_or_the_machine_causes_is_one_line(error, says, capsys):
    def command(argv):
        if error is None:
            _deep()
        raise error

    assert run_command(command, []) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.startswith("dmphn: error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("k"), FileNotFoundError(errno.ENOENT, "No", "x")])
def test_faults_keep_their_traceback(error):
    def command(argv):
        raise error

    with pytest.raises(type(error)):
        run_command(command, [])
    assert sys.stdout is not None
    assert type(sys.stdout).__module__ != "dmphn_jax.streams"


def test_statuses_come_through(capsys):
    def leave(argv):
        raise SystemExit(143)

    def interrupt(argv):
        raise KeyboardInterrupt

    assert run_command(lambda argv: None, []) == 0
    assert run_command(lambda argv: 7, []) == 7
    assert run_command(interrupt, []) == 130
    with pytest.raises(SystemExit) as raised:
        run_command(leave, [])
    assert raised.value.code == 143
    assert capsys.readouterr().err == "dmphn: interrupted\n"
