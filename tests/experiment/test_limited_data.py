"""``limited_data_trials`` and the plot of figures against labels."""

import inspect
import random

import numpy as np
import pandas as pd
import pytest
from ir_measures import iter_calc
from pyterrier.measures import RR, nDCG
from scipy import stats

from pyterrier_merge import LoRATraining, labels_plot, limited_data_trials
from pyterrier_merge.collections import from_frames
from pyterrier_merge.experiment import trials as room
from pyterrier_merge.experiment.report.labels_plot import has_several_amounts

TRAIN = LoRATraining(steps=2, batch_size=4, rank=2, learning_rate=0.01, dtype="float32", evaluate_every=2)


@pytest.fixture(scope="module")
def collection(words):
    generator = random.Random(2)
    docs = [{"docno": f"d{number}", "text": " ".join(generator.sample(words, 6))} for number in range(40)]
    topics, qrels = {}, {}
    for split, some in (("train", docs[:16]), ("test", docs[16:28])):
        rows = [(f"{split}-{doc['docno']}", " ".join(doc["text"].split()[:3]), doc["docno"], 1) for doc in some]
        frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "label"])
        topics[split], qrels[split] = frame[["qid", "query"]], frame[["qid", "docno", "label"]]
    return from_frames("limited", docs, topics, qrels)


@pytest.fixture(scope="module")
def found(collection, bert_retriever, bert_language_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path_factory.mktemp("limited")))
        return limited_data_trials(
            collection, bert_retriever, bert_language_model, queries=4, trials=2, folds=2, settings=TRAIN,
            grid=[(0.5, 0.5), (0.25, 1)], depth=2, encoder={"dtype": "float32", "device": "cpu"},
            measures=[nDCG @ 10, RR @ 10], num_results=20,
        )  # fmt: skip


def row(found, name):
    [own] = [row for row in found.table.to_dict("records") if row["name"].split(" (")[0] == name]
    return own


def test_rows_and_labels(found):
    assert found.failed == {}
    labels = {name: row(found, name)["labels"] for name in ("BM25", "source", "merged", "LoRA", "LoRA on merged")}
    # a trial of LoRA on merged uses the sample that its merge was chosen on
    assert labels == {"BM25": 0, "source": 0, "merged": 4, "LoRA": 4, "LoRA on merged": 4}
    assert found.baselines == ("source",)
    assert {len(runs) for runs in found.runs.values()} == {1, 2}


def test_figures_are_means_over_trials_and_then_tested(found, collection):
    qrels = collection.qrels("test").rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})

    def values(run):
        named = run.rename(columns={"qid": "query_id", "docno": "doc_id"})
        return {metric.query_id: metric.value for metric in iter_calc([RR @ 10], qrels, named)}

    # a system whose every trial took no step ranks as the system below it, and is tested as that one alone
    name = next(name for name in found.tests["system"] if name.startswith(("LoRA", "merged")))
    wide = pd.DataFrame([values(run) for run in found.runs[name]])
    assert found.table.set_index("name")["RR@10"][name] == pytest.approx(wide.mean(axis=1).mean())
    assert found.spread.set_index("name")["RR@10"][name] == pytest.approx(wide.mean(axis=1).std(ddof=1))
    source = pd.Series(values(found.runs["source"][0]))
    [test] = found.tests[(found.tests["system"] == name) & (found.tests["measure"] == "RR@10")].to_dict("records")
    difference = wide.mean() - source[wide.columns]
    assert difference.abs().max() > 0
    assert test["p_value"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)


def test_notes_say_how_sure_the_trials_are(found):
    name = row(found, "LoRA")["name"]
    [note] = [note for note in found.notes if note.startswith(f"{name}: nDCG@10 over 2 trials, standard deviation ")]
    assert note.endswith("of both queries and trials (two-way bootstrap).")
    assert sum("2-fold cross-validation within the sample" in note for note in found.notes) == 4


def test_one_per_cent_and_ten_trials_unless_told_otherwise(collection, monkeypatch):
    sections = {}
    monkeypatch.setattr(room, "compare", lambda systems, *_, **__: sections.update(systems))
    limited_data_trials(collection, "s", "d")
    merged, trained = sections["merged"].sweep, sections["LoRA on merged"]
    assert (merged.fraction, merged.trials, merged.split, merged.pool.depth) == (0.01, 10, "train", 10)
    assert (trained.fraction, trained.trials, trained.choose.folds, trained.of) == (0.01, 10, 5, "merged")
    limited_data_trials(collection, "s", {"train": {}}, queries=7, trials=1)
    assert (sections["LoRA"].fraction, sections["LoRA"].queries, sections["LoRA"].trials) == (None, 7, None)
    assert not [name for name, one in inspect.signature(limited_data_trials).parameters.items() if not one.annotation]


def test_a_sample_of_one_per_cent_can_be_too_small(collection, bert_retriever, bert_language_model):
    with pytest.raises(
        ValueError, match=r"systems\.merged: .*fraction 0\.01 gives 0 of 16 queries.* fraction is 0\.125"
    ):
        limited_data_trials(collection, bert_retriever, bert_language_model)


def test_figures_are_drawn_against_labels(found, tmp_path):
    assert not has_several_amounts(found)
    more = found.table.assign(labels=found.table["labels"].replace({4: 8}))
    other = type(found)(**{**vars(found), "table": more})
    figure = labels_plot(found, other, total=16, path=tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")
    [axes] = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4\n25 %", "8\n50 %"]
    drawn = dict(zip(axes.get_legend_handles_labels()[1], axes.get_legend_handles_labels()[0], strict=True))
    assert set(drawn) == {"BM25", "source", "merged, alphas chosen on train", "LoRA on source", "LoRA on merged"}
    points = drawn["LoRA on source"].lines[0].get_xydata()
    assert points[:, 0].tolist() == [4, 8]
    assert points[:, 1] == pytest.approx(row(found, "LoRA")["nDCG@10"])
    assert drawn["source"].get_ydata()[0] == pytest.approx(row(found, "source")["nDCG@10"])
    with pytest.raises(ValueError, match="no measure is named 'AP'"):
        labels_plot(found, measure="AP")
    nobody = type(found)(**{**vars(found), "table": found.table.assign(labels=pd.array([0] * 5, dtype="Int64"))})
    with pytest.raises(ValueError, match="no system is known to have used labels"):
        labels_plot(nobody)


def test_systems_of_one_line_with_as_many_labels_are_both_drawn(found):
    lines = {name: "trained" if name.startswith("LoRA") else line for name, line in found.lines.items()}
    twins = type(found)(**{**vars(found), "lines": lines})
    drawn = set(labels_plot(twins, twins).axes[0].get_legend_handles_labels()[1])
    second = row(found, "LoRA on merged")["name"]
    assert drawn == {"BM25", "source", "merged, alphas chosen on train", "trained", second}


def test_a_report_draws_several_amounts(found, tmp_path):
    labels = np.where(found.table["name"].str.startswith("LoRA on"), 8, found.table["labels"])
    lines = {name: "LoRA" if name.startswith("LoRA") else line for name, line in found.lines.items()}
    several = type(found)(**{**vars(found), "table": found.table.assign(labels=labels), "lines": lines})
    assert (several.save(tmp_path / "several") / "labels.png").is_file()
    assert not (found.save(tmp_path / "one") / "labels.png").exists()
