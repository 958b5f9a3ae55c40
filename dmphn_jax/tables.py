"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Cells = Sequence[Sequence[str]]


def markdown_table(header: Sequence[str], rows: Cells, *, left: Collection[int] = (0,)) -> str:
    """Returns an aligned Markdown table; the columns `left` to the left, the others to the right.

    Raises ValueError if a row has not as many cells as the header.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if i in left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def without_empty_columns(header: Sequence[str], rows: Cells) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows without the columns that are empty in every row."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]
