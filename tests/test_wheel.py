"""The wheel: built from a clean copy of the project, it holds all that the package needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPORT_ALL = """
import importlib, pkgutil, sys
import pyterrier_merge
assert pyterrier_merge.__file__.startswith(sys.argv[1]), pyterrier_merge.__file__
names = [module.name for module in pkgutil.walk_packages(pyterrier_merge.__path__, "pyterrier_merge.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
for name in pyterrier_merge.__all__:
    getattr(pyterrier_merge, name)
print(len(names))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel's files are in."""
    project, site = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "pyterrier_merge", project / "pyterrier_merge", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", ".", "."], cwd=project, check=True)
    [wheel] = project.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", site, wheel], check=True)
    return site


def test_it_has_every_file_of_the_package(installed):
    def files(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    assert files(installed / "pyterrier_merge") == files(ROOT / "pyterrier_merge")


def test_every_room_can_be_imported(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed))
    command = [sys.executable, "-c", IMPORT_ALL, str(installed)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(found.stdout.splitlines()[-1]) > 200
