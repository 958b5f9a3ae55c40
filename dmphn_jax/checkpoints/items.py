"""Items of a checkpoint folder: trees of arrays and JSON records, as orbax lays them out.

An item is the folder of its name (`storage.names`); where orbax lays its files in it is known here
only. Orbax itself is known here, where items are written and read, and in `training.checkpoints`,
where its manager keeps a run's steps. It is imported where it is used: to read a whole checkpoint,
tensorstore, which it reads by, is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_LONGEST_RECORD = 16 << 20  # bytes; a record holds a configuration and a few remarks


def composite(arrays: Mapping[str, Any], records: Mapping[str, Any]) -> ocp.args.Composite:
    """Returns orbax's arguments for saving items.

    Args:
      arrays: item -> tree of arrays.
      records: item -> plain JSON values.
    """
    import orbax.checkpoint as ocp

    return ocp.args.Composite(
        **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items()},
        **{name: ocp.args.JsonSave(record) for name, record in records.items()},
    )


def write(
    folder: str | os.PathLike[str], arrays: Mapping[str, Any], records: Mapping[str, Any]
) -> None:
    """Writes items (see `composite`) as the content of a folder, in place of what is there.

    Raises OSError or ValueError if it cannot.
    """
    import orbax.checkpoint as ocp

    with (
        quiet(),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler(), **alone()) as checkpointer,
    ):
        checkpointer.save(Path(folder).absolute(), composite(arrays, records), force=True)


def read_shapes(folder: str | os.PathLike[str], item: str) -> Any:
    """Returns the shapes and dtypes that an item's files declare, as `jax.ShapeDtypeStruct`s.

    Takes no memory for them. Raises as `read_arrays` does.
    """
    import orbax.checkpoint as ocp

    with quiet():
        found = ocp.StandardCheckpointHandler().metadata(Path(folder).absolute() / item)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found.tree)


def read_arrays(folder: str | os.PathLike[str], item: str) -> Any:
    """Returns an item's arrays, saved on any number of devices, on the first local device.

    Raises an exception of some type if its files are damaged: orbax and tensorstore raise many.
    """
    import orbax.checkpoint as ocp

    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with (
        quiet(),
        ocp.Checkpointer(ocp.StandardCheckpointHandler(), **alone()) as checkpointer,
    ):
        return checkpointer.restore(
            Path(folder).absolute() / item,
            args=ocp.args.StandardRestore(fallback_sharding=sharding),
        )


def read_wanted(folder: str | os.PathLike[str], item: str, wanted: Any) -> Any:
    """Returns those of an item's arrays that are wanted, on the host, without orbax.

    A fifth of a second less than `read_arrays` at a process's start. It does not see what else is
    there, and says nothing of what is wrong: a digest must tell that the tree is the whole one.

    Args:
      folder, item: which.
      wanted: nested dict of `jax.ShapeDtypeStruct`s.

    Returns their tree of NumPy arrays; None if one is missing, cannot be read, or is another's
    shape or dtype, for which no memory is taken.
    """
    import tensorstore

    base = {"driver": "file", "path": f"{Path(folder).absolute() / item}/"}
    leaves, tree = jax.tree_util.tree_flatten_with_path(wanted)
    context = tensorstore.Context()

    def spec(path: tuple[Any, ...]) -> dict[str, Any]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
        }

    try:
        opening = [
            tensorstore.open(spec(path), open=True, read=True, context=context)
            for path, _ in leaves
        ]
        found = [future.result() for future in opening]
        for array, (_, leaf) in zip(found, leaves, strict=True):
            if array.shape != leaf.shape or array.dtype.numpy_dtype != leaf.dtype:
                return None
        reading = [array.read() for array in found]
        arrays = [np.asarray(future.result()) for future in reading]
    except Exception:  # tensorstore raises many types
        return None
    return jax.tree_util.tree_unflatten(tree, arrays)


def record_file(folder: str | os.PathLike[str], item: str) -> Path:
    """Returns the file of a JSON item."""
    return Path(folder) / item / "metadata"


def read_record(folder: str | os.PathLike[str], item: str) -> Any:
    """Returns a JSON item's value.

    Raises OSError if its file is missing or cannot be read, ValueError if it is no JSON.
    """
    file = record_file(folder, item)
    if file.exists() and not file.is_file():
        raise ValueError("not a plain file")  # opening a pipe would wait for ever
    with open(file, "rb") as stream:
        data = stream.read(_LONGEST_RECORD + 1)
    if len(data) > _LONGEST_RECORD:
        raise ValueError("far longer than any record")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def alone() -> dict[str, ocp.options.MultiprocessingOptions]:
    """Options of a checkpointer that this process uses alone: it waits for no other process."""
    import orbax.checkpoint as ocp

    index = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )
    return {"multiprocessing_options": options}


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that lets its tasks end before it closes."""

    def close(self) -> None:
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves it to the exception to say what fails in the body: orbax prints nothing besides.

    Orbax starts on all arrays at once, gives up at the first that fails and closes its event
    loop. Tensorstore's threads, still at work on the others, would then report to a closed loop:
    a traceback each on stderr. So loops made in the body are patient. What orbax logs of its own
    threads' failures is dropped: it is raised too.
    """
    policy, logger = asyncio.get_event_loop_policy(), logging.getLogger("absl")
    asyncio.set_event_loop_policy(_PatientPolicy())
    logger.addFilter(_not_of_orbax)
    try:
        yield
    finally:
        for thread in threading.enumerate():  # of items that fail after the first that did
            if type(thread).__module__.startswith("orbax."):
                thread.join()
        logger.removeFilter(_not_of_orbax)
        asyncio.set_event_loop_policy(policy)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
