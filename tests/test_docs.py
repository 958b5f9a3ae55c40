"""What README and docs name exists: commands parse; files, flags, fields, names are there."""

from __future__ import annotations

import re

import pytest

from dmphn_jax import cli
from tests.support.pages import ROOT, commands, faults

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    assert faults(page.read_text(), page.parent) == []


@pytest.mark.parametrize("script", sorted(ROOT.glob("launch/*.s*")), ids=lambda file: file.name)
def test_the_configs_of_a_launch_script_exist(script):
    named = re.findall(r"configs/\w+\.py", script.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_readme_lists_every_command():
    text = (ROOT / "README.md").read_text()
    assert [name for name in cli.COMMANDS if f"`dmphn {name}`" not in text] == []


def test_the_readme_draws_every_room_and_base_module():
    house = re.search(r"The house; .*?\n\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.S)[1]
    package = ROOT / "dmphn_jax"
    stands = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    stands |= {path.name for path in package.glob("[a-z]*.py")}
    stands |= {f"{path.parent.name}/" for path in ROOT.glob("[a-z]*/*.py")}
    drawn = set(re.findall(r"[a-z_]+(?:/|\.py)(?=\s)", f"{house}\n"))
    assert stands - drawn == set()
    assert [name for name in drawn - stands if not (ROOT / name).is_dir()] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("    dmphn deblurr a.png --output b.png", "dmphn deblurr"),
        ("    dmphn deblur a.png --chekpoint c --output b.png", "--chekpoint"),
        ("    dmphn deblur a.png", "required"),
        ("    python -m dmphn_jax convert", "required"),
        ("    python -m dmphn_jax.deblur a.png", "no such command"),
        ("    python -m dmphn_jax.main --config configs/stack9.py", "no such config"),
        ("```\npython -m dmphn_jax.main --config configs/demo.py \\\n  --config.sed=1\n```", "sed"),
        ("    python -m dmphn_jax.main --config configs/demo.py --config.batch_size=0", "at least"),
        ("    python -m tfds_gopro.prepare gopro --sauce x", "--sauce"),
        ("    python tools/kill_test.py --kils 20", "--kils"),
        ("    python tools/no_test.py", "no such file"),
        ("    from dmphn_jax.evaluation import scores_of_all", "no such name"),
        ("    pip install '.[served]'", "no such extra"),
        ("    make dinner", "no such target"),
        ("see `dmphn evaluate --helpp`", "--helpp"),
        ("see `dmphn evaluated`", "no such command"),
        ("see `python -m dmphn_jax deblurs`", "no such command"),
        ("see `configs/dmphn_1_2_4.py`", "no such config"),
        ("see `dmphn_jax/patches.py`", "no such file"),
        ("see `no_such.py`", "no such file"),
        ("see `dmphn_jax.patches.split`", "no such name"),
        ("set `config.data.views`", "no such field"),
        ("set `data.views`", "no such field"),
        ("set `--config.data.views=False`", "no such field"),
        ("set `--no-such-flag 3`", "no command has it"),
        ("see [here](docs/none.md)", "a link to nothing"),
    ],
)
def test_a_fault_is_found(text, fault):
    found = faults(text)
    assert len(found) >= 1
    assert fault in " ".join(found)


def test_a_page_without_faults_has_none_and_its_commands_are_seen():
    text = """See [the house](README.md), `stack4.py`, `data.feed` and `--config.remat`.

        dmphn deblur photos/ --checkpoint stack4 --output sharp/   # a comment

    for set in a b; do
        dmphn evaluate DMPHN SDNet4 --no-timing \\
            --data pairs/$set --report reports/$set
    done
"""
    text = text.replace("\n        dmphn deblur", "\n    dmphn deblur")
    assert faults(text) == []
    assert [words[:2] for words in commands(text)] == [["dmphn", "deblur"], ["dmphn", "evaluate"]]
