"""`dmphn models`: the zoo as a table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from dmphn_jax.checkpoints import weights
from dmphn_jax.models import multiply_adds, parameter_count, zoo
from dmphn_jax.tables import markdown_table


def table(released: Mapping[str, str] | None = None) -> str:
    """Returns the zoo as a Markdown table: name, parameters, MB, GMAC at 720p, paper's figures.

    Args:
      released: name -> where its released weights are, for a last column.
    """
    header = ["name", "paper's name", "parameters", "MB", "GMAC at 720p", "PSNR", "SSIM", "table"]
    rows = [
        [
            entry.name,
            entry.label,
            f"{parameter_count(entry.config):,}",
            f"{4e-6 * parameter_count(entry.config):.1f}",
            f"{1e-9 * multiply_adds(entry.config, 720, 1280):,.0f}",
            f"{entry.psnr:.2f}",
            f"{entry.ssim:.4f}",
            entry.tables,
        ]
        for entry in zoo.ZOO.values()
    ]
    if released is not None:
        header.append("weights")
        for row in rows:
            row.append(released.get(row[0], ""))
    return markdown_table(header, rows, left={0, 1, 7, 8})


def main(argv: list[str]) -> int:
    """Prints the table."""
    argparse.ArgumentParser(
        prog="dmphn models",
        description="Print every model of the paper: size, cost, and the paper's PSNR (dB) and "
        "SSIM (MATLAB, RGB) on GoPro's test set (Tables 1, 2 and 4). MB are 10^6 bytes of float32 "
        "parameters; GMAC are 10^9 multiply-accumulates for one 1280x720 image. Any other "
        "hierarchy of 1, 2, 4, 8, 16 patches and any stackN_<unit> works by its name too. "
        "Weights that the authors released are here, in the user's cache, or to pull: they come at "
        "their first use, or by `dmphn pull`.",
    ).parse_args(argv)
    print(table({name: "here" if weights.kept(name) else "to pull" for name in weights.names()}))
    return 0
