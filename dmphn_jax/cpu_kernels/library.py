"""Compiling the kernels, keeping the library in the user's cache, and loading it."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib

from dmphn_jax.cpu_kernels.kernels import TARGETS, Kernels
from dmphn_jax.runtime import cache_folder

SOURCE = Path(__file__).parent / "source"
COMPILE_S = 300.0  # a compiler that takes longer hangs; 15 is usual
RETRY_S = 24 * 3600.0  # after which a compilation that failed is tried again
# What may be otherwise at the next start, as the system and compilers say it.
_PASSING = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
)
_PASSING_WORDS = re.compile(
    "|".join([*map(os.strerror, _PASSING), "Killed", "terminated program", "out of memory"])
)


class _UnavailableError(Exception):
    """Why there are no kernels, in one line."""


@functools.cache
def load() -> Kernels | None:
    """Returns the kernels, compiled at their first use on a machine; None where there are none.

    There are none without a C++ compiler (`c++` or what `CXX` names), without a folder to keep them
    in to which nobody else may write, and with `DMPHN_CPU_KERNELS=0`. A reason that the user can do
    something about is said on stderr in one line, once in each process.
    """
    if os.environ.get("DMPHN_CPU_KERNELS") == "0":
        return None
    try:
        compiler = _compiler()
        folder = cache_folder("kernels") if compiler else None
        return _loaded(compiler, folder) if folder is not None else None
    except (
        _UnavailableError,
        OSError,
        AttributeError,
    ) as error:  # of ctypes: no library, no such name
        print(f"dmphn: no CPU kernels, XLA's convolutions serve: {error}", file=sys.stderr)
        return None


def _loaded(compiler: list[str], folder: Path) -> Kernels | None:
    digest = _digest(compiler)
    path = _kept(folder, digest)
    if path is None:
        failed = folder / f"{digest}.failed"
        if (before := _recent_error(failed)) is not None:
            raise _UnavailableError(f"{before} ({failed}; remove it to try again)")
        path = _compile(compiler, folder, digest, failed)
    library = ctypes.CDLL(str(path))
    kernels = Kernels(library.dmphn_lanes(), digest)
    for target in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(kernels.name(target), capsule, platform="cpu")
    return kernels


def _compiler() -> list[str]:
    """Returns the compiler's command; an empty list if `CXX` names none and there is no `c++`."""
    named = os.environ.get("CXX")
    try:
        command = shlex.split(named or "c++")
    except ValueError as error:
        raise _UnavailableError(f"CXX={named}: {error}") from None
    if command and shutil.which(command[0]) is not None:
        return command
    if named:
        raise _UnavailableError(f"CXX={named}: no program of this name can be run")
    return []


def _flags() -> list[str]:
    """Flags for the processor at hand; the sources choose its vectors by what the flags allow."""
    machine = platform.machine()
    if machine == "x86_64":
        # Clang cuts vectors of 512 bits in two by default: then the sums overflow the registers.
        native = ["-march=native", "-mprefer-vector-width=512"]
    else:
        arm_mac = sys.platform == "darwin" and machine == "arm64"
        native = ["-mcpu=native" if arm_mac else "-march=native"]
    return [
        "-O2",
        "-std=c++17",
        "-ffp-contract=fast",
        *native,
        "-shared",
        "-fPIC",
        "-pthread",
        "-isystem",
        jax.ffi.include_dir(),
    ]


def _digest(compiler: list[str]) -> str:
    """Of all that the compiled file depends on: a home may be shared by different machines."""
    found = hashlib.sha256(jaxlib.__version__.encode())
    for source in sorted(SOURCE.iterdir()):
        found.update(source.read_bytes())
    found.update(" ".join(compiler + _flags()).encode())
    program = os.stat(shutil.which(compiler[0]))  # another version is another file
    found.update(f"{program.st_size} {program.st_mtime_ns}".encode())
    found.update(f"{sys.platform} {platform.machine()} {platform.processor()}".encode())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found.update("\n".join({line for line in lines if line[:5] in ("flags", "Featu")}).encode())
    return found.hexdigest()[:12]


def _kept(folder: Path, digest: str) -> Path | None:
    """Returns the library in the cache, whose name holds the digest of its content; else None.

    What does not have the content that its name promises, or belongs to somebody else, is removed.
    """
    for path in sorted(folder.glob(f"{digest}-*.so")):
        content = _own_content(path)
        if content is not None and path.name == _name(digest, content):
            return path
        if path.is_dir() and not path.is_symlink():
            continue
        path.unlink(missing_ok=True)
    return None


def _name(digest: str, content: bytes) -> str:
    return f"{digest}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _own_content(path: Path) -> bytes | None:
    """Returns a regular file's content; None if it is another kind, or others may write to it."""
    # Without O_NONBLOCK a named pipe would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            mine = not hasattr(os, "getuid") or (
                status.st_uid == os.getuid() and not status.st_mode & 0o022
            )
            return file.read() if mine and stat.S_ISREG(status.st_mode) else None
    except OSError:
        return None


def _recent_error(failed: Path) -> str | None:
    """Returns the error in a note of `_compile`; None if there is none, or an old one."""
    try:
        if time.time() - failed.lstat().st_mtime >= RETRY_S:
            return None
    except OSError:
        return None
    command_and_error = (_own_content(failed) or b"").decode(errors="replace").splitlines()[:2]
    return command_and_error[-1] if len(command_and_error) == 2 else "compiling failed"


def _compile(compiler: list[str], folder: Path, digest: str, failed: Path) -> Path:
    """Returns the compiled library.

    Raises _UnavailableError with the first error. Unless its cause may have passed at the next
    start (a full disk, a killed compiler), what the compiler said is noted in `failed`.
    """
    print("dmphn: compiling the CPU kernels, once (5 to 15 seconds)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "kernels.so"
        command = [*compiler, *_flags(), str(SOURCE / "kernels.cc"), "-o", str(made)]
        error, said, passing = _run(command)
        content = None
        if error is None:
            if made.is_file():
                made.chmod(0o700)  # whatever the umask
            content = _own_content(made)
            error = None if content else "the compiler wrote no library"
        if error is None:
            path = folder / _name(digest, content)
            made.replace(path)
            failed.unlink(missing_ok=True)
            return path
        if passing:
            raise _UnavailableError(f"{error}; the next start tries again")
        note = Path(scratch) / failed.name
        note.write_text(f"{shlex.join(command)}\n{error}\n{said}")
        note.replace(failed)
    raise _UnavailableError(f"{error} ({failed})")


class _Outcome(NamedTuple):
    """How a compiler ended.

    Attributes:
      error: the first one; None if it succeeded.
      said: all that the compiler said.
      passing: whether the next start may find the cause gone.
    """

    error: str | None
    said: str = ""
    passing: bool = False


def _run(command: list[str]) -> _Outcome:
    """Runs a compiler, whose messages are to be English.

    Its processes end with it, with the time limit, and with an interrupt.
    """
    # An interrupt reaches this thread alone, so that another's `Popen` always tells the process.
    with ThreadPoolExecutor(1) as other:
        started = other.submit(
            subprocess.Popen,
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
        try:
            process = started.result()
            said, _ = process.communicate(timeout=COMPILE_S)
        except OSError as error:
            return _Outcome(f"{command[0]}: {error.strerror}", "", error.errno in _PASSING)
        except BaseException as error:
            process = started.result()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                # It may pass, but every start would wait for it as long.
                return _Outcome(f"the compiler was stopped after {COMPILE_S:.0f} s")
            raise
    if process.returncode == 0:
        return _Outcome(None, said)
    if process.returncode < 0:
        return _Outcome(f"signal {-process.returncode} ended the compiler", said, passing=True)
    errors = [line for line in said.splitlines() if "error" in line]
    error = errors[0] if errors else f"the compiler returned {process.returncode}"
    return _Outcome(error, said, bool(_PASSING_WORDS.search(said)))
