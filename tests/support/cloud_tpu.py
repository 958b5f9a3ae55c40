"""What tests of launch/cloud_tpu.sh share: its calls, and what gcloud and the hosts answer."""

from __future__ import annotations

from typing import Any

from tests.support.stand_ins import StandIns

WHERE = ["--name=job", "--project=p", "--zone=z"]
TRAIN = [
    "train",
    *WHERE,
    "--no-plan",
    "--accelerator=v6e-16",
    "--config=configs/stack4.py",
    "--data=gs://b/gopro",
    "--workdir=gs://b/runs/x",
]
STEPS = {
    "queued-resources describe": "look",
    "queued-resources create": "create",
    "queued-resources delete": "delete",
    "(grep -qxF": "ready?",
    "on_host.sh idle": "idle?",
    "queued-resources scp": "copy",
    "on_host.sh install": "install",
    "on_host.sh start": "start",
    "on_host.sh follow": "follow",
    "on_host.sh stop": "stop",
    "on_host.sh wait": "wait",
    "on_host.sh last": "last",
    "cut -d": "whose?",
}
PREPARE = ["ready?", "idle?", "copy", "install", "start", "follow", "wait"]
AGAIN = ["look", "ready?", "start", "follow", "wait"]
RUN = [
    *("run", *WHERE, "--no-plan", "--accelerator=v6e-16"),
    *("--data=gs://b/photos", "--workdir=filer:/out"),
    "--command=deblur data --checkpoint stack4 --output run/sharp",
]


def ended(*statuses: int) -> str:
    """What hosts say when their commands have ended."""
    return "".join(f"cloud_tpu.sh: ended {status} on h{i}\n" for i, status in enumerate(statuses))


def to(nodes: int, hosts: int) -> str:
    """What gcloud says before it connects."""
    return (
        f"Using ssh batch size of 64. Attempting to SSH into {nodes} nodes with a total of {hosts}"
        " workers.\n"
    )


def answering(cloud: StandIns, slices: int) -> None:
    """Slices of four hosts, on which all goes well."""
    cloud.usually("ssh job.*--worker all", ended(*[0] * 4 * slices), to(slices, 4 * slices))
    cloud.usually("ssh job", ended(0))


def first(cloud: StandIns, pattern: str, status: int, **reply: Any) -> None:
    """The first host's command ends with a status."""
    cloud.reply(pattern, out=ended(status), **reply)


def hosts(cloud: StandIns, pattern: str, *statuses: int, **reply: Any) -> None:
    """Each host's command ends with its status."""
    cloud.reply(pattern, out=ended(*statuses), error=to(1, len(statuses)), **reply)


NONE = f"WARNING: Could not prepare all 1 nodes, attempting to ssh into the rest.\n{to(0, 0)}"


def states(cloud: StandIns, *names: str) -> None:
    """What `describe` tells, one after another; the last one for ever."""
    for i, name in enumerate(names):
        times = 0 if i == len(names) - 1 else 1
        if name == "ABSENT":
            cloud.reply("describe", 1, error="ERROR: (gcloud) NOT_FOUND: no such", times=times)
        else:
            cloud.reply("describe", out=f"{name}\n", times=times)


def fresh(cloud: StandIns, times: int = 0) -> None:
    """A host that has nothing yet."""
    hosts(cloud, "[(]grep -qxF", 2, 2, 2, 2, times=times)
