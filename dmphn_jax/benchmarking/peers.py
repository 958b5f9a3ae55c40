"""What `--vs` compares with: the peers and their variants. No jax and no torch, for `--help`."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dmphn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library that runs the PyTorch twin.

    Attributes:
      modules: that it needs; each one's name is that of its package too.
      everywhere: on GPUs, and in training, too; else inference on the CPU alone.
    """

    modules: tuple[str, ...]
    everywhere: bool = True


# ONNX Runtime and OpenVINO run the twin as PyTorch writes it to ONNX, for which it needs onnx.
PEERS = {
    "torch": Peer(("torch",)),
    "torch-compile": Peer(("torch",)),
    "onnxruntime": Peer(("torch", "onnx", "onnxruntime"), everywhere=False),
    "openvino": Peer(("torch", "onnx", "openvino"), everywhere=False),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to run a peer.

    Attributes:
      peer: whose it is.
      precision: of the convolutions: "float32", "tf32", "bfloat16" or "float16"; PyTorch's by
        autocast.
      platforms: of JAX, where it makes sense.
      channels_last: of PyTorch: patches stacked along the batch, in channels_last; else NCHW, one
        by one.
    """

    peer: str
    precision: str = "float32"
    platforms: tuple[str, ...] = ("cpu", "gpu")
    channels_last: bool = True

    @property
    def library(self) -> str:
        """What a contender is called by: `torch` with and without its compiler."""
        return self.peer.partition("-")[0]


_CPU, _GPU = ("cpu",), ("gpu",)
VARIANTS: dict[str, Variant] = {
    "as-released": Variant("torch", channels_last=False),
    "channels-last": Variant("torch"),
    "channels-last-bfloat16": Variant("torch", "bfloat16"),
    "channels-last-float16": Variant("torch", "float16", _GPU),
    "channels-last-tf32": Variant("torch", "tf32", _GPU),
    "compile": Variant("torch-compile", "float32", _CPU),
    "compile-tf32": Variant("torch-compile", "tf32", _GPU),
    "compile-bfloat16": Variant("torch-compile", "bfloat16"),
    "compile-float16": Variant("torch-compile", "float16", _GPU),
    "onnxruntime-float32": Variant("onnxruntime", "float32", _CPU),
    "openvino-float32": Variant("openvino", "float32", _CPU),
    "openvino-bfloat16": Variant("openvino", "bfloat16", _CPU),
}


def usable(peers: Sequence[str], *, on_cpu: bool, training: bool) -> list[str]:
    """Returns the peers that can run here; says on stderr, a line each, which cannot and why.

    Args:
      peers: names of `PEERS`.
      on_cpu: whether JAX computes on the CPU.
      training: whether training is all that is timed.

    Raises UserError if none can.
    """
    lacking = {peer: reason for peer in peers if (reason := _lacking(peer, on_cpu, training))}
    if len(lacking) == len(peers):
        raise UserError("; ".join(f"--vs {peer} {reason}" for peer, reason in lacking.items()))
    for peer, reason in lacking.items():
        print(f"dmphn: left out: --vs {peer} {reason}", file=sys.stderr)
    return [peer for peer in peers if peer not in lacking]


def _lacking(peer: str, on_cpu: bool, training: bool) -> str | None:
    missing = [name for name in PEERS[peer].modules if not _installed(name)]
    if missing:
        packages = " ".join(missing)
        return f"needs {packages}: pip install {packages}, or 'dmphn_jax[compare]' for all peers"
    if not PEERS[peer].everywhere and (training or not on_cpu):
        return "compares inference on a CPU only"
    compilers = (os.environ.get("CXX") or "g++", "clang++")
    if peer == "torch-compile" and on_cpu and not any(map(shutil.which, compilers)):
        return "needs a C++ compiler: install g++, or name one by CXX"
    return None


def _installed(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def fitting(peers: Sequence[str], platform: str) -> list[str]:
    """Returns the names of the peers' variants that make sense on a platform of JAX."""
    return [
        name
        for name, variant in VARIANTS.items()
        if variant.peer in peers
        and platform in variant.platforms
        and (platform != "cpu" or variant.precision != "bfloat16" or _bfloat16_on_cpu())
    ]


def _bfloat16_on_cpu() -> bool:
    """Tells whether the processor multiplies in bfloat16; where not, libraries emulate it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() == "arm64"  # Apple's, since the M2
    flags = next((line for line in lines if line[:5] in ("flags", "Featu")), "").split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
