import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyterrier_merge import E5Encoder, KnownItemTraining, MergedE5Encoder, known_items, train_domain_model
from pyterrier_merge.collections import from_frames
from pyterrier_merge.training.pairs import pairs_from_collection
from pyterrier_merge.training.provenance import require_untrained, trained_documents

TINY = {"steps": 5, "batch_size": 6, "warmup": 1, "learning_rate": 1e-2, "items": 40, "dtype": "float32"}


def train(texts, base, out=None, **settings):
    settings = KnownItemTraining(**(TINY | settings))
    return train_domain_model(texts, base, out, settings=settings, device="cpu")


def weights(folder):
    return load_file(folder / "model.safetensors")


def moved(folder, base):
    before, after = weights(base), weights(folder)
    assert before.keys() == after.keys()
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


@pytest.fixture(scope="module")
def full(long_collection, bert_retriever, tmp_path_factory):
    return train(long_collection, bert_retriever, tmp_path_factory.mktemp("items") / "full")


def test_the_layers_move_and_nothing_else(full, bert_retriever, mistral_retriever, long_collection, tmp_path):
    layers = {name for name in weights(bert_retriever) if name.startswith("encoder.layer.")}
    assert moved(full, bert_retriever) == layers
    decoder = train(long_collection, mistral_retriever, tmp_path / "out", steps=2)
    assert moved(decoder, mistral_retriever) == set(weights(mistral_retriever)) - {"embed_tokens.weight"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_merged_in(long_collection, bert_retriever, tmp_path, dtype):
    out = train(long_collection, bert_retriever, tmp_path / "out", rank=4, dtype=dtype)
    linear = {
        name
        for name in weights(bert_retriever)
        if name.startswith("encoder.") and weights(bert_retriever)[name].ndim == 2
    }
    assert moved(out, bert_retriever) == linear
    for name in linear:
        singular = torch.linalg.svdvals(weights(out)[name] - weights(bert_retriever)[name])
        assert singular[4] < 1e-4 * singular[0], name
    assert not list(out.glob("adapter*"))
    assert E5Encoder(out, device="cpu").encode_docs(["fever"]).shape == (1, 32)


def test_the_result_is_a_retriever_and_merges(full, bert_retriever):
    settings = {"device": "cpu", "dtype": "float32"}
    source, domain = (E5Encoder(folder, **settings).encode_docs(["fever"]) for folder in (bert_retriever, full))
    merged = MergedE5Encoder(bert_retriever, full, alpha_lower=0.5, alpha_upper=0.5, **settings).encode_docs(["fever"])
    assert not np.array_equal(source, domain)
    assert not np.array_equal(merged, source)


def test_the_report_names_the_documents(full, long_collection):
    report = json.loads((full / "training.json").read_text())
    assert report["objective"] == "known-items"
    items = known_items(long_collection, 40, query="drawn")
    [trained] = trained_documents(full)
    assert trained.docnos == set(items.qrels("train")["docno"])
    assert report["pairs"] == len(trained.docnos) == 20
    assert (trained.collection, trained.fingerprint) == ("long", long_collection.fingerprint)
    require_untrained([full], items, "dev")
    with pytest.raises(ValueError, match="nothing can be chosen on them"):
        require_untrained([full], items, "train")


def test_a_collection_its_items_and_their_pairs_train_the_same(full, long_collection, bert_retriever, tmp_path):
    items = known_items(long_collection, 40, query="drawn")
    for number, given in enumerate((items, pairs_from_collection(items, "train"))):
        out = train(given, bert_retriever, tmp_path / str(number))
        assert all(torch.equal(weight, weights(full)[name]) for name, weight in weights(out).items())
        assert trained_documents(out) == trained_documents(full)


def test_prompts_and_length_of_the_encoder_count(long_collection, bert_retriever, tmp_path):
    contract = E5Encoder(bert_retriever, query_prompt="the ", max_length=10, device="cpu").contract
    settings = KnownItemTraining(**TINY)
    told = train_domain_model(
        long_collection, bert_retriever, tmp_path / "told", settings=settings, contract=contract, device="cpu"
    )
    report = json.loads((told / "training.json").read_text())
    assert E5Encoder(told, device="cpu").contract.query_prompt == "the "
    assert report["tokens"] <= TINY["steps"] * 2 * TINY["batch_size"] * 10
    plain = train(long_collection, bert_retriever, tmp_path / "plain")
    assert report["tokens"] < json.loads((plain / "training.json").read_text())["tokens"]
    cut = train(long_collection, bert_retriever, tmp_path / "cut", max_length=10)
    assert json.loads((cut / "training.json").read_text())["tokens"] <= report["tokens"]


def test_the_loss_falls(long_collection, bert_retriever, tmp_path):
    out = train(long_collection, bert_retriever, tmp_path / "out", steps=40, learning_rate=3e-3)
    losses = json.loads((out / "training.json").read_text())["loss"]
    assert losses[-1] < losses[0]


def test_dropout_without_an_adapter_is_refused():
    assert KnownItemTraining(rank=4, dropout=0.1).dropout == 0.1
    with pytest.raises(ValueError, match="dropout is of an adapter's input: set 'rank'"):
        KnownItemTraining(dropout=0.1)


def test_what_is_no_collection_is_refused(bert_retriever, small_collection, tmp_path):
    with pytest.raises(ValueError, match="needs a collection, or pairs; found list"):
        train(["acute fever"], bert_retriever, tmp_path / "out")
    with pytest.raises(ValueError, match="30 documents that are too short"):
        train(small_collection, bert_retriever, tmp_path / "out")
    with pytest.raises(ValueError, match=r"KnownItemTraining is for objective='known-items', found 'masked'"):
        train_domain_model(small_collection, bert_retriever, objective="masked", settings=KnownItemTraining())
    with pytest.raises(ValueError, match=r"unknown objective 'known_items'; did you mean 'known-items'"):
        train_domain_model(small_collection, bert_retriever, objective="known_items")
    with pytest.raises(ValueError, match="set CUDA_VISIBLE_DEVICES to choose a GPU"):
        train_domain_model(["fever"], bert_retriever, device="cuda:1")
    docs = [{"docno": f"d{number}", "text": "unheardof " * 20} for number in range(10)]
    with pytest.raises(ValueError, match="known items"):
        train(from_frames("strange", docs, {}, {}), bert_retriever, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
