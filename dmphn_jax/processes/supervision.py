"""A process of several, watched by its parent: a lost one ends the others with a line and a status.

When one process of a job no longer answers, JAX's distributed service aborts the others from a
thread of its own: SIGABRT after a page of text, which no handler within the process can turn into
an exit status. Hence a small parent, without jax, whose child is the run.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from dmphn_jax import distributed

_PARENT = "DMPHN_SUPERVISED_BY"
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
# What the service and gloo say before they abort; nothing of it helps a person.
_ABORTING = re.compile(
    r"[EF]\d{4} [\d:.]+ +\d+ (coordination_service\w*\.cc|preemption_sync_manager\.cc|client\.h):"
    r"|terminate called after throwing an instance of 'gloo"
)


def supervised() -> bool:
    """Tells whether this process is the child of `run`; asks to be stopped with its parent."""
    if os.environ.pop(_PARENT, "") != str(os.getppid()):
        return False
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return True


def run(command: Sequence[str]) -> int:
    """Runs a command to its end, passes signals on to it, and returns its exit status.

    `distributed.TRY_AGAIN`, after one line, if it was aborted because another process of its job
    was lost; 128 and the signal's number if a signal ended it otherwise.
    """
    child = subprocess.Popen(
        command,
        env={**os.environ, _PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,  # a Ctrl-C reaches it once, through `forward`
    )

    def forward(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:  # nohup's
            signal.signal(number, forward)
    held: list[str] = []
    assert child.stderr is not None
    for line in child.stderr:
        if held or _ABORTING.match(line):
            held.append(line)
        else:
            print(line, end="", file=sys.stderr, flush=True)
    status = child.wait()
    text = "".join(held)
    if status == -signal.SIGABRT and held:
        _say(why_lost(text))
        return distributed.TRY_AGAIN
    if status not in (0, distributed.TRY_AGAIN, 130):
        print(text, end="", file=sys.stderr, flush=True)
    if status < 0:
        name = signal.Signals(-status).name
        memory = " (out of memory?)" if -status == signal.SIGKILL else ""
        _say(f"{name} ended this process of the run{memory}; start the job again to go on")
        return 128 - status
    return status


def why_lost(text: str) -> str:
    """Returns the line for what JAX or gloo said of a process that does not answer."""
    if "RegisterTask" in text:
        return (
            "the processes of this job did not find one another in time "
            f"({distributed.START_WITHIN} s): are all of them started, and is the first one's port "
            "open to the others? start the job again"
        )
    silent = re.search(r"unhealthy \(stopped sending heartbeats\):\s*([\d,\s]*\d)", text)
    numbers = sorted(re.findall(r"\d+", silent[1]), key=int) if silent else []
    if len(numbers) > 1:
        gone = f"processes {', '.join(numbers)} are gone"
    elif numbers:
        gone = f"process {numbers[0]} is gone"
    elif "Failed to send RPC to coordination service" in text:
        gone = "process 0 is gone"
    else:
        gone = "another process is gone"
    return (
        f"{gone} (killed, crashed or out of reach), which ends this one; start the job again to go "
        "on from the last checkpoint"
    )


def _say(line: str) -> None:
    print(f"dmphn: {line}", file=sys.stderr, flush=True)
