"""docs/miniature.md says what docs/miniature.json holds, and its verdicts are those of the figures.

The runs themselves are `python tools/miniature.py`: hours, so not here.
"""

from __future__ import annotations

import shlex
import sys
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
    page = tables.PAGE.read_text()
    assert all(f"<!-- {name} -->" in page for name in tables.TABLES)
    assert page == tables.with_tables(page, tables.read_results())


def test_every_result_was_scored_as_the_page_says_and_its_command_reads():
    results = tables.read_results()
    assert len(results) >= 1
    for key, kept in results.items():
        row, seed = key.split("/")
        run = miniature.Run(row, int(seed), Path("runs/miniature") / f"{row}-{seed}")
        assert kept["command"] == shlex.join(["python", *run.train()])
        if row not in tables.REAL:
            assert kept["pairs"] >= 64
            config = settings.read(f"configs/miniature.py:{row}", [])
            steps = config.num_epochs * config.data.count // config.batch_size
            assert kept["curve"][-1][0] == steps


def test_every_row_of_the_papers_tables_and_every_claims_model_is_run():
    rows = {*tables.ROWS, *tables.MODERN}
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
