"""A search by Optuna, on a made-up landscape: no model is loaded."""

import math
import sys
from dataclasses import replace

import pandas as pd
import pytest
from pyterrier.measures import RR

from pyterrier_merge import MergedE5Encoder, MergeRecipe, Search, Space
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.recipe import Segment
from pyterrier_merge.tuning import measured as room
from pyterrier_merge.tuning.measured import Measuring, source_share
from pyterrier_merge.tuning.score import ScoringTask
from pyterrier_merge.tuning.search import searched


@pytest.fixture
def measuring(bert_retriever, bert_language_model, small_collection, tmp_path, monkeypatch):
    """Points score by how near their alphas are to (.3, .9); what was scored is noted."""
    asked = []

    def score(recipes, task, *_, **__):
        asked.extend(recipes)
        qids = pd.Index(task.topics["qid"])
        heights = {one: 1 - (one.segments[0].alpha - 0.3) ** 2 - (one.segments[-1].alpha - 0.9) ** 2 for one in recipes}
        return {recipe: pd.Series(height, index=qids) for recipe, height in heights.items()}

    monkeypatch.setattr(room, "scores", score)
    recipe = MergeRecipe.halves(str(bert_retriever), str(bert_language_model), 1, 1)
    task = ScoringTask(small_collection, "dev", RR, root=tmp_path, settings={"dtype": "float32", "device": "cpu"})

    def make(space=None):
        return Measuring(space or Space.halves(), recipe, task)

    make.asked = asked
    return make


def test_a_search_finds_the_height_and_has_the_ends(measuring):
    found = searched(measuring(), Search(trials=30))
    best = found.points[found.choose("best")]
    assert math.dist(best.values(), (0.3, 0.9)) < 0.15
    assert {0.0, 1.0} <= {source_share(recipe) for recipe in found.recipes}
    assert all(round(alpha, 2) == alpha for point in found.points for alpha in point.values())


def test_a_killed_search_goes_on_as_if_nothing_had_happened(measuring, monkeypatch, tmp_path):
    whole = searched(measuring(), Search(trials=8, seed=1))
    for file in (tmp_path / "studies").iterdir():
        file.unlink()
    real, calls = room.scores, []

    def killed(*arguments, **settings):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(room, "scores", killed)
    with pytest.raises(KeyboardInterrupt):
        searched(measuring(), Search(trials=8, seed=1))
    monkeypatch.setattr(room, "scores", real)
    assert searched(measuring(), Search(trials=8, seed=1)).points == whole.points
    measuring.asked.clear()
    assert searched(measuring(), Search(trials=8, seed=1)).points == whole.points
    assert len(measuring.asked) == len(whole.points) + 2  # read once more, with source and domain model: no new trial
    assert searched(measuring(), Search(trials=8, seed=2)).points != whole.points


def test_a_budget_of_time_is_that_of_all_runs_together(measuring):
    first = searched(measuring(), Search(seconds=0.001))
    assert len(first.points) == 3  # one trial, source, domain model
    assert searched(measuring(), Search(seconds=0.001)).points == first.points


def test_a_smaller_budget_returns_the_first_points_of_a_larger_one(measuring):
    larger = searched(measuring(), Search(trials=8))
    smaller = searched(measuring(), Search(trials=3))
    assert smaller.points[:3] == larger.points[:3]
    assert len(smaller.points) == 5  # source and domain model, too
    assert searched(measuring(), Search(seconds=1e-9)).points[:1] == larger.points[:1]


def test_what_changes_the_values_is_another_study(measuring, tmp_path):
    """Sizes do not change the merge of all zeros, nor does the text field change a model."""
    plain = measuring()
    sized = replace(plain.models, segments=(Segment(1), Segment(1, size=3)))
    titles = replace(plain.task, settings={**plain.task.settings, "text_field": "title"}, loaded=[])
    for number, other in enumerate((plain, replace(plain, models=sized), replace(plain, task=titles)), 1):
        searched(other, Search(trials=1))
        assert len(list((tmp_path / "studies").iterdir())) == number


def test_methods_and_their_settings_are_searched(measuring):
    space = Space.halves([0.2, 0.8]).with_methods("linear", "ties", density=[0.2, 0.9], normalize=[False])
    found = searched(measuring(space), Search(trials=12))
    methods = {point["method"] for point in found.points}
    assert methods == {"linear", "ties"}
    assert all(("density" in point) == (point["method"] == "ties") for point in found.points)
    assert all(0.2 <= point["density"] <= 0.9 for point in found.points if "density" in point)


def test_the_study_of_another_space_is_refused(measuring, tmp_path):
    searched(measuring(), Search(trials=1))
    [ours] = (tmp_path / "studies").iterdir()
    searched(measuring(Space.halves([0.5, 1])), Search(trials=1))
    [other] = {*(tmp_path / "studies").iterdir()} - {ours}
    other.write_bytes(ours.read_bytes())
    with pytest.raises(ValueError, match=f"{other} is the study of another space .*delete it"):
        searched(measuring(Space.halves([0.5, 1])), Search(trials=2))


def test_what_cannot_be_searched_is_refused(measuring):
    with pytest.raises(ValueError, match="nothing to search"):
        searched(measuring(Space.halves([0.5])), Search(trials=3))
    with pytest.raises(ValueError, match="has fixed points"):
        searched(measuring(Space.halves([(0.5, 1), (1, 1)])), Search(trials=3))
    with pytest.raises(ValueError, match="needs a budget"):
        Search()


def test_optuna_that_is_missing_is_named_with_its_extra(measuring, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier-merge\[search\]'"):
        searched(measuring(), Search(trials=3))


def test_a_search_of_the_public_function(bert_retriever, bert_language_model, small_collection, tmp_path, monkeypatch):
    from pyterrier_merge import sweep

    real, read = Parents.__init__, []
    monkeypatch.setattr(Parents, "__init__", lambda self, *given: read.append(given) or real(self, *given))
    encoder = MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=1, alpha_upper=1, dtype="float32")
    found = sweep(
        encoder, small_collection, space=Space.profile(2), search=Search(trials=2), metric=RR, root=tmp_path / "own"
    )
    assert list(found.point) == ["knot_1", "knot_2"]
    assert len(read) == 1  # for all trials
    assert "The same queries proposed these points" in found.describe()
    assert len(found.table) == 4
    assert len(found.best.recipe.segments) == 4  # the layers of the model
    assert found.plot(tmp_path / "scores.png").axes
