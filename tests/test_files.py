import os
import stat
import threading

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
