"""The dry runs in docs/operations.md are what the scripts print; a dry run calls nothing."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from tests.support.stand_ins import ROOT, StandIns, without_machine

PAGE = ROOT / "docs" / "operations.md"
RUNS = re.findall(r"^```\n\$ ((?:[^\n]*\\\n)*[^\n]*)\n(.*?)```", PAGE.read_text(), re.M | re.S)


def test_the_page_shows_every_launcher():
    shown = {re.search(r"launch/\S+", command)[0] for command, _ in RUNS}
    assert shown == {f"launch/{name}" for name in SCRIPTS}


SCRIPTS = ("cloud_tpu.sh", "gke_xpk.sh", "slurm.sbatch", "hosts.sh")


@pytest.mark.parametrize(("command", "shown"), RUNS, ids=[run[0].split()[0] for run in RUNS])
def test_a_dry_run_prints_what_the_page_shows_and_calls_nothing(tmp_path, command, shown):
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no git checkout")
    programs = StandIns(tmp_path, "gcloud", "xpk", "kubectl", "sbatch", "srun", "ssh")
    words = shlex.split(command.replace("\\\n", " "))
    words = words[1:] if words[0] == "bash" else words
    done = programs.run(words[0].removeprefix("launch/"), *words[1:])
    assert done.returncode == 0, done.stderr
    assert without_machine(done.stdout) == shown
    assert programs.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_shared_flags(tmp_path, script):
    done = StandIns(tmp_path).run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--accelerator TYPE" in done.stdout
    assert "--dry-run" in done.stdout
