"""The site of guides, notebooks and docstrings."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    site = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-c", "docs", ".", site]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "merged is significantly better" in (site / "docs" / "index.html").read_text(encoding="utf-8")
    assert "choose_unlabelled" in (site / "docs" / "api.html").read_text(encoding="utf-8")
