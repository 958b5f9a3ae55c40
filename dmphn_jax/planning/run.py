"""Asking the planner's process: it has an environment of its own, and may die."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from dmphn_jax.errors import UserError
from dmphn_jax.planning import machines
from dmphn_jax.planning.request import Compiled, Request

_INSTALL = {
    "tpu": (
        "libtpu",
        "pip install libtpu, or set TPU_LIBRARY_PATH to its libtpu.so (make plan builds .venv-plan "
        "with it)",
    ),
    "cuda": (
        "jax_cuda13_plugin",
        'pip install "jax[cuda13]" (make plan-gpu builds .venv-plan-gpu with it)',
    ),
}


def ask(request: Request, progress: Callable[[str], None]) -> list[Compiled]:
    """Returns the compiled programs of a request, the answer last; see `compiler.answer`.

    Raises UserError for a machine or a config that there is not, a compiler that is not
    installed, and one that fails.
    """
    machine = machines.parse(request.machine)
    module, install = _INSTALL[machine.chip.platform]
    # JAX's own variable: a library that lies outside of this environment.
    library = os.environ.get("TPU_LIBRARY_PATH", "") if machine.chip.platform == "tpu" else ""
    if not os.path.isfile(library) and importlib.util.find_spec(module) is None:
        raise UserError(f"--devices {machine.name}: its compiler is not installed: {install}")
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", "from dmphn_jax.planning.compiler import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | environment(machine.chip.platform),
        )
        try:
            answer = _converse(process, request, progress)
        finally:
            process.kill()
            process.wait()
        if "found" in answer:
            return [Compiled.from_dict(item) for item in answer["found"]]
        if "error" in answer:
            raise UserError(answer["error"])
        errors.seek(0)
        lines = [line.strip() for line in errors if line.strip()]
    said = lines[-1][:300] if lines else "nothing"
    raise UserError(f"--devices {machine.name}: the compiler's process ended; it said: {said}")


def _converse(
    process: subprocess.Popen, request: Request, progress: Callable[[str], None]
) -> dict[str, Any]:
    with contextlib.suppress(BrokenPipeError):  # it died; what it said will tell
        process.stdin.write(json.dumps(dataclasses.asdict(request)))
        process.stdin.close()
    for line in process.stdout:
        if not line.startswith("{"):
            continue
        said = json.loads(line)
        if "progress" not in said:
            return said
        progress(said["progress"])
    return {}


def environment(platform: str) -> dict[str, str]:
    """Returns what the process needs: JAX itself computes nowhere but on the CPU."""
    common = {"JAX_PLATFORMS": "cpu", "DMPHN_CPU_KERNELS": "0"}
    if platform == "tpu":
        return common | {
            "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is taken, so no lock is needed
        }
    # Trying algorithms out needs the device; layouts, fusions and memory do not.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    return common | {"XLA_FLAGS": flags}
