"""The folder of a training, and two trainings that want the same one."""

import json
import threading

import pandas as pd
import pytest

from pyterrier_merge.training.checkpoints import Checkpoints, DivergedError
from pyterrier_merge.training.engine import Course
from pyterrier_merge.training.folder import Trained, trained_as, trained_folder

CURVE = pd.DataFrame({"step": [1, 2], "loss": [2.0, float("inf")], "tokens": [3, 4], "seconds": [0.1, 0.1]})


def made(text="made"):
    return Trained(lambda folder: (folder / "model").write_text(text), {"objective": "none"}, Course(CURVE))


def train_in_thread(out, identity, train, **options):
    ended = []

    def job():
        ended.append(trained_folder(out, identity, train, every=1, overwrite=options.get("overwrite", False)))

    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    return thread, ended


@pytest.mark.parametrize("same", [True, False])
def test_of_two_trainings_the_second_waits_for_the_first(tmp_path, caplog, same):
    """It takes the result of the same training; another one comes after it, in a folder of its own."""
    out, begun, go_on, second_is_in = tmp_path / "out", threading.Event(), threading.Event(), []

    def first(checkpoints):
        begun.set()
        (checkpoints.folder / "checkpoint-1").mkdir()
        assert go_on.wait(20)
        return made("first")

    def second(checkpoints):
        second_is_in.append(list(checkpoints.folder.iterdir()))
        assert checkpoints.last() is None
        return made("second")

    one, _ = train_in_thread(out, "one", first)
    assert begun.wait(20)
    other, ended = train_in_thread(out, "one" if same else "other", second, overwrite=not same)
    other.join(0.3)
    assert other.is_alive()
    assert second_is_in == []
    go_on.set()
    one.join(20)
    other.join(20)
    assert ended == [out]
    assert "another process trains in" in caplog.text
    assert (out / "model").read_text() == ("first" if same else "second")
    assert second_is_in == ([] if same else [[]])
    assert list(tmp_path.iterdir()) == [out]


def test_data_are_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "docs.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match="does not hold a training"):
        trained_folder(tmp_path / "out", "one", lambda _: made(), every=1, overwrite=True)
    assert (tmp_path / "out" / "docs.jsonl").read_text() == "mine"
    (tmp_path / "out" / "docs.jsonl").unlink()
    out = trained_folder(tmp_path / "out", "one", lambda _: made(), every=1, overwrite=True)
    assert trained_as(trained_folder(out, "two", lambda _: made(), every=1, overwrite=True)) == "two"


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), OSError("full")])
def test_what_can_be_gone_on_from_stays(tmp_path, error):
    def fail(checkpoints):
        if (tmp_path / "further").exists():
            (checkpoints.folder / "checkpoint-1").mkdir()
        raise error

    with pytest.raises(type(error)):
        trained_folder(tmp_path / "out", "one", fail, every=1, overwrite=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "further").touch()
    with pytest.raises(type(error)):
        trained_folder(tmp_path / "out", "one", fail, every=1, overwrite=False)
    assert (tmp_path / ".out.progress" / "checkpoint-1").is_dir()


def test_nothing_can_be_gone_on_from_after_it_diverged(tmp_path):
    def fail(checkpoints):
        (checkpoints.folder / "checkpoint-1").mkdir()
        raise DivergedError("at step 1")

    with pytest.raises(DivergedError):
        trained_folder(tmp_path / "out", "one", fail, every=1, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_json_whatever_the_loss_was(tmp_path):
    out = trained_folder(tmp_path / "out", "one", lambda _: made(), every=1, overwrite=False)
    report = json.loads((out / "training.json").read_text(), parse_constant=pytest.fail)
    assert (report["loss"], report["tokens"], report["fingerprint"]) == ([2.0], 3, "one")
    assert pd.read_csv(out / "training.csv")["step"].tolist() == [1, 2]


def test_a_model_that_cannot_be_saved_leaves_its_checkpoints(tmp_path):
    from safetensors import SafetensorError

    def train(checkpoints):
        (checkpoints.folder / "checkpoint-1").mkdir(exist_ok=True)

        def full(_folder):
            raise SafetensorError("No space left on device")

        return Trained(full, {}, Course(CURVE))

    with pytest.raises(OSError, match="is the disk full"):
        trained_folder(tmp_path / "out", "one", train, every=1, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == [".out.progress"]


def test_a_folder_without_locks_is_used_all_the_same(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    with Checkpoints(folder=tmp_path / "progress", identity="one", every=1).alone():
        assert (tmp_path / "progress").is_dir()
    assert list(tmp_path.iterdir()) == []
