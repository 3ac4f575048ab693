"""The notebooks run from top to bottom in kernels of their own; what they store is small and of no machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as many kernels as cores may run beside each other
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    stored = [kinds(cell) for cell in notebook.cells]
    nbclient.NotebookClient(notebook, timeout=300, startup_timeout=300, kernel_name="python3").execute(
        cwd=str(tmp_path)
    )
    assert [kinds(cell) for cell in notebook.cells] == stored


def kinds(cell: Any) -> set[str]:
    """What a cell wrote; warnings of libraries apart, which differ between machines."""
    return {output.output_type for output in cell.get("outputs", []) if output.get("name") != "stderr"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_stores_is_small_and_of_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/(home|root|tmp|work|opt|Users)/", text)
    assert "stderr" not in text
    assert "image/jpeg" in text
    assert "widget-view" not in text  # a page without a kernel would look for its state, and show nothing


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["compare-explainers", "explain-a-photograph"]
