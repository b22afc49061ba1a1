"""The kind ``encoder``, and the settings that every system with an encoder takes."""

import gc
import weakref

import pytest

from pyterrier_merge import E5Encoder, dense_retriever
from pyterrier_merge.encoding import encoders
from pyterrier_merge.models import fingerprint_model, locate_model


def section(model, **settings):
    return {"kind": "encoder", "model": str(model), "dtype": "float32", **settings}


def test_it_finds_what_the_public_pieces_find(make_bench, bert_retriever, small_collection):
    bench = make_bench({"source": section(bert_retriever)})
    retriever = dense_retriever(E5Encoder(bert_retriever, dtype="float32"), small_collection, num_results=20)
    by_hand = retriever(small_collection.topics("test"))
    found = bench.results("source", "test")
    assert found[["qid", "docno"]].apply(tuple, axis=1).tolist() == sorted(
        by_hand[["qid", "docno"]].apply(tuple, axis=1), key=lambda pair: pair[0]
    )
    prepared = bench.prepared("source")
    assert prepared.encoder.model == str(bert_retriever)
    content = fingerprint_model(locate_model(bert_retriever))
    assert prepared.notes == (f"{bert_retriever} (content {content}), 32 tokens, computed in float32.",)


def test_every_setting_reaches_the_encoder(make_bench, bert_retriever):
    settings = {
        "task": "find it", "query_prompt": "q: ", "document_prompt": "d: ", "max_length": 12, "pooling": "cls",
        "normalize": False, "dtype": "bfloat16", "device": "cpu", "batch_size": 3,
    }  # fmt: skip
    encoder = make_bench({"source": section(bert_retriever, **settings)}).prepared("source").encoder
    assert {name: getattr(encoder, name) for name in settings} == settings


def test_the_task_is_the_collections(make_bench, mistral_retriever, small_collection):
    bench = make_bench({"source": section(mistral_retriever), "own": section(mistral_retriever, task="t")})
    assert bench.prepared("source").encoder.task == small_collection.task
    assert bench.prepared("own").encoder.task == "t"


def test_nothing_is_indexed_before_the_first_query(make_bench, bert_retriever, monkeypatch):
    monkeypatch.setattr(E5Encoder, "encode", lambda *_, **__: pytest.fail("encoded"))
    make_bench({"source": section(bert_retriever)}).prepared("source")


def test_weights_are_let_go_after_preparing_and_after_the_search(make_bench, bert_retriever, monkeypatch):
    """Of ten systems with a 7B model each, memory holds one: without a circle, Python frees it at once."""
    loaded = []
    real = encoders.TextModel

    def remembered(*arguments, **settings):
        model = real(*arguments, **settings)
        loaded.append(weakref.ref(model.body))
        return model

    monkeypatch.setattr(encoders, "TextModel", remembered)
    bench = make_bench({"source": section(bert_retriever, max_length=9)})
    gc.disable()
    try:
        bench.prepared("source")
        assert [model() for model in loaded] == [None]
        bench.results("source", "test")
        assert [model() for model in loaded] == [None, None]
    finally:
        gc.enable()


def test_a_setting_that_the_model_cannot_keep_is_the_reason(make_bench, bert_retriever):
    bench = make_bench({"source": section(bert_retriever, max_length=1000)})
    with pytest.raises(ValueError, match="1000"):
        bench.runs("source")
