"""Where the kernels' library comes from: what is loaded, what is rebuilt, what is refused."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmphn_jax import cpu_kernels, runtime
from dmphn_jax.cpu_kernels import library

# Stands for the kernels, compiled in no time.
TINY = """#include <stddef.h>
int dmphn_lanes() { return 4; }
void *dmphn_convolve(void *call) { return NULL; }
void *dmphn_filter_gradient(void *call) { return NULL; }
"""


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty cache; the functions that remember are asked anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DMPHN_CPU_KERNELS", raising=False)
    for function in (library.load, runtime.cache_folder):
        function.cache_clear()
    yield tmp_path / "cache" / "dmphn_jax" / "kernels"
    for function in (library.load, runtime.cache_folder):
        function.cache_clear()


def use(monkeypatch, path: Path, script: str) -> Path:
    """Makes a shell script the compiler."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


@pytest.fixture
def compiler(tmp_path, monkeypatch, kept):
    """A compiler of the tiny library, which counts its runs."""
    source, built, log = tmp_path / "tiny.c", tmp_path / "tiny.so", tmp_path / "runs"
    source.write_text(TINY)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", built], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    log.touch()
    # XLA asks a kernel for its interface, which this one does not have.
    monkeypatch.setattr(library.jax.ffi, "register_ffi_target", lambda *_, **__: None)
    script = f'for last; do :; done; cp {shlex.quote(str(built))} "$last"; echo >> {log}'
    use(monkeypatch, tmp_path / "compiler", script)
    return lambda: len(log.read_text())


def load_again():
    library.load.cache_clear()
    runtime.cache_folder.cache_clear()
    return library.load()


def test_compiled_once_and_kept_privately(kept, compiler):
    before = os.umask(0)
    try:
        assert library.load().lanes == 4
    finally:
        os.umask(before)
    assert load_again().lanes == 4
    assert compiler() == 1
    (made,) = kept.iterdir()
    for path in (made, kept, kept.parent):
        assert not path.stat().st_mode & 0o077


def rewrite(path, content):
    """As a new file: this process has mapped the old one."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o600)


def half(path):
    rewrite(path, path.read_bytes()[:1000])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(path, content)


def other(path):
    rewrite(path, Path(sys.executable).read_bytes()[:5000])


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def link(path):
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def others_may_write(path):
    path.chmod(0o666)


@pytest.mark.parametrize("damage", [half, flipped, other, pipe, link, others_may_write])
def test_a_damaged_library_is_rebuilt(kept, compiler, damage):
    library.load()
    (made,) = kept.glob("*.so")
    damage(made)
    assert load_again().lanes == 4
    assert compiler() == 2
    (made,) = kept.glob("*.so")
    assert library._name(made.name.split("-")[0], made.read_bytes()) == made.name
    load_again()
    assert compiler() == 2


@pytest.mark.parametrize("level", ["kernels", "dmphn_jax", "cache"])
def test_a_cache_that_others_may_write_is_not_used(kept, compiler, capfd, level):
    library.load()
    opened = {"kernels": kept, "dmphn_jax": kept.parent, "cache": kept.parent.parent}[level]
    opened.chmod(0o777)
    capfd.readouterr()
    assert load_again() is None
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert f"others than you may write to {opened}" in said
    opened.chmod(0o700)
    assert load_again().lanes == 4
    assert compiler() == 1


def test_compiled_programs_are_not_taken_from_such_a_cache(kept, monkeypatch, capfd):
    import jax

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    folder = kept.parent / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    runtime.cache_compilations()
    assert jax.config.jax_compilation_cache_dir == before
    assert "compiled is not used" in capfd.readouterr().err


@pytest.mark.parametrize(("mode", "lines"), [(0o700, 0), (0o777, 1)])
def test_a_named_cache_of_programs_that_others_may_write_is_warned_of(
    tmp_path, monkeypatch, capfd, mode, lines
):
    folder = tmp_path / "named"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    runtime.cache_compilations()
    said = capfd.readouterr().err
    assert said.count("\n") == said.count(f"others than you may write to {folder}") == lines
    for elsewhere in (str(folder / "not there"), "gs://bucket/programs", ""):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", elsewhere)
        runtime.cache_compilations()
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
def test_what_belongs_to_somebody_else_is_not_loaded(kept, compiler, capfd):
    library.load()
    (made,) = kept.glob("*.so")
    os.chown(made, 12345, -1)
    assert load_again().lanes == 4
    assert compiler() == 2
    os.chown(kept.parent, 12345, -1)
    assert load_again() is None
    assert f"may write to {kept.parent}" in capfd.readouterr().err


def test_temporary_folders_are_for_everybody_but_keep_what_is_ours(tmp_path):
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    shared.chmod(0o1777)
    assert runtime._open_to_others(shared / "mine") is None
    assert runtime._open_to_others(shared) == shared
    shared.chmod(0o777)
    assert runtime._open_to_others(shared / "mine") == shared


# Compilers that fail


def test_switched_off(kept, monkeypatch, capfd):
    monkeypatch.setenv("DMPHN_CPU_KERNELS", "0")
    assert library.load() is None
    assert capfd.readouterr().err == ""
    assert not kept.exists()


def test_no_compiler_at_all_is_no_fault(kept, monkeypatch, capfd):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(kept.parent))
    assert library.load() is None
    assert capfd.readouterr().err == ""


def refused(capfd) -> str:
    """Loads in vain; returns what is said."""
    assert load_again() is None
    said = capfd.readouterr().err.splitlines()[-1]
    assert "XLA's convolutions serve" in said
    return said


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("true", "wrote no library"),
        ("c++ 'unclosed", "No closing quotation"),
        ("no-such-compiler", "no program of this name"),
        (str(Path(library.__file__)), "no program of this name"),  # not executable
    ],
)
def test_a_cxx_that_is_no_compiler(kept, monkeypatch, capfd, command, reason):
    monkeypatch.setenv("CXX", command)
    assert reason in refused(capfd)


def test_a_program_that_the_system_cannot_run(kept, tmp_path, monkeypatch, capfd):
    path = tmp_path / "compiler"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    assert str(path) in refused(capfd)


def test_a_library_without_the_kernels(kept, tmp_path, monkeypatch, capfd):
    use(monkeypatch, tmp_path / "compiler", 'for last; do :; done; echo text > "$last"')
    refused(capfd)


def test_a_failure_is_remembered_until_its_cause_may_be_gone(kept, tmp_path, monkeypatch, capfd):
    script = "echo 'kernels.cc:1: error: no such thing' >&2; exit 1"
    path = use(monkeypatch, tmp_path / "compiler", script)
    path.write_text(path.read_text().replace("exit", f"echo >> {tmp_path}/runs; exit"))
    assert "kernels.cc:1: error: no such thing" in refused(capfd)
    (failed,) = kept.glob("*.failed")
    assert f"error: no such thing ({failed}; remove it" in refused(capfd), "said again"
    assert library.load() is None
    assert capfd.readouterr().err == "", "said once in a process"
    assert (tmp_path / "runs").read_text() == "\n", "asked once"
    os.utime(failed, (0, 0))
    assert "no such thing" in refused(capfd), "asked again the next day"
    path.write_text(path.read_text() + "# another version\n")
    assert "no such thing" in refused(capfd), "another compiler is asked"


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("kill -9 $$", "signal 9 ended the compiler; the next start tries again"),
        ("echo 'c++: fatal error: Killed signal terminated program cc1plus'; exit 1", "Killed"),
        ("echo 'error: x.o: No space left on device'; exit 1", "No space left on device"),
    ],
)
def test_what_may_pass_is_not_remembered(
    kept, compiler, tmp_path, monkeypatch, capfd, script, line
):
    works = os.environ["CXX"]
    use(monkeypatch, tmp_path / "fails", f"[ -e {tmp_path}/passed ] || {{ {script}; }}; {works} $*")
    assert line in refused(capfd)
    assert list(kept.iterdir()) == []
    (tmp_path / "passed").touch()
    assert load_again().lanes == 4


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd_open here")


@needs_pidfd
def test_a_compiler_that_hangs_ends_with_its_children(kept, tmp_path, monkeypatch, capfd):
    child = tmp_path / "child"
    use(monkeypatch, tmp_path / "compiler", f"sleep 1000 & echo $! > {child}; wait")
    monkeypatch.setattr(library, "COMPILE_S", 1.0)
    assert "stopped after 1 s" in refused(capfd)
    assert ends(int(child.read_text()))


@needs_pidfd
def test_an_interrupt_ends_the_compiler(kept, tmp_path, monkeypatch):
    child, started = tmp_path / "child", tmp_path / "started"
    os.mkfifo(started)
    use(
        monkeypatch,
        tmp_path / "compiler",
        f"sleep 1000 & echo $! > {child}; echo > {started}; wait",
    )

    # A process of its own: in this one the interrupt may meet a callback that swallows it.
    code = "from dmphn_jax.cpu_kernels import library; library.load()"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    started.read_text()  # waits for the compiler
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
            break
    assert process.poll() not in (None, 0)
    assert ends(int(child.read_text()))
    assert not list(kept.iterdir())


def ends(pid: int) -> bool:
    """Waits for the end of a process that was killed."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 20)[0])
    finally:
        os.close(process)


def test_the_real_kernels_are_kept_so():
    if (kernels := cpu_kernels.load()) is not None:
        assert library._kept(runtime.cache_folder("kernels"), kernels.digest) is not None
