"""launch/hosts.sh against a stand-in for ssh; test_real_hosts.py has the hosts' part too."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.stand_ins import ROOT, StandIns, last_line

TRAIN = [
    "train",
    "--no-plan",
    "--hosts=a b",
    "--config=configs/stack4.py",
    "--data=/d",
    "--workdir=w",
]


@pytest.fixture
def ssh(tmp_path):
    return StandIns(tmp_path, "ssh")


def trained(ssh) -> list[str]:
    return [" ".join(call) for call in ssh.calls() if "foreground" in " ".join(call)]


def test_every_host_gets_its_process_and_the_first_is_the_coordinator(ssh):
    done = ssh.run("hosts.sh", *TRAIN, "--folder=f", "--port=9", "--config.batch_size=8")
    assert done.returncode == 0, done.stderr
    # The hosts are looked at before the first of them starts.
    assert ["test -x f/.venv" in " ".join(call) for call in ssh.calls()] == [
        *[True] * 2,
        False,
        False,
    ]
    a, b = sorted(trained(ssh))
    for i, line in enumerate((a, b)):
        assert f"--coordinator a:9 --num-processes 2 --process-id {i}" in line
        assert "--config.data.data_dir=/d --workdir w --config.batch_size=8" in line


def test_one_host_needs_no_coordinator(ssh):
    assert ssh.run("hosts.sh", *TRAIN, "--hosts=a").returncode == 0
    assert "--coordinator" not in trained(ssh)[0]


@pytest.mark.parametrize(
    ("out", "status", "line"),
    [
        ("", 255, "b cannot be reached: ssh: no route"),
        ("missing\n", 0, "b has no dmphn_jax/.venv: launch/hosts.sh install"),
        ("no config\n", 0, "b has no dmphn_jax/configs/stack4.py: commit it"),
    ],
)
def test_a_host_that_cannot_be_used_is_named_before_any_starts(ssh, out, status, line):
    ssh.reply(" b test", status, out=out, error="ssh: no route\n" if status else "")
    done = ssh.run("hosts.sh", *TRAIN)
    assert done.returncode == 2
    assert line in last_line(done)
    assert trained(ssh) == []


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(0, 0, 0), (75, 2, 2), (137, 75, 75), (130, 75, 130), (0, 1, 1), (255, 0, 255), (75, 3, 3)],
)
def test_the_status_is_that_of_what_ended_the_job(ssh, first, second, status):
    ssh.reply("--process-id 0", first)
    ssh.reply("--process-id 1", second)
    assert ssh.run("hosts.sh", *TRAIN, "--restarts=0").returncode == status


def test_a_job_that_lost_a_process_is_started_again(ssh):
    ssh.reply("--process-id 1", 137)
    ssh.reply("--process-id 0", 75)
    done = ssh.run("hosts.sh", *TRAIN)
    assert done.returncode == 0
    assert len(trained(ssh)) == 4
    assert "status 75: starting again (19 times left)" in done.stderr


@pytest.mark.parametrize(
    ("out", "status", "line"),
    [
        ("on_host.sh: a run is at work on b; stop it first\n", 69, "b: a run is at work there"),
        ("", 127, "b cannot be used"),
    ],
)
def test_a_host_at_work_is_left_alone(ssh, out, status, line):
    ssh.reply(" b test", status, out=out)
    done = ssh.run("hosts.sh", *TRAIN)
    assert done.returncode == 2
    assert line in last_line(done)
    assert trained(ssh) == []


def test_a_run_that_outlived_its_connection_is_waited_for(ssh):
    ssh.reply("--process-id 1", 255)
    assert ssh.run("hosts.sh", *TRAIN).returncode == 0
    names = {"idle": "look", "foreground": "start", "on_host.sh wait": "wait"}
    assert ssh.steps(names) == ["look"] * 2 + ["start"] * 2 + ["wait"] * 2 + ["start"] * 2


class Job:
    """hosts.sh at work on hosts whose `foreground` runs until `asked` is there, or as long as it
    takes where `stop` says that no run is at work."""

    def __init__(self, ssh: StandIns, folder: Path, before: str = "", **variables: str) -> None:
        program = folder / "bin" / "ssh"
        recorder = program.with_name("record")
        program.rename(recorder)
        self.ssh, self.asked = ssh, folder / "asked"
        program.write_text(
            "#!/bin/bash\n"
            f"{before}\n"
            f'{recorder} "$@" || exit\n'
            f'case "$*" in *" stop "*) touch {self.asked} ;;\n'
            f"*foreground*) until [[ -e {self.asked} ]]; do sleep 0.02; done; exit 75 ;; esac\n"
        )
        program.chmod(0o755)
        self.script = subprocess.Popen(
            # Where the tests run in the background, interrupts are ignored: bash cannot trap them.
            ["env", "--default-signal=INT", "bash", ROOT / "launch" / "hosts.sh", *TRAIN],
            env=ssh.env(**variables),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, text: str, times: int = 1) -> None:
        while sum(text in " ".join(call) for call in self.ssh.calls()) < times:
            assert self.script.poll() is None
            time.sleep(0.02)

    def end(self) -> str:
        """What it said, once it has ended."""
        return self.script.communicate(timeout=30)[1]

    def stops(self) -> list[str]:
        lines = [" ".join(call) for call in self.ssh.calls()]
        return [line.split()[-1] for line in lines if "on_host.sh stop" in line]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM")])
def test_an_interrupt_asks_every_host_to_save(ssh, tmp_path, number, name):
    job = Job(ssh, tmp_path)
    job.wait_for("foreground", 2)
    os.kill(job.script.pid, number)
    said = job.end()
    assert job.script.returncode == 75, said
    assert "asking all hosts to save and end" in said
    assert "starting again" not in said
    assert job.stops() == [name, name]


def test_a_host_whose_run_only_begins_is_asked_again(ssh, tmp_path):
    ssh.reply(" stop ", out="on_host.sh: no run is at work on a\n", times=3)
    # What is asked in vain leaves the processes running.
    job = Job(ssh, tmp_path, before=f"[[ $* != *' stop '* ]] || exec {tmp_path}/bin/stop \"$@\"")
    (tmp_path / "bin" / "stop").write_text(
        f'#!/bin/bash\nsaid=$({tmp_path}/bin/record "$@")\n'
        f'if [[ $said ]]; then echo "$said"; else touch {job.asked}; fi\n'
    )
    (tmp_path / "bin" / "stop").chmod(0o755)
    job.wait_for("foreground", 2)
    os.kill(job.script.pid, signal.SIGINT)
    said = job.end()
    assert job.script.returncode == 75, said
    assert len(job.stops()) in (4, 5)  # the last one only if its host was not asked in time


def test_a_second_interrupt_lets_go_of_them(ssh, tmp_path):
    job = Job(ssh, tmp_path, before="[[ $* != *' stop '* ]] || { record \"$@\"; exit; }")
    job.wait_for("foreground", 2)
    os.kill(job.script.pid, signal.SIGINT)
    job.wait_for(" stop ", 2)
    os.kill(job.script.pid, signal.SIGINT)
    said = job.end()
    assert job.script.returncode == 143, said
    assert "once more: not waiting for that" in said
    assert job.stops() == ["INT", "INT"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_start_starts_nothing(ssh, tmp_path, number, status):
    held = tmp_path / "held"
    job = Job(ssh, tmp_path, before=f"touch {held}; while [[ -e {held} ]]; do sleep 0.02; done")
    while not held.exists():
        time.sleep(0.02)
    os.kill(job.script.pid, number)
    held.unlink()
    assert "nothing was started" in job.end()
    assert job.script.returncode == status
    assert trained(ssh) == job.stops() == []


def test_a_signal_before_a_restart_starts_nothing_more(ssh, tmp_path):
    ssh.reply("foreground", 137, times=2)
    job = Job(ssh, tmp_path, POLL="50")
    for line in job.script.stderr:
        if "starting again" in line:
            break
    os.kill(job.script.pid, signal.SIGTERM)
    said = job.end()
    assert job.script.returncode == 137, said
    assert len(trained(ssh)) == 2
    assert job.stops() == ["TERM", "TERM"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["train", "--config=configs/stack4.py"], "--hosts (or HOSTS=) is needed"),
        (["train", "--hosts=a"], "--config (or CONFIG=) is needed"),
        ([*TRAIN, "--port=x"], "--port x"),
        *(
            ([*TRAIN, f"--folder={folder}"], f"--folder {folder}: a folder in letters")
            for folder in ("my folder", "$(id)", "a;b", "-a", "..", "/", "~")
        ),
        ([*TRAIN, "--hosts=a b a"], "a is there twice"),
        ([*TRAIN, "--hosts= "], "names of hosts needed"),
        ([*TRAIN, "--hosts=a -oProxyCommand=x"], "names of hosts needed"),
    ],
)
def test_arguments_are_checked_first(ssh, flags, line):
    done = ssh.run("hosts.sh", *flags)
    assert done.returncode == 2
    assert line in last_line(done)
    assert ssh.calls() == []


RUN = ["run", "--hosts=a b c", "--command=deblur photos --checkpoint c --output 'out put'"]


def test_a_command_s_processes_are_told_which_they_are(ssh):
    assert ssh.run("hosts.sh", *RUN).returncode == 0
    for i, line in enumerate(sorted(trained(ssh))):
        assert "foreground deblur photos --checkpoint c --output 'out put'" in line
        assert line.endswith(f"--process {i}/3")


def test_a_command_goes_on_without_the_hosts_that_are_lost(ssh):
    ssh.reply("--process 1/3", 255)
    ssh.reply("--process 2/3", 75)
    done = ssh.run("hosts.sh", *RUN)
    assert done.returncode == 0
    assert "going on with a c" in done.stderr
    again = [line[-len("--process 0/2") :] for line in trained(ssh)[3:]]
    assert sorted(again) == ["--process 0/2", "--process 1/2"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["run", "--hosts=a"], "--command (or COMMAND=) is needed"),
        (["train", "--hosts=a", RUN[2]], "--command goes with the action run"),
        (["run", "--hosts=a", "--command=convert a b"], "deblur or evaluate needed, not 'convert'"),
        (["run", "--hosts=a", "--command=deblur a -c c"], "--output FOLDER is needed"),
        (["run", "--hosts=a", "--command=evaluate c --data d"], "--report FOLDER is needed"),
        (["run", "--hosts=a", "--command=deblur 'a"], "a quote is not closed"),
        ([*RUN, "--config=configs/stack4.py"], "exclude one another"),
        ([*RUN, "--config.seed=1"], "exclude one another"),
        (["run", "--hosts=a", "--command=deblur a -o b --process 0/2"], "--process is added here"),
    ],
)
def test_a_command_is_checked_first(ssh, flags, line):
    done = ssh.run("hosts.sh", *flags)
    assert done.returncode == 2
    assert line in last_line(done)
    assert ssh.calls() == []


def test_a_folder_in_the_home_is_the_hosts_shell_s_to_find(ssh):
    assert ssh.run("hosts.sh", *TRAIN, "--folder=~/run-1/x.y").returncode == 0
    assert len(trained(ssh)) == 2
    assert all("bash ~/run-1/x.y/launch/on_host.sh foreground" in line for line in trained(ssh))


def test_stop_tells_of_a_host_it_did_not_reach(ssh):
    ssh.reply("ssh .* b ", 255, error="ssh: no route\n")
    done = ssh.run("hosts.sh", "stop", "--hosts=a b")
    assert done.returncode == 1
    assert done.stderr == "hosts.sh: b was not asked: ssh: no route\n"
    assert [call[-1] for call in ssh.calls()] == ["bash dmphn_jax/launch/on_host.sh stop INT"] * 2
