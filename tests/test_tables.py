import pytest

from dmphn_jax.tables import markdown_table, without_empty_columns


def test_columns_are_aligned():
    text = markdown_table(["model", "dB", "note"], [["a", "30.21", "x"]], left={0, 2})
    assert text.splitlines() == [
        "| model |    dB | note |",
        "| ----- | ----: | ---- |",
        "| a     | 30.21 | x    |",
    ]
    assert markdown_table(["model"], []) == "| model |\n| ----- |"


def test_rows_have_as_many_cells_as_the_header():
    with pytest.raises(ValueError, match="argument 2"):
        markdown_table(["a", "b"], [["1"]])


def test_columns_that_hold_nothing_go():
    rows = [["1", "", ""], ["2", "", "x"]]
    assert without_empty_columns(["a", "b", "c"], rows) == (["a", "c"], [["1", ""], ["2", "x"]])
