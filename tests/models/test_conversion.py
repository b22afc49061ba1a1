import shutil
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from pyterrier_merge.models.conversion import kept_model
from pyterrier_merge.storage import cache_folder

# Makes a model called argv[1] of two files, argv[2] seconds apart; notes in the folder argv[3] that it began.
MAKE = """
import os, sys, time
from pathlib import Path
from pyterrier_merge.models.conversion import kept_model

def write(building):
    (building / "first").write_text("1")
    Path(sys.argv[3], f"began-{os.getpid()}").touch()
    time.sleep(float(sys.argv[2]))
    (building / "second").write_text("2")

folder = kept_model(sys.argv[1], write, size=lambda: 0, what="a model")
print(*sorted(file.name for file in folder.iterdir()))
"""


@pytest.fixture
def make(tmp_path):
    started = []

    def in_a_process(seconds):
        command = [sys.executable, "-c", MAKE, tmp_path.name, str(seconds), str(tmp_path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield in_a_process
    for process in started:
        process.kill()
        process.communicate()


def begun(folder, number):
    end = time.monotonic() + 60
    while len(list(folder.glob("began-*"))) < number:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_processes_at_once_make_a_model_once(make, tmp_path):
    processes = [make(1), make(1)]
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert out == "first second\n", errors
    assert len(list(tmp_path.glob("began-*"))) == 1
    assert [file.name for file in cache_folder("models").glob(f"*{tmp_path.name}*")] == [tmp_path.name]


def test_a_process_that_is_killed_leaves_the_making_to_the_next(make, tmp_path):
    first = make(600)
    begun(tmp_path, 1)
    second = make(0)
    with pytest.raises(subprocess.TimeoutExpired):
        second.communicate(timeout=3)
    first.kill()
    out, errors = second.communicate(timeout=60)
    assert out == "first second\n", errors
    assert len(list(tmp_path.glob("began-*"))) == 2
    assert [file.name for file in cache_folder("models").glob(f"*{tmp_path.name}*")] == [tmp_path.name]


def test_what_fails_leaves_nothing_and_can_be_made_again(tmp_path):
    def fail(building):
        (building / "half").touch()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        kept_model(tmp_path.name, fail, size=lambda: 0, what="a model")
    assert not list(cache_folder("models").glob(f"*{tmp_path.name}*"))
    folder = kept_model(tmp_path.name, lambda building: (building / "whole").touch(), size=lambda: 0, what="a model")
    assert [file.name for file in folder.iterdir()] == ["whole"]
    assert kept_model(tmp_path.name, fail, size=lambda: 10**18, what="a model") == folder


def test_a_disk_without_room_is_named_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**9, 10**9))
    with pytest.raises(OSError, match=r"for a model: 5,.* \(5\.07 GB\) needed, 1,.* \(1\.00 GB\) free on the disk of"):
        kept_model(tmp_path.name, lambda _: pytest.fail("written"), size=lambda: 5 * 10**9, what="a model")
