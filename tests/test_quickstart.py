"""The notebook of `examples/` runs from its first cell to its last, and is kept without outputs."""

import nbclient
import nbformat
import pytest

from tests.conftest import ROOT

PATH = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # nobody's own settings
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises what a cell raises
    said = [
        output.text if output.output_type == "stream" else str(output.data)
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    ]
    assert sum("image/png" in text for text in said) == 4
    assert any("deblurred 1 of 1 into quickstart/sharp.mp4" in text for text in said)
    assert "'12'" in said[-1]  # frames of the film that came out
