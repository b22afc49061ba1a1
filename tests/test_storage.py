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


def test_a_folder_that_another_process_finished_is_never_moved_away(tmp_path, monkeypatch):
    """Between the last look and the renaming: what stands there then stays where its readers have it."""
    import pyterrier_merge.storage as storage

    path = tmp_path / "folder"
    look = storage.refuse_existing

    def finished_by_another(*arguments, **settings):
        look(*arguments, **settings)
        if not path.exists():
            path.mkdir()
            (path / "theirs").write_text("whole")

    moves = []
    rename = Path.replace
    with monkeypatch.context() as patched, pytest.raises(FileExistsError), storage.finished_folder(path) as beside:
        (beside / "ours").write_text("late")
        patched.setattr(storage, "refuse_existing", finished_by_another)
        patched.setattr(Path, "replace", lambda self, to: (moves.append(self.name), rename(self, to))[1])
    assert moves == [beside.name]
    assert [file.name for file in path.iterdir()] == ["theirs"]


def test_a_link_to_nowhere_is_something_that_stands_there(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="exists already"), finished_folder(tmp_path / "link"):
        pytest.fail("hours of work would be lost at the end")
