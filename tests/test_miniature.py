"""docs/miniature.md says what docs/miniature.json holds, and its verdicts are those of the figures.

The runs themselves are `python tools/miniature.py`: hours, so not here.
"""

from __future__ import annotations

import shlex
import sys
import threading
from pathlib import Path

import pytest

from dmphn_jax.models import zoo
from dmphn_jax.training import settings
from tests.support.pages import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import miniature
import miniature_tables as tables


def result(psnr):
    scores = {"psnr": psnr, "ssim_matlab": 0.9}
    return {**scores, "minutes": 1.0, "ms": 10.0, "curve": [[1, psnr]], "devices": "1 x cpu"}


def table(name, results):
    page = tables.with_tables(f"<!-- {name} -->\nold\n<!-- end -->\n", results)
    return page.splitlines()[1:-1]


def test_the_pages_tables_are_made_of_the_results():
    page, results = tables.PAGE.read_text(), tables.read_results()
    for name, make in tables.TABLES.items():
        has_rows = len(make(tables.grouped(results))) > 2
        assert (f"<!-- {name} -->" in page) == has_rows
    assert page == tables.with_tables(page, results)


def test_every_result_was_scored_as_the_page_says_and_its_command_reads():
    results = tables.read_results()
    assert len(results) >= 1
    for key, kept in results.items():
        row, seed = key.split("/")
        run = miniature.Run(row, int(seed), Path("runs/miniature") / f"{row}-{seed}")
        assert kept["command"] == shlex.join(["python", *run.train()])
        if row not in tables.REAL:
            assert kept["pairs"] >= 64
            file = run.train()[run.train().index("--config") + 1]
            config = settings.read(file, miniature.FLAGS.get(row, []))
            steps = config.num_epochs * config.data.count // config.batch_size
            assert kept["curve"][-1][0] == steps


def test_every_row_of_the_papers_tables_and_every_claims_model_is_run():
    rows = {*tables.ROWS, *tables.MODERN, *tables.LONG}
    assert {zoo.ZOO[row].label for row in tables.ROWS} == {
        entry.label for name, entry in zoo.ZOO.items() if name != "dmsn_1"
    }
    assert {row for _, models in tables.CLAIMS for row in models} <= rows
    assert rows >= miniature.ARGUED


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.1], "holds (one seed)"),
        ([-0.1], "does not hold (one seed)"),
        ([0.1, 0.2, 0.3], "holds"),
        ([-0.1, -0.2, -0.1], "does not hold"),
        ([0.4, -0.1, 0.2], "undecided"),
        ([0.1, 0.01], "undecided"),
        ([0.01], "undecided (one seed)"),
    ],
)
def test_a_claim_holds_if_it_does_for_every_seed_by_more_than_a_tie(gains, verdict):
    results = {f"dmphn_1/{seed}": result(25.0) for seed in range(4)}
    results |= {f"dmphn_1_2/{seed}": result(25.0 + gain) for seed, gain in enumerate(gains)}
    (line,) = table("claims", results)[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == ["DMPHN(1-2) over DMPHN(1)", verdict, "+1.07"]
    assert cells[5] == " ".join(f"{gain:+.2f}" for gain in gains)


def test_a_row_has_the_mean_and_the_spread_of_its_seeds():
    results = {"dmphn_1/0": result(25.0), "dmphn_1/1": result(25.2), "dmsn_2/0": result(26.0)}
    one, two = table("table 2", results)[2:]
    assert "| 28.70 | 25.10 ± 0.14 (2) |" in one
    assert "| 28.82 | 26.00 (1) |" in two


def test_a_long_row_is_a_row_of_the_table_with_more_steps():
    for row in tables.LONG:
        short = miniature.Run(row.removeprefix("long_"), 0, Path("f")).train()
        assert miniature.Run(row, 0, Path("f")).train() == [*short, *miniature.FLAGS[row]]
        assert tables.label(row) == f"{tables.label(row.removeprefix('long_'))}, 20,000 steps"


def test_long_runs_stand_beside_the_same_seeds_short_ones():
    results = {"dmphn_1/0": result(25.0), "long_dmphn_1/0": result(26.5)}
    results |= {"long_dmphn_1/1": result(26.0)}
    one, two = table("longer", results)[2:]
    assert one.startswith("| DMPHN(1) | 25.00 | 26.50 |")
    assert two.startswith("| DMPHN(1) |  | 26.00 |")
    # The table of seeds is the short runs'.
    (row,) = table("table 2", results)[2:]
    assert "25.00 (1)" in row


def test_every_run_has_a_core_of_its_own(monkeypatch):
    """All are made, at most one on a core at a time, by what runs on that core alone."""
    monkeypatch.setattr(miniature.os, "sched_getaffinity", lambda _: {3, 5})
    held: dict[int, int] = {}
    monkeypatch.setattr(
        miniature, "_hold_to", lambda core: held.setdefault(threading.get_ident(), core)
    )
    met, made = threading.Barrier(2), []

    def make(run):
        met.wait(60)  # two at a time
        made.append((run.seed, held[threading.get_ident()]))
        return run.seed != 2

    monkeypatch.setattr(miniature, "_make", make)
    runs = [miniature.Run("dmphn_1", seed, Path("f")) for seed in range(4)]
    assert miniature._make_all(runs, None) == [True, True, False, True]
    assert sorted(seed for seed, _ in made) == [0, 1, 2, 3]
    assert sorted(core for _, core in made) == [3, 3, 5, 5]
    assert miniature._make_all(runs, 0.0) == [True] * 4  # no time left
    assert len(made) == 4
