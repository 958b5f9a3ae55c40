"""Compiling and loading the kernels."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jaxlib

from dmphn_jax.cpu_kernels.kernels import TARGETS, Kernels
from dmphn_jax.runtime import cache_folder

SOURCE = Path(__file__).parent / "source"


@functools.cache
def load() -> Kernels | None:
    """Returns the kernels, compiled at their first use on a machine; None where there are none.

    There are none without a C++ compiler (`c++` or what `CXX` names), without a folder to keep them
    in, and with `DMPHN_CPU_KERNELS=0`.
    """
    if os.environ.get("DMPHN_CPU_KERNELS") == "0":
        return None
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    folder = cache_folder("kernels")
    if folder is None or not compiler or shutil.which(compiler[0]) is None:
        return None
    digest = _digest(compiler)
    path, failed = folder / f"{digest}.so", folder / f"{digest}.failed"
    if not path.exists() and not failed.exists():
        _compile(compiler, path, failed)
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        print(f"dmphn: CPU kernels left out: {error}", file=sys.stderr)
        return None
    kernels = Kernels(library.dmphn_lanes(), digest)
    for target in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(kernels.name(target), capsule, platform="cpu")
    return kernels


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
    found.update(f"{sys.platform} {platform.machine()} {platform.processor()}".encode())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found.update("\n".join({line for line in lines if line[:5] in ("flags", "Featu")}).encode())
    return found.hexdigest()[:12]


def _compile(compiler: list[str], path: Path, failed: Path) -> None:
    """Writes the compiled file to `path`, or what the compiler said to `failed`."""
    print("dmphn: compiling the CPU kernels, once (about 15 seconds)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        command = [*compiler, *_flags(), str(SOURCE / "kernels.cc"), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            made.replace(path)
            return
        said = Path(scratch) / failed.name
        said.write_text(f"{shlex.join(command)}\n{done.stderr}")
        said.replace(failed)
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    print(
        f"dmphn: the CPU kernels do not compile here, XLA's convolutions serve: "
        f"{errors[0] if errors else f'the compiler returned {done.returncode}'} ({failed})",
        file=sys.stderr,
    )
