"""docs/notebook.ipynb runs from its first cell to its last, and is committed without outputs."""

from pathlib import Path

import pytest

QUICK = "from kdcompress.bench import timing\ntiming.EFFORTS['rapid'] = (64, 0.1)  # of no matter here"
NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.ipynb"
nbformat = pytest.importorskip("nbformat")


@pytest.mark.slow
def test_it_runs(tmp_path, fashion_mnist_root, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("KDCOMPRESS_DATA", str(fashion_mnist_root))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(QUICK))
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert list((tmp_path / "runs/notebook/artifacts").iterdir())
    assert "'task'" in notebook.cells[-1].outputs[-1]["data"]["text/plain"]


def test_it_has_ten_cells_and_no_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert len(cells) == 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
