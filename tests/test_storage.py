import pytest

from pyterrier_merge.storage import finished_folder, write_file


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
