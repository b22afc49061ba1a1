import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from pyterrier_merge import __version__
from pyterrier_merge.cli import app


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_is_installed_and_knows_its_version():
    command = [sys.executable, "-m", "pyterrier_merge.cli", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"pyterrier-merge {__version__}\n"
    )


def test_help_shows_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    assert "run" in result.output


def test_a_missing_file_is_an_error_in_one_line(tmp_path):
    result = call("run", tmp_path / "nowhere.yaml")
    assert result.exit_code == 1
    assert result.output.startswith("error: no experiment file")
    assert "Traceback" not in result.output


def test_a_wrong_field_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"name": "n", "collection": "nope"}))
    result = call("run", "spec.yaml")
    assert result.exit_code == 1
    assert "unknown collection 'nope'" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_missing_model_is_an_error_that_says_what_to_give(tmp_path, monkeypatch, small_collection):
    from pyterrier_merge.experiment import run

    monkeypatch.setattr(run, "get_collection", lambda _: small_collection)
    spec = {"name": "n", "collection": "hpo", "source": {"model": "./nothing"}, "domain": {"model": "./nothing"}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    result = call("run", tmp_path / "spec.yaml", "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 1
    assert "no model at './nothing'" in result.output


def test_importing_is_light():
    """Torch alone takes more than the second that importing the package may."""
    heavy = "torch, transformers, mergekit, sentence_transformers, faiss, pyterrier_dr, matplotlib"
    script = f"import sys, pyterrier_merge; print([m for m in {heavy.split(', ')!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import pyterrier_merge

    for name in pyterrier_merge.__all__:
        assert getattr(pyterrier_merge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyterrier_merge.nothing
