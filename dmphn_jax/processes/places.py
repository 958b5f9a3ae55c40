"""Which of several processes this one is, where each computes on its own devices by itself."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings

from dmphn_jax.errors import UserError

# Where launchers tell a process its number and how many there are, if JAX does not know them.
_VARIABLES = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("RANK", "WORLD_SIZE"),
)
# How the chips of a host lie, by their number.
_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}


@dataclasses.dataclass(frozen=True)
class Place:
    """One of several: its number, from 0, and how many there are."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"process {self.index} of {self.count}"


def find(given: str | None) -> Place | None:
    """Returns this process's place among those of its job; None if it is alone.

    JAX's own detection decides (Slurm, Open MPI, Cloud TPU, Kubernetes with its extra `k8s`), of
    which nothing is started; where it finds nothing, the variables of other launchers do.

    Args:
      given: I/N, as `--process` takes it, which goes before all that; None where it was not.

    Raises UserError for one that makes no sense, and where a launcher tells of others but not
    which one this is.
    """
    place = parse(given) if given is not None else _detected() or _told()
    return place if place and place.count > 1 else None


def parse(text: str) -> Place:
    """Reads I/N; raises UserError where it is none."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--process {text}: I/N needed, this process's number from 0 and how many")
    return Place(int(found[1]), int(found[2]))


def _detected() -> Place | None:
    # `initialize` is the only public way to ask, and waits for all processes.
    try:
        from jax._src.clusters import ClusterEnv

        kinds = [kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method]
    except (ImportError, AttributeError):
        return None
    for kind in kinds:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Kubernetes, which also a lone pod may run in
                if kind.is_env_present():
                    return Place(kind.get_process_id(), kind.get_process_count())
        except Exception:  # a service that does not answer, a variable that is no number
            continue
    return None


def _told() -> Place | None:
    for rank, size in _VARIABLES:
        count, index = os.environ.get(size, ""), os.environ.get(rank, "")
        if count.isdigit() and int(count) > 1:
            if not index.isdigit() or int(index) >= int(count):
                raise UserError(f"{size}={count} tells of several processes: add --process I/N")
            return Place(int(index), int(count))
    pod = os.environ.get("JOB_COMPLETION_INDEX")
    if pod is not None:  # an indexed job does not tell its pods how many they are
        raise UserError(
            f"this is pod {pod} of an indexed Kubernetes job: add --process {pod}/N, N its pods"
        )
    return None


def keep_to_own_chips() -> None:
    """Has a TPU host of a slice compute by itself, not wait for the others of the slice.

    Before JAX touches its devices. Variables that are set already stay; no effect elsewhere.
    """
    import glob

    chips = len(glob.glob("/dev/accel[0-9]*")) or len(glob.glob("/dev/vfio/[0-9]*"))
    if chips in _BOUNDS:
        for name in [name for name in os.environ if name.startswith("MEGASCALE_")]:
            del os.environ[name]  # of several slices
        os.environ.setdefault("TPU_CHIPS_PER_PROCESS_BOUNDS", _BOUNDS[chips])
        os.environ.setdefault("TPU_PROCESS_BOUNDS", "1,1,1")
