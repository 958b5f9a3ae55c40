"""Programs that stand in for gcloud, xpk, ssh, ...: they record their calls and fail on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_PROGRAM = """#!{python} -SE
import fcntl, json, os, re, sys
name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({folder!r} + "/calls", "a+") as calls:
    fcntl.flock(calls, fcntl.LOCK_EX)
    calls.write(json.dumps([name, *argv]) + "\\n")
    calls.flush()
    replies = json.load(open({folder!r} + "/replies"))
    line = " ".join([name, *argv])
    reply = next((r for r in replies if re.search(r[0], line)), None)
    if reply and reply[1] > 0:
        reply[1] -= 1
        if not reply[1]:
            replies.remove(reply)
        json.dump(replies, open({folder!r} + "/replies", "w"))
if reply:
    sys.stdout.write(reply[3])
    sys.stderr.write(reply[4])
    sys.exit(reply[2])
"""


class StandIns:
    """A folder of stand-ins before everything else on PATH.

    A call is answered by the first reply left whose pattern is found in it, then by the first usual
    one, else by status 0.
    """

    def __init__(self, folder: Path, *programs: str) -> None:
        self._folder = folder
        self._replies: list[list] = []
        self._usual: list[list] = []
        (folder / "bin").mkdir(parents=True)
        for name in programs:
            program = folder / "bin" / name
            program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
            program.chmod(0o755)
        self._write()

    def reply(
        self, pattern: str, status: int = 0, out: str = "", error: str = "", times: int = 1
    ) -> None:
        """Adds a reply to the next `times` calls (0: all) in which `pattern` is found."""
        self._replies.append([pattern, times, status, out, error])
        self._write()

    def usually(self, pattern: str, out: str, error: str = "") -> None:
        """Adds what is said, with status 0, to every call that has no other reply."""
        self._usual.append([pattern, 0, 0, out, error])
        self._write()

    def env(self, **variables: str) -> dict[str, str]:
        """Returns the environment of a script: no waits, none of the caller's names."""
        path = f"{self._folder / 'bin'}:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self._folder), "POLL": "0", **variables}

    def run(self, script: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of launch/ to its end."""
        return subprocess.run(
            ["bash", str(ROOT / "launch" / script), *flags],
            env=self.env(**variables),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        """Returns the calls so far, each as words."""
        file = self._folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def steps(self, names: dict[str, str]) -> list[str]:
        """Returns the calls as the first of `names` (text in the call -> name) that fits."""
        return [
            next((name for text, name in names.items() if text in line), line)
            for line in (" ".join(call) for call in self.calls())
        ]

    def _write(self) -> None:
        (self._folder / "replies").write_text(json.dumps(self._replies + self._usual))


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the last line a script said on stderr."""
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


def without_machine(text: str) -> str:
    """Returns a dry run's output without what differs from checkout to checkout."""
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    if head:
        text = text.replace(head, "COMMIT")
    return text.replace(str(ROOT), ".").replace(os.path.realpath(ROOT), ".")
