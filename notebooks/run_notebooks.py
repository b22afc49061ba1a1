"""Runs notebooks and keeps their outputs.

    python notebooks/run_notebooks.py             # all of them
    python notebooks/run_notebooks.py 01 04       # those whose names begin so

What they write goes into a folder that is deleted afterwards; models and indexes stay in the cache.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def run(path: Path, folder: Path, parameters: str = "") -> nbformat.NotebookNode:
    """Run a notebook in a folder, and return it with its outputs.

    Args:
        path: The notebook.
        folder: Where the kernel runs.
        parameters: Code to append to the cell with the tag ``parameters``.

    Raises:
        CellExecutionError: A cell raised an error.
    """
    notebook = nbformat.read(path, as_version=4)
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    own, cell.source = cell.source, f"{cell.source}\n{parameters}"
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    settings = {
        "PATH": commands,
        "PYTHONPATH": modules,
        "PYTHONWARNINGS": "ignore:IProgress not found",  # bars are text in notebooks that are kept
        "TERM": "dumb",  # and so are the tables of commands
    }
    with patch.dict(os.environ, settings):
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=3600, coalesce_streams=True, resources=resources).execute()
    cell.source = own
    for each in notebook.cells:
        each.metadata.pop("execution", None)  # when it was run
        for output in each.get("outputs", []):
            if output.get("name") == "stderr":
                output.text = _finished_bars(output.text)
    return notebook


def _finished_bars(text: str) -> str:
    """Return what was printed without the bars that go on: those within others leave a line at each step."""
    lines = [line.replace("\x1b[A", "") for line in text.split("\n")]
    return "\n".join(line for line in lines if line and ("%|" not in line or "100%|" in line)) + "\n"


def main() -> None:
    wanted = tuple(sys.argv[1:]) or ("",)
    for path in sorted(HERE.glob("*.ipynb")):
        if path.name.startswith(wanted):
            print(path.name, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                done = nbformat.writes(run(path, Path(folder)))
                path.write_text(done.replace(str(Path.home()), "~") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
