import ast
import errno
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyterrier_merge import storage
from pyterrier_merge.storage import (
    cache_folder,
    finish_folder,
    finished_folder,
    require_room,
    restore_folder,
    user_path,
    write_file,
)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("~", "/home/me"),
        ("~/models/a", "/home/me/models/a"),
        (Path("~/models/a"), "/home/me/models/a"),
        ("~root/a", "/root/a"),
        ("~nobody-is-called-so/a", "~nobody-is-called-so/a"),
        ("a/~/b", "a/~/b"),
        ("./~", "~"),
    ],
)
def test_a_users_path_may_begin_with_the_home_folder(given, read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path(given) == Path(read)


def test_every_function_that_takes_a_path_as_a_string_reads_it_as_a_users():
    """``Path(path)`` of a parameter ``path: str | Path`` would take ``~`` for a folder's name."""
    package = Path(storage.__file__).parent
    own = {"storage.py", "fingerprint.py", "checkpoint.py"}  # get paths of the package's
    wrong = []
    for file in (file for file in sorted(package.rglob("*.py")) if file.name not in own):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            paths = {each.arg for each in given if each.annotation and "str | Path" in ast.unparse(each.annotation)}
            for call in ast.walk(function):
                named = {name.id for name in ast.walk(call) if isinstance(name, ast.Name)}
                taken = isinstance(call, ast.Call) and ast.unparse(call.func) == "Path" and named & paths
                if taken and f"{ast.unparse(call)}.expanduser()" not in ast.unparse(function):
                    wrong.append(f"{file.name}:{call.lineno}: {ast.unparse(call)}")
    assert wrong == []


def test_the_cache_may_be_named_from_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", "~/cache")
    assert cache_folder("indexes") == tmp_path / "cache" / "indexes"


def test_room_is_that_of_the_disk_of_a_folder_that_is_to_be_made(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or usage._replace(free=2_000_000))
    require_room(tmp_path / "deep" / "er", 2_000_000, "it")
    with pytest.raises(OSError, match=r"for it: 2,000,001 bytes \(0\.00 GB\) needed, 2,000,000 .*/deep/er; make"):
        require_room(tmp_path / "deep" / "er", 2_000_001, "it")
    assert asked == [tmp_path.resolve()] * 2


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


def in_processes(*jobs):
    """Run each in a fork; return how they ended (0: well)."""
    started = []
    for job in jobs:
        if not (process := os.fork()):
            with suppress(BaseException):
                job()
                os._exit(0)
            os._exit(1)
        started.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]


def test_processes_that_overwrite_one_folder_at_once_all_finish(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_fsync", lambda _: None)

    def overwrite():
        for _ in range(150):
            with finished_folder(tmp_path / "out", overwrite=True) as beside:
                (beside / str(os.getpid())).touch()
        (tmp_path / f"done-{os.getpid()}").touch()

    assert in_processes(overwrite, overwrite, overwrite) == [0, 0, 0]
    done = {path.name.removeprefix("done-") for path in tmp_path.glob("done-*")}
    assert len(list(tmp_path.iterdir())) == 4  # with hidden ones
    assert len(done & {file.name for file in (tmp_path / "out").iterdir()}) == 1


def test_a_process_that_starts_does_not_spoil_anothers_swap(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "new").touch()
    replace, restored = Path.replace, []

    def another_starts(self, target):
        moved = replace(self, target)
        if self.name == "out" and not restored:
            restored.append(self)
            restore_folder(tmp_path / "out")
            assert (tmp_path / "out" / "old").exists()
        return moved

    monkeypatch.setattr(Path, "replace", another_starts)
    finish_folder(tmp_path / "build", tmp_path / "out", overwrite=True)
    assert restored
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_overwritten_too(tmp_path):
    (tmp_path / "out").write_text("a file")
    with finished_folder(tmp_path / "out", overwrite=True) as beside:
        (beside / "new").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["out", "out/new"]


def test_what_cannot_be_put_back_is_not_deleted(tmp_path, monkeypatch):
    aside = storage._new_name(tmp_path / "out", "old")
    aside.mkdir()
    (aside / "weights").touch()
    replace = Path.replace

    def failing(self, target):
        if target.name == "out":
            raise OSError(errno.EIO, "a bad disk")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        restore_folder(tmp_path / "out")
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out" / "weights").exists()


@pytest.mark.parametrize("name", [".out.old", ".out.mine.old", ".out.part", ".out.mine.part"])
def test_hidden_folders_of_others_stay(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years of work")
    restore_folder(tmp_path / "out")
    for _ in range(2):
        with finished_folder(tmp_path / "out", overwrite=True):
            pass
    assert (tmp_path / name / "thesis.tex").exists()


def test_what_a_link_leads_to_is_overwritten(tmp_path):
    (tmp_path / "disk" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "folder")
    with finished_folder(tmp_path / "link", overwrite=True) as beside:
        (beside / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [file.name for file in (tmp_path / "disk" / "folder").iterdir()] == ["new"]


@pytest.mark.parametrize("path", [".", "..", "../folder"])
def test_the_current_folder_is_not_replaced_under_ones_feet(tmp_path, monkeypatch, path):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(ValueError, match="the current folder"), finished_folder(path, overwrite=True):
        pytest.fail("hours of work would be lost at the end")
    with finished_folder("inside") as beside:
        (beside / "new").touch()
    assert (tmp_path / "folder" / "inside" / "new").exists()


@pytest.mark.parametrize(("age", "stays"), [(2, False), (0.5, True)])
def test_what_a_killed_job_left_is_removed_when_nothing_has_changed_for_a_day(tmp_path, age, stays):
    if not (job := os.fork()):
        with finished_folder(tmp_path / "out") as beside:
            (beside / "file").touch()
            for path in (beside / "file", beside):
                os.utime(path, (time.time() - age * 86_400,) * 2)
            (tmp_path / "begun").touch()
            time.sleep(600)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    with finished_folder(tmp_path / "out") as beside:
        (beside / "new").touch()
    assert len(list(tmp_path.glob(".out.*.part"))) == stays
    assert (tmp_path / "out" / "new").exists()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_others_may_read_what_the_umask_lets_them(tmp_path, umask):
    (tmp_path / "private").touch(mode=0o600)
    before = os.umask(umask)
    try:
        with finished_folder(tmp_path / "out") as beside:
            (beside / "deep").mkdir()
            for file in (beside / "weights", beside / "deep" / "weights"):
                file.touch(mode=0o600)  # as safetensors does
            (beside / "link").symlink_to(tmp_path / "private")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))}
    folder, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes == {"out": folder, "deep": folder, "weights": file, "link": 0o600}
