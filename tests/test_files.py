import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dmphn_jax import files


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    files.write_atomically(pipe, b"content")
    reader.join(timeout=60)
    assert got == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/null", "/dev/fd/1", "/proc/self/fd/1"])
def test_devices_are_known_wherever_they_lead(path):
    assert files._is_device(path)


def test_plain_files_are_replaced_whole(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second, longer"):
        assert not files._is_device(path)
        files.write_atomically(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]
    assert not files._is_device("/dev/shm/file")


def half(path: Path) -> None:
    path.write_text("half")
    raise KeyError


def test_a_new_file_keeps_the_ending_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "new" / "picture.png"
    with files.new_file(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".png")
        temporary.write_bytes(b"first")
        assert not path.exists()
    with pytest.raises(KeyError), files.new_file(path) as temporary:
        half(temporary)
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["picture.png"]
    with files.new_file(tmp_path / ("x" * 200 + "." + "y" * 50)) as temporary:
        temporary.write_bytes(b"")


def make(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def replace(folder: Path, text: str) -> None:
    with files.new_folder(folder) as new:
        for name in ("a", "b"):
            (new / name).write_text(text)


OLD, NEW = ({"a": text, "b": text} for text in ("old", "new"))


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "made" / "x"
    replace(folder, "old")
    assert content(folder) == OLD
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777
    replace(folder, "new")
    assert content(folder) == NEW
    with pytest.raises(KeyError), files.new_folder(folder) as new:
        half(new / "a")
    assert content(folder) == NEW
    assert os.listdir(folder.parent) == ["x"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder(tmp_path, monkeypatch, failing):
    folder = make(tmp_path / "x", "old")
    rename, calls = Path.rename, []

    def fails(self, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output"):
        replace(folder, "new")
    assert content(folder) == OLD
    assert os.listdir(tmp_path) == ["x"]


KILLED = """
import os, signal, sys
from pathlib import Path
from dmphn_jax import files

folder, left = Path(sys.argv[1]), int(sys.argv[2])

def hook(event, arguments):
    global left
    if event.startswith(("os.", "open", "shutil.", "tempfile.", "fcntl.")):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)  # called before each operation on files
with files.new_folder(folder) as new:
    for name in ("a", "b"):
        (new / name).write_text("new")
"""


def test_killed_before_any_operation_the_old_or_the_new_folder_stands(tmp_path):
    found = []
    for number in range(1, 100):
        parent = tmp_path / str(number)
        folder = make(parent / "x", "old")
        make(parent / "x.y", "other")
        command = [sys.executable, "-c", KILLED, str(folder), str(number)]
        status = subprocess.run(command).returncode
        assert status in (0, -signal.SIGKILL)
        if status == 0:
            break
        aside = not folder.exists()
        files.settle(folder)
        assert content(folder) in (OLD, NEW)
        assert content(parent / "x.y")["a"] == "other"
        found.append((content(folder)["a"], aside))
        replace(folder, "newer")  # and the next one clears up
        assert content(folder)["a"] == "newer"
        scratch = [path for path in parent.iterdir() if path.name not in ("x", "x.y")]
        assert [list(path.iterdir()) for path in scratch] in ([], [[]])
    assert number > 10
    assert {("old", False), ("old", True), ("new", False)} == set(found)


def test_a_replacement_at_work_is_let_be(tmp_path):
    folder = tmp_path / "x"
    with files.new_folder(folder) as new:
        (new / "a").write_text("new")
        files.settle(folder)
        assert (new / "a").exists()
    assert content(folder) == {"a": "new"}


def test_why_finds_what_the_system_said():
    assert files.why(OSError(28, "No space left on device")) == "No space left on device"
    assert files.why(ValueError("UNKNOWN: [File too large] while\nwriting")) == "File too large"
    assert files.why(ValueError("x" * 500)) == "x" * 157 + "..."


def test_a_lock_is_waited_for_and_let_go_of_whatever_happens(tmp_path):
    path, waited = tmp_path / "lock", threading.Event()

    def second():
        with files.locked(path, waited.set):
            done.append("second")

    done: list[str] = []
    thread = threading.Thread(target=second, daemon=True)
    with contextlib.suppress(KeyError), files.locked(path, pytest.fail):
        thread.start()
        assert waited.wait(60)
        done.append("first")
        raise KeyError
    thread.join(timeout=60)
    assert done == ["first", "second"]
    with files.locked(path, pytest.fail):
        pass
