"""The notebooks: what is committed was run to its end, and each runs again on a small collection."""

import re
from pathlib import Path

import nbformat
import pytest
from run_notebooks import run

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HPO = "from small_hpo import small_hpo\ncollection = small_hpo()\n"
DOMAIN = (
    "from pyterrier_merge import KnownItemTraining\ntraining = KnownItemTraining(steps=2, batch_size=8, items=80)\n"
)
REDUCED = {  # what takes the place of each notebook's parameters
    "01-quick-start": HPO + DOMAIN,
    "02-choosing-alphas": HPO
    + "from pyterrier_merge import MaskedTraining\ntraining = MaskedTraining(steps=2, head_steps=1)\n"
    + "grid, items = [0.5, 1], 100\n",
    "03-merging-and-lora": HPO
    + 'training = {"objective": "known-items", "steps": 2, "batch_size": 8, "items": 80}\n'
    + "fraction, trials, steps, grid = 0.1, 2, 10, [0.5, 1]\nfull_steps, evaluate_every = 4, 2\n",
    "04-hybrids-and-reranking": HPO + DOMAIN,
    "05-significance-and-reporting": HPO + DOMAIN,
    "06-your-own-collection": HPO + "whole, number, steps, items = collection, 150, 2, 100\n",
    "07-7b-on-a-gpu": "",
}


PRINTED = {"06-your-own-collection": "report: runs/mine/report.html", "07-7b-on-a-gpu": "can be merged"}  # by commands


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_run_from_top_to_bottom(path):
    assert path.stat().st_size < 300_000
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    assert kinds & {"display_data", "execute_result"}
    shown = str([cell.outputs for cell in cells])
    assert "Traceback" not in shown
    assert not re.search(r"/(?:home|root|Users|tmp)/", shown)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem == "01-quick-start" else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    notebook = run(path, tmp_path, REDUCED[path.stem])
    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert PRINTED.get(path.stem, "") in shown
    assert "failed" not in shown
