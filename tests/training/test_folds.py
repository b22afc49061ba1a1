"""Cross-validation of the steps; trainings are stood for by the curves that they would leave."""

import pandas as pd
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge import LoRATraining
from pyterrier_merge.training import folds as room
from pyterrier_merge.training.fold_queries import split_into_folds
from pyterrier_merge.training.pairs import pairs_from_collection, pairs_from_frame

CURVES = [  # dev measure by step, of three folds; step 2 has the best mean, (.5 + .3 + .7) / 3
    {0: 0.3, 2: 0.5, 4: 0.6},
    {0: 0.2, 2: 0.3, 4: 0.2},
    {0: 0.4, 2: 0.7, 4: 0.2},
]


@pytest.fixture
def pairs(small_collection):
    return pairs_from_collection(small_collection, "dev")


@pytest.fixture
def trainings(monkeypatch):
    """What was trained: queries, dev queries and settings; each leaves the next curve and an adapter."""
    calls = []

    def train_lora(source, pairs, out, settings, *, dev, split, metric, verbose):
        calls.append((set(pairs.queries["qid"]), set(dev.topics(split)["qid"]), settings))
        out.mkdir(parents=True)
        (out / "adapter_model.safetensors").write_bytes(b"x")
        steps = range(5)
        values = [calls_curves[int(out.name[-1]) - 1].get(step) for step in steps]
        pd.DataFrame({"step": steps, "loss": 1.0, "dev": values}).to_csv(out / "training.csv", index=False)
        if len(calls) == killed.get("at"):
            raise KeyboardInterrupt

    calls_curves, killed = [dict(curve) for curve in CURVES], {}
    monkeypatch.setattr(room, "train_lora", train_lora)
    return calls, calls_curves, killed


def validate(pairs, collection, root):
    settings = LoRATraining(steps=4, evaluate_every=2, patience=1)
    return room.cross_validate(None, pairs, collection, root, settings, split="dev", folds=3, metric=nDCG @ 10)


def test_each_query_is_held_out_once_and_curves_are_averaged(pairs, small_collection, trainings, tmp_path):
    found = validate(pairs, small_collection, tmp_path)
    calls, every = trainings[0], set(pairs.queries["qid"])
    assert len(calls) == 3
    assert sorted(len(held) for _, held, _ in calls) == [3, 3, 4]
    assert set.union(*(held for _, held, _ in calls)) == every
    assert all(trained == every - held for trained, held, _ in calls)
    assert {settings.patience for _, _, settings in calls} == {None}  # every fold has a value at every step
    assert found.curve["step"].tolist() == [0, 2, 4]
    assert found.curve["fold_3"].tolist() == [0.4, 0.7, 0.2]
    assert found.curve["mean"].tolist() == pytest.approx([0.3, 0.5, 1 / 3])
    assert found.best_step == 2


def test_a_killed_cross_validation_goes_on_and_leaves_no_adapters(pairs, small_collection, trainings, tmp_path):
    calls, _, killed = trainings
    killed["at"] = 2
    with pytest.raises(KeyboardInterrupt):
        validate(pairs, small_collection, tmp_path)
    assert room.kept_folds(tmp_path, 3) is None
    (tmp_path / "fold-2" / "training.csv").unlink()
    (tmp_path / "fold-2" / "adapter_model.safetensors").unlink()
    (tmp_path / "fold-2").rmdir()
    assert validate(pairs, small_collection, tmp_path).best_step == 2
    assert len(calls) == 4
    assert validate(pairs, small_collection, tmp_path).curve.equals(room.kept_folds(tmp_path, 3).curve)
    assert len(calls) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-1.csv", "fold-2.csv", "fold-3.csv"]


def test_of_equal_steps_the_first_is_taken(pairs, small_collection, trainings, tmp_path):
    for curve in trainings[1]:
        curve.update({0: 0.5, 2: 0.5, 4: 0.5})
    assert validate(pairs, small_collection, tmp_path).best_step == 0


def test_a_fold_that_diverged_has_no_say_after(pairs, small_collection, trainings, tmp_path):
    del trainings[1][1][4]
    trainings[1][0][4] = 9.0
    found = validate(pairs, small_collection, tmp_path)
    assert found.curve["step"].tolist() == [0, 2]


def test_queries_with_the_same_text_are_in_one_fold():
    frame = pd.DataFrame({"qid": list("abcdef"), "query": ["x", "y", "x", "z", "y", "w"], "docno": list("123456")})
    pairs = pairs_from_frame(frame.assign(text=frame["docno"] + " text"))
    found = split_into_folds(pairs, 2)
    assert sorted(qid for fold in found for qid in fold) == list("abcdef")
    for same in ({"a", "c"}, {"b", "e"}):
        assert any(same <= set(fold) for fold in found)
    assert split_into_folds(pairs, 2) == found
    assert any(split_into_folds(pairs, 2, seed=seed) != found for seed in range(1, 9))
    with pytest.raises(ValueError, match="4 distinct queries cannot be divided into 5 folds"):
        split_into_folds(pairs, 5)
