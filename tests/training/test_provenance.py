import json
import shutil

import pandas as pd
import pytest

from pyterrier_merge import MergedE5Encoder, known_items
from pyterrier_merge.collections import from_frames
from pyterrier_merge.training.pairs import pairs_from_collection, pairs_from_frame
from pyterrier_merge.training.provenance import describe, require_untrained, trained_documents, trained_queries


@pytest.fixture
def parent():
    docs = [{"docno": f"d{n}", "text": f"n{n} " + " ".join(f"w{n * m % 31}" for m in range(15))} for n in range(80)]
    frames = pd.DataFrame([("1", "w1")], columns=["qid", "query"]), pd.DataFrame([("1", "d1", 1)])
    qrels = frames[1].set_axis(["qid", "docno", "label"], axis=1)
    return from_frames("parent", docs, {"train": frames[0], "dev": frames[0]}, {"train": qrels, "dev": qrels})


def model(folder, report):
    folder.mkdir(exist_ok=True)
    (folder / "training.json").write_text(report if isinstance(report, str) else json.dumps(report))
    return folder


def test_known_items_are_described_by_their_documents(parent, tmp_path):
    items = known_items(parent, 20)
    pairs = pairs_from_collection(items)
    docnos = sorted(items.qrels("train")["docno"])
    assert describe(pairs) == {
        "objective": "known-items",
        "items": {"collection": "parent", "fingerprint": parent.fingerprint, "query": "head", "docnos": docnos},
    }
    [trained] = trained_documents(model(tmp_path / "model", {"steps": 3, **describe(pairs)}))
    assert (trained.collection, trained.fingerprint, trained.docnos) == ("parent", parent.fingerprint, set(docnos))


def test_the_kind_of_items_is_that_of_the_pairs_also_of_an_adapter(parent, tmp_path):
    crops = describe(pairs_from_collection(known_items(parent, 20, query="crop")))
    for objective in ("known-items", "lora"):
        report = {**crops, "objective": objective, "settings": {"query": "drawn"}}
        assert trained_queries(model(tmp_path / objective, report)) == ["crop"]


def test_labelled_pairs_and_texts_alone_name_no_document(tmp_path):
    frame = pd.DataFrame({"query": ["a", "b"], "positive": ["x", "y"]})
    assert describe(pairs_from_frame(frame)) == {"objective": "judgements"}
    assert describe(pairs_from_frame(frame, labelled=False)) == {"objective": "known-items"}
    for name in (model(tmp_path / "model", {"objective": "masked"}), tmp_path, "intfloat/e5-mistral-7b-instruct"):
        assert trained_documents(name) == []


@pytest.mark.parametrize("report", ["{", "[]", '{"items": {}}', '{"items": {"collection": "x", "fingerprint": "y"}}'])
def test_a_damaged_report_is_an_error(report, tmp_path):
    with pytest.raises(ValueError, match=r"the training report in .*model is damaged"):
        trained_documents(model(tmp_path / "model", report))


def test_items_of_trained_documents_are_refused(parent, tmp_path):
    items = known_items(parent, 20)
    folder = model(tmp_path / "model", describe(pairs_from_collection(items, "dev")))
    with pytest.raises(
        ValueError, match=r"10 of the 10 dev items of parent-known-items are documents that .*model was"
    ):
        require_untrained(["hub/name", folder], items, "dev")
    require_untrained([folder], items, "train")
    with pytest.raises(ValueError, match="dev items"):
        require_untrained([str(folder)], known_items(parent, 40, seed=1, query="crop"), "dev")


@pytest.mark.parametrize("seed", range(3))
def test_what_trained_on_train_is_chosen_on_dev(seed, parent, tmp_path):
    folder = model(tmp_path / "model", describe(pairs_from_collection(known_items(parent, 40))))
    require_untrained([folder], known_items(parent, 40, seed=seed), "dev")


def test_labels_and_other_collections_are_not_refused(parent, tmp_path):
    items = known_items(parent, 20)
    folder = model(tmp_path / "model", describe(pairs_from_collection(items, "dev")))
    require_untrained([folder], parent, "dev")
    docs = [{**doc, "text": doc["text"] + " more"} for doc in parent.corpus_iter()]
    others = {split: (parent.topics(split), parent.qrels(split)) for split in ("train", "dev")}
    topics, qrels = ({split: pair[place] for split, pair in others.items()} for place in (0, 1))
    require_untrained([folder], known_items(from_frames("another", docs, topics, qrels), 20), "dev")
    with pytest.raises(ValueError, match="dev items"):  # the same name, though a text has changed
        require_untrained([folder], known_items(from_frames("parent", docs, topics, qrels), 20), "dev")


def test_a_saved_merge_and_an_adapter_tell_what_they_were_trained_on(
    parent, bert_retriever, bert_language_model, tmp_path
):
    domain = shutil.copytree(bert_language_model, tmp_path / "domain")
    report = {"settings": {"query": "head", "steps": 3}, **describe(pairs_from_collection(known_items(parent, 20)))}
    model(domain, report)
    merged = MergedE5Encoder(bert_retriever, domain, alpha_lower=0.5, alpha_upper=0.5, device="cpu")
    saved = merged.save(tmp_path / "saved")
    assert trained_documents(saved) == trained_documents(domain) != []
    assert trained_queries(saved) == ["head"]
    again = MergedE5Encoder(saved, bert_language_model, alpha_lower=0.5, alpha_upper=0.5, device="cpu")
    assert trained_documents(again.save(tmp_path / "again")) == trained_documents(domain)
    assert trained_documents(f"{bert_retriever}+{domain}") == trained_documents(domain)
    assert not (saved / "training.json").exists()
    with pytest.raises(ValueError, match="train items"):
        require_untrained([saved], known_items(parent, 20), "train")


@pytest.mark.parametrize("base", [None, "{base}"])
def test_an_adapters_base_is_the_one_that_is_given(base, parent, bert_retriever, tmp_path):
    """Whatever base its configuration names, or none."""
    report = describe(pairs_from_collection(known_items(parent, 20)))
    source = model(shutil.copytree(bert_retriever, tmp_path / "source"), report)
    adapter = model(tmp_path / "adapter", report)
    named = base and base.format(base=source)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": named}))
    (adapter / "adapter_model.safetensors").touch()
    assert len(trained_documents(f"{source}+{adapter}")) == 2
    assert len(trained_documents(f"{bert_retriever}+{adapter}")) == 1


@pytest.mark.parametrize("content", ['{"training": null}', '{"training": ["x"]}', "{"])
def test_a_damaged_record_of_a_merge_is_an_error(content, tmp_path):
    (tmp_path / "merge.json").write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        trained_documents(tmp_path)
    with pytest.raises(ValueError, match=r"merge\.json"):
        trained_queries(tmp_path)
