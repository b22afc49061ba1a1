import os
import signal
from pathlib import Path

import pytest

from pyterrier_merge.storage import finished_folder, restore_folder, write_file


def test_a_folder_appears_when_it_is_finished(tmp_path):
    with finished_folder(tmp_path / "out") as beside:
        (beside / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_left_when_the_block_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), finished_folder(tmp_path / "out") as beside:
        (beside / "file").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(FileExistsError, match="overwrite=True"), finished_folder(tmp_path / "out"):
        pass
    with pytest.raises(RuntimeError), finished_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "old").read_text() == "old"
    with finished_folder(tmp_path / "out", overwrite=True) as beside:
        (beside / "new").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_written_file_is_whole(tmp_path):
    write_file(tmp_path / "deep" / "file.txt", "ä\n")
    assert (tmp_path / "deep" / "file.txt").read_text(encoding="utf-8") == "ä\n"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.txt"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    replace = Path.replace

    def rival_is_faster(self, target):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "rival").write_text("x")
        return replace(self, target)

    with pytest.raises(FileExistsError, match="out exists already"), finished_folder(tmp_path / "out") as beside:
        (beside / "file").write_text("x")
        monkeypatch.setattr(Path, "replace", rival_is_faster)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "rival"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_job_killed_while_it_overwrites_loses_nothing(tmp_path, renames):
    with finished_folder(tmp_path / "out") as beside:
        (beside / "file").write_text("old")
    if not (job := os.fork()):
        done, replace = [], Path.replace

        def replace_and_die(self, target):
            replace(self, target)
            done.append(target)
            if len(done) == renames:
                os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = replace_and_die
        try:
            with finished_folder(tmp_path / "out", overwrite=True) as beside:
                (beside / "file").write_text("new")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "out").exists() == (renames == 2)
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == ("old" if renames == 1 else "new")
    assert not list(tmp_path.glob(".*.old"))
    with finished_folder(tmp_path / "out", overwrite=True) as beside:
        (beside / "file").write_text("newest")
    assert (tmp_path / "out" / "file").read_text() == "newest"
