"""The kind ``lora``: adapters as given, and trained on all labels, on samples, and on top of a merge."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from pyterrier.measures import RR, nDCG
from several_workers import SeveralWorkers

from pyterrier_merge import E5Encoder, LoRAE5Encoder, LoRATraining, MergedE5Encoder, train_lora
from pyterrier_merge.collections import from_frames
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.evaluation import in_one_order
from pyterrier_merge.experiment.bench import InMemory
from pyterrier_merge.experiment.planning import PlanBench
from pyterrier_merge.experiment.run_folder import RunFolder
from pyterrier_merge.systems import read_system
from pyterrier_merge.systems.lora_training import Made, Training
from pyterrier_merge.training import folds, lora
from pyterrier_merge.training.pairs import pairs_from_collection

TRAIN = {"steps": 2, "batch_size": 4, "rank": 2, "learning_rate": 0.01, "dtype": "float32", "evaluate_every": 1}
ENCODER = {"dtype": "float32", "device": "cpu"}
SAMPLE = {"queries": 5, "trials": 2, "seed": 3}


@pytest.fixture(scope="module")
def labelled(words):
    """Documents of six words; 20 train, 6 dev and 12 test queries, each the first three words of a document."""
    generator = random.Random(0)
    docs = [{"docno": f"d{number}", "text": " ".join(generator.sample(words, 6))} for number in range(50)]
    topics, qrels = {}, {}
    for split, some in (("train", docs[:20]), ("dev", docs[20:26]), ("test", docs[26:38])):
        rows = [(f"{split}-{doc['docno']}", " ".join(doc["text"].split()[:3]), doc["docno"], 1) for doc in some]
        frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "label"])
        topics[split], qrels[split] = frame[["qid", "query"]], frame[["qid", "docno", "label"]]
    return from_frames("labelled", docs, topics, qrels)


@pytest.fixture(scope="module")
def sections(bert_retriever, bert_language_model):
    """Systems of each way to train; merged is chosen on the samples that the others are trained on."""
    sweep = {"grid": [[0.5, 0.5], [0.25, 0.5]], "split": "train", **SAMPLE}
    merge = {"source": str(bert_retriever), "domain": str(bert_language_model), **ENCODER}
    return {
        "BM25": {"kind": "bm25"},
        "source": {"kind": "encoder", "model": str(bert_retriever), **ENCODER},
        "merged": {"kind": "merged", **merge, "sweep": {**sweep, "pool": {"of": ["BM25"], "depth": 2}}},
        "LoRA": {"kind": "lora", "of": "source", "train": TRAIN, **SAMPLE},
        "on merged": {"kind": "lora", "of": "merged", "train": TRAIN, **SAMPLE, "max_length": 24},
        "dev": {
            "kind": "lora",
            "source": str(bert_retriever),
            **ENCODER,
            "train": {**TRAIN, "negatives": 3},
            "negatives": {"of": "BM25", "ranks": [1, 4], "per_query": 4},
            "choose": {"split": "dev", "pool": {"of": ["source"], "depth": 3}, "metric": "RR@10"},
        },
    }


@pytest.fixture(scope="module")
def make(labelled):
    """Make a bench of sections."""
    from pyterrier_merge.experiment.bench import ExperimentBench

    def made(sections, cls=ExperimentBench, **options):
        systems = {name: read_system(section) for name, section in sections.items()}
        given = {"split": "test", "measures": [nDCG @ 10], "num_results": 20, "store": InMemory(), **options}
        return cls(systems=systems, collection=labelled, **given)

    return made


@pytest.fixture(scope="module")
def run(make, sections, tmp_path_factory):
    """All systems trained, and the cache that they leave."""
    cache = tmp_path_factory.mktemp("lora-cache")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTERRIER_MERGE_CACHE", str(cache))
        bench = make(sections)
        bench.check()
        found = {name: [bench.prepared(name, trial) for trial in range(bench.trials(name))] for name in sections}
        runs = {name: bench.runs(name) for name in ("LoRA", "on merged")}
    return SimpleNamespace(found=found, runs=runs, cache=cache, bench=bench)


@pytest.fixture
def kept(run, monkeypatch):
    """The cache of the trained systems; a further training is an error."""
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(run.cache))
    monkeypatch.setattr(lora, "load_for_training", lambda *_, **__: pytest.fail("trained again"))
    return run


def sampled(labelled, trial):
    return pairs_from_collection(labelled).sample(number=5, trial=trial, seed=3)


def test_trials_of_all_systems_have_the_same_samples(run, labelled):
    for trial in range(2):
        qids = sampled(labelled, trial).queries["qid"].tolist()
        for name in ("merged", "LoRA", "on merged"):
            prepared = run.found[name][trial]
            assert prepared.tables["sample"]["qid"].tolist() == qids
            assert prepared.labels == {f"labelled/train/{qid}" for qid in qids}
    assert not run.found["LoRA"][0].tables["sample"].equals(run.found["LoRA"][1].tables["sample"])


def test_several_workers_train_the_trials(make, sections, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    wanted = {name: sections[name] for name in ("BM25", "merged", "on merged")}
    workers = SeveralWorkers(2)
    bench = make(wanted, executor=workers)
    found = [bench.prepared("on merged", trial) for trial in range(bench.trials("on merged"))]
    trained = [item for item in workers.taken if isinstance(item, Training)]
    assert [item.sample.queries["qid"].tolist() for item in trained] == [
        one.tables["sample"]["qid"].tolist() for one in found
    ]
    for here, there in zip(run.found["on merged"], found, strict=True):
        weights = (Path(one.encoder.adapter, "adapter_model.safetensors").read_bytes() for one in (here, there))
        assert len(set(weights)) == 1
        tables = (one.tables["training"].drop(columns="seconds") for one in (here, there))
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    again = make(wanted, executor=(idle := SeveralWorkers(2)))
    assert [one.identity for one in again.systems["on merged"].prepare(again)] == [one.identity for one in found]
    assert not [item for item in idle.taken if isinstance(item, Training)]


def test_an_adapter_is_that_of_the_public_function(run, labelled, bert_retriever, tmp_path):
    source = E5Encoder(bert_retriever, task=labelled.task, **ENCODER)
    adapter = train_lora(source, sampled(labelled, 1), tmp_path / "own", LoRATraining(**TRAIN))
    by_hand = LoRAE5Encoder(bert_retriever, adapter, task=labelled.task, **ENCODER)
    prepared = run.found["LoRA"][1]
    documents = [doc["text"] for doc in labelled.corpus_iter()][:3]
    assert prepared.encoder.encode_docs(documents) == pytest.approx(by_hand.encode_docs(documents), abs=1e-6)
    assert prepared.label == "(2 steps)"
    assert prepared.notes[-1] == "Steps: 2, as given."
    assert prepared.tables["training"]["step"].tolist() == [1, 2]
    assert not run.runs["LoRA"][0].equals(run.runs["LoRA"][1])


def test_an_adapter_on_a_merge(run, labelled):
    """The merge of the same trial is the source; what is said of the encoder goes before what the merge says."""
    for trial in range(2):
        below, prepared = run.found["merged"][trial].encoder, run.found["on merged"][trial]
        assert isinstance(below, MergedE5Encoder)
        saved = MergedE5Encoder.from_recipe(below.recipe, **(below.settings() | {"max_length": 24}))
        assert prepared.encoder.source == str(run.cache / "merges" / saved.fingerprint)
        assert prepared.encoder.max_length == 24
        assert prepared.encoder.dtype == "float32"
        assert prepared.notes[0].startswith(f"LoRA on merged (trial {trial + 1}) (steps 2, ")
        assert prepared.notes[1] == "Trained on 5 of 20 queries of train of labelled, with 5 relevant texts."
    assert str(run.cache) not in str([prepared.notes for prepared in run.found["on merged"]])


def test_steps_are_chosen_on_dev_and_negatives_are_counted(run, labelled):
    [prepared] = run.found["dev"]
    names = {f"labelled/{split}/{qid}" for split in ("train", "dev") for qid in labelled.topics(split)["qid"]}
    assert prepared.labels == names
    curve = prepared.tables["training"].set_index("step")["dev"]
    best = curve.idxmax()
    assert prepared.label == f"({best} steps)"
    pool = pooled(labelled, "dev", [run.bench.results("source", "dev")], depth=3)
    on = f"RR@10 in 6 queries of dev, {pool.num_docs:,} documents"
    assert on in prepared.notes[-1]
    bm25 = in_one_order(run.bench.results("BM25", "train"))
    bm25 = bm25.merge(labelled.qrels("train"), on=["qid", "docno"], how="left")
    counts = bm25[(bm25["rank"] < 4) & bm25["label"].isna()].groupby("qid").size()  # no two documents are the same
    short, very = (20 - (counts >= number).sum() for number in (4, 3))
    assert 0 < very < short
    said = f"Hard negatives: 4 per query, from ranks 1 to 4 of BM25; {short} of 20 queries have fewer, and {very} fewer"
    assert prepared.notes[2] == f"{said} than the 3 of a batch, in which some are repeated."


def test_a_query_that_dev_asks_too_is_not_trained_on(make, sections, labelled, caplog):
    """It would let the best step be chosen on what was learned."""
    bench = make({"source": sections["source"], "BM25": sections["BM25"], "dev": sections["dev"]})
    topics = labelled.topics("train")
    topics.loc[4, "query"] = labelled.topics("dev").loc[0, "query"].upper() + " "
    splits = {split: topics if split == "train" else labelled.topics(split) for split in labelled.splits}
    qrels = {split: labelled.qrels(split) for split in labelled.splits}
    bench.collection = from_frames("labelled", [*labelled.corpus_iter()], splits, qrels)
    [training] = bench.systems["dev"]._trainings(bench)
    assert training.sample.queries["qid"].tolist() == topics["qid"].drop(4).tolist()
    left_out = (
        "1 of 20 queries of train of labelled also occur in dev, such as qid 'train-d4': they are not trained on."
    )
    assert training.notes[1] == left_out
    assert left_out not in caplog.messages
    bench.systems["dev"].check(bench)
    assert caplog.messages.count(left_out) == 1


def test_a_query_that_the_table_asks_too_is_not_trained_on(make, sections, labelled, caplog):
    topics = {split: labelled.topics(split) for split in labelled.splits}
    topics["test"] = topics["test"].assign(
        query=[f" {topics['train']['query'][4].upper()}", *topics["test"]["query"][1:]]
    )
    qrels = {split: labelled.qrels(split) for split in labelled.splits}
    bench = make({"source": sections["source"], "LoRA": {"kind": "lora", "of": "source", "train": TRAIN}})
    bench.collection = from_frames("labelled", [*labelled.corpus_iter()], topics, qrels)
    [training] = bench.systems["LoRA"]._trainings(bench)
    assert training.sample.queries["qid"].tolist() == topics["train"]["qid"].drop(4).tolist()
    assert "1 of 20 queries of train of labelled also occur in test, such as qid 'train-d4'" in training.notes[1]


def test_a_training_that_diverged_is_said_to_have(kept, make, sections):
    [training, _] = make(sections).systems["LoRA"]._trainings(make(sections))
    made = Made(None, 1, {}, diverged_at=2)
    assert "The training diverged at step 2: the best state before it is used." in training.describe(made)
    for steps, said in (([0, 1, 2], False), ([0, 1], True)):
        folds = pd.DataFrame({"step": steps, "mean": 0.5})
        notes = training.describe(Made(None, 1, {"folds": folds}))
        assert ("The training of a fold diverged after step 1: later steps are not compared." in notes) == said


def test_what_is_trained_is_found_again(kept, make, sections, tmp_path):
    bench = make(sections)
    for name, found in kept.found.items():
        assert [bench.prepared(name, trial).identity for trial in range(bench.trials(name))] == [
            one.identity for one in found
        ]
    bench.prepared("LoRA").figures["training"](tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_knows_what_is_trained(kept, make, sections, tmp_path, monkeypatch):
    store = RunFolder(tmp_path / "run", {})
    trained = make(sections, PlanBench, store=store)
    assert [step.kept for step in trained.steps("LoRA") if step.what == "training of an adapter"] == [True, True]
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "empty"))
    other = make(sections, PlanBench, store=store)
    assert [step.kept for step in other.steps("LoRA") if step.what == "training of an adapter"] == [False, False]
    assert [step.kept for step in other.steps("on merged")][:1] == [None]  # the alphas are not known yet
    assert not list((tmp_path / "empty").rglob("*.safetensors"))


def test_no_step_was_better_than_the_source(kept, make, sections, monkeypatch):
    curve = pd.DataFrame({"step": [0, 1, 2], "fold_1": [0.5, 0.4, 0.1], "fold_2": [0.3, 0.4, 0.3]})
    found = folds.CrossValidation(curve.assign(mean=[0.4, 0.4, 0.2]), 0)
    monkeypatch.setattr(folds, "cross_validate", lambda *_, **__: found)
    section = {**sections["LoRA"], "choose": {"folds": 2}}
    bench = make({**sections, "LoRA": section})
    prepared = bench.prepared("LoRA")
    assert prepared.identity == bench.prepared("source").identity
    assert prepared.label == "(0 steps)"
    assert len(prepared.labels) == 5  # they were needed to find out
    assert "Steps: 0, because no step was better than the source (0.4000): nDCG@10 in 2-fold" in prepared.notes[-1]
    assert prepared.tables["folds"].equals(found.curve)


def test_an_adapter_as_given(kept, make, sections, bert_retriever, mistral_retriever):
    adapter = kept.found["LoRA"][0].encoder.adapter
    given = {"kind": "lora", "source": str(bert_retriever), "adapter": adapter, **ENCODER}
    bench = make({"given": given, "of": {"kind": "lora", "of": "source", "adapter": adapter}, **sections})
    bench.check()
    assert bench.prepared("given").identity == kept.found["LoRA"][0].identity == bench.prepared("of").identity
    assert bench.prepared("given").labels is None
    other = make({"given": {**given, "source": str(mistral_retriever)}})
    with pytest.raises(ValueError, match="was trained on"):
        other.prepared("given")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "give either 'adapter', an existing one, or 'train'"),
        ({"train": {}, "adapter": "a"}, "give either 'adapter'"),
        ({"train": {}, "of": "source"}, "give either 'source', a model, or 'of'"),
        ({"adapter": "a", "split": "dev", "fraction": 0.1}, "already trained: leave split, fraction out"),
        ({"train": {}, "trials": 3}, "'trials' are samples of the queries: set their size"),
        ({"train": {}, "queries": 3, "fraction": 0.1}, "give either 'fraction' or 'queries'"),
        ({"train": {}, "fraction": 1, "trials": 2}, "all trials would be the same"),
        ({"train": {}, "fraction": 0}, "fraction: expected a number greater than 0; found 0"),
        ({"train": {"steps": 0}}, r"train\.steps: expected a number greater than or equal to 1; found 0"),
        ({"train": {"step": 1}}, "step"),
        ({"train": {}, "negatives": {"of": "BM25"}}, "train.negatives is 0"),
        ({"train": {"negatives": 2}}, "train.negatives needs 'negatives'"),
        ({"train": {"negatives": 2}, "negatives": {"of": "B"}, "pairs": "f"}, "the negatives are in f, too"),
        ({"train": {}, "pairs": "f", "split": "dev"}, "the pairs are in f"),
        ({"train": {}, "pairs": "f", "choose": {"folds": 2}}, "folds are measured on the collection's judgements"),
        ({"train": {"stop_at": 1}, "choose": {"folds": 2}}, "leave train.stop_at out"),
        ({"train": {"patience": 1}}, "train.patience stops at the best step on other queries: say 'choose'"),
        ({"train": {}, "choose": {}}, "choose by one of 'split', 'folds' and 'steps'; found none"),
        ({"train": {}, "choose": {"split": "dev", "folds": 2}}, "found split and folds"),
        ({"train": {}, "choose": {"folds": 1}}, "greater than or equal to 2"),
        ({"train": {}, "choose": {"steps": [1], "metric": "RR@10"}}, "leave 'pool' and 'metric' out"),
        ({"train": {}, "seed": 7}, r"the training has its own: train: \{seed: \.\.\.\}"),
        ({"train": {"negatives": 2}, "negatives": {"of": "B", "ranks": [9, 3]}}, r"the last one, .*found \[9, 3\]"),
    ],
)
def test_wrong_sections_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        read_system({"kind": "lora", "source": "m", **section})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": 0.01}, "fraction 0.01 gives 0 of 20 queries, and a sample has at least 2"),
        ({"queries": 1}, "a sample has 2 to 20 queries, found 1"),
        ({"queries": 30}, "a sample has 2 to 20 queries, found 30"),
        ({"queries": 4, "choose": {"folds": 5}}, "4 distinct queries cannot be divided into 5 folds"),
        ({"queries": 3, "choose": {"folds": 2}}, "3 distinct queries cannot be divided into 2 folds"),
        ({"split": "test"}, "split: nothing can be chosen on 'test'"),
        ({"split": "trian"}, "no split 'trian' to choose on; did you mean 'train'"),
        ({"choose": {"split": "train"}}, "choose.split: 'train' is trained on"),
        ({"choose": {"split": "test"}}, "choose.split: nothing can be chosen on 'test'"),
        ({"choose": {"split": "dev", "metric": "RR@500"}}, "deeper"),
        ({"choose": {"folds": 2, "metric": "RR(rel=2)@10"}}, "would be 0 for every query"),
        ({"device": "cuda:1"}, "the device of a training is 'cpu' or 'cuda', found 'cuda:1'"),
        ({"choose": {"steps": [1, 2]}}, "2 numbers for 1 trials"),
        ({"min_label": 2}, "none of the 20 judgements of 20 queries has a label of at least 2"),
        ({"train": {**TRAIN, "negatives": 1}, "negatives": {"of": "BM25"}}, "rank 100 is deeper than num_results, 20"),
        ({"of": "LoRA"}, "LoRA: it builds on itself"),
        ({"of": "nothing"}, "no system is named 'nothing'"),
        ({"choose": {"folds": 2, "pool": {"of": ["fused"]}}}, "it builds on itself"),
    ],
)
def test_what_would_show_late_shows_before_any_work(make, sections, change, message):
    fused = {"kind": "fusion", "of": ["BM25", "LoRA"]}
    section = {"kind": "lora", "of": "source", "train": TRAIN, **change}
    with pytest.raises(ValueError, match=message):
        make({"BM25": sections["BM25"], "source": sections["source"], "LoRA": section, "fused": fused}).check()


def test_what_cannot_be_trained_on_says_so(kept, make, sections):
    for below, message in (
        ("BM25", "'BM25' has no encoder; an adapter is trained on a retrieval model or on a merge"),
        ("LoRA", "'LoRA' has a LoRAE5Encoder; an adapter is trained on"),
    ):
        bench = make({**sections, "other": {"kind": "lora", "of": below, "train": TRAIN, "max_length": 24}})
        with pytest.raises(ValueError, match=message):
            bench.prepared("other")
    three = make({**sections, "on merged": {**sections["on merged"], "trials": 3}})
    message = r"numbers of trials differ \(merged 2, samples 3\): use the same number"
    with pytest.raises(ValueError, match=rf"systems\.on merged: {message}"):
        three.check()
    with pytest.raises(ValueError, match=message):
        three.prepared("on merged")


def test_the_number_of_trials_is_known_beforehand(kept, make, sections):
    whole = {**sections["on merged"], "queries": None, "trials": None, "seed": 0}
    rerank = {"kind": "rerank", "first": "source", "by": "on merged"}
    bench = make({**sections, "on merged": whole, "reranked": rerank})
    assert [bench.num_trials(name) for name in ("source", "on merged", "reranked")] == [1, 2, 2]
    assert bench.num_trials("merged") == bench.trials("merged")


def test_pairs_of_a_file_are_not_those_of_the_table(make, sections, labelled, tmp_path):
    topics, file = labelled.topics("test"), tmp_path / "pairs.jsonl"
    further = {"positive_passages": [{"docid": "p", "title": "", "text": "fever"}], "negative_passages": []}
    lines = [{"query_id": row.qid, "query": row.query, **further} for row in topics.itertuples()]
    file.write_text("\n".join(map(json.dumps, lines)))
    section = {"kind": "lora", "of": "source", "train": TRAIN, "pairs": str(file)}
    with pytest.raises(ValueError, match=r"pairs: 12 of 12 queries in pairs\.jsonl are test queries too"):
        make({"source": sections["source"], "LoRA": section}).check()


def test_seeds_and_samples_of_a_merge_go_together(sections):
    merged = {**sections["merged"], "domain": {"train": {}, "seeds": [0, 1, 2]}}
    with pytest.raises(ValueError, match=r"numbers of trials differ \(seeds 3, samples to choose on 2\)"):
        read_system(merged)


def test_a_section_that_was_written_is_read_again(sections):
    given = {"kind": "lora", "of": "source", "adapter": "a", "max_length": 24}
    for section in (given, sections["dev"], {"kind": "lora", "source": "m", "train": TRAIN, "pairs": "f"}):
        system = read_system(section)
        assert read_system(system.model_dump(mode="json")) == system


def test_measures_are_those_of_the_section(make, sections):
    choose = read_system(sections["dev"]).choose
    assert choose.measure(make(sections)) == RR @ 10
