import threading

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from pyterrier_merge import E5Encoder, MergedE5Encoder
from pyterrier_merge.encoding import forward_pass
from pyterrier_merge.encoding.forward_pass import BATCHES_EACH, ForwardPass
from pyterrier_merge.encoding.text_model import TextModel

TEXTS = ["fever", "pain in the liver", "acute renal failure", "a", "the heart rate"]


def load(folder, *devices):
    return TextModel(folder, "tiny", dtype="float32", devices=devices or ("cpu",), task="t")


def encode(model, budget=1000):
    return model.encode(TEXTS, prompt="", budget=budget)[0]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(bert_retriever, monkeypatch, caplog):
    model = load(bert_retriever)
    expected = encode(model)
    real, sizes = ForwardPass.__call__, []

    def small_memory(self, ids):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, ids)

    monkeypatch.setattr(ForwardPass, "__call__", small_memory)
    torch.testing.assert_close(encode(model), expected, rtol=0, atol=1e-6)
    assert sizes == [5, 2, 3, 1, 2]
    assert "do not fit into the memory of cpu" in caplog.text
    sizes.clear()
    torch.testing.assert_close(encode(model), expected, rtol=0, atol=1e-6)
    assert max(sizes) <= 2  # it is remembered
    monkeypatch.setattr(
        ForwardPass, "__call__", lambda self, ids: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        model.encode(["fever"], prompt="", budget=1000)


@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_several_devices_share_the_batches_and_keep_their_order(family, request, monkeypatch):
    folder = request.getfixturevalue(f"{family}_retriever")
    expected = encode(load(folder), budget=1)
    model = load(folder, "cpu", "cpu", "cpu")
    busy = set()
    barrier = threading.Barrier(3, timeout=20)  # each device has a batch before any gives its vectors
    real = ForwardPass.__call__

    def noted(self, ids):
        if id(self) not in busy:
            busy.add(id(self))
            barrier.wait()
        return real(self, ids)

    monkeypatch.setattr(ForwardPass, "__call__", noted)
    torch.testing.assert_close(encode(model, budget=1), expected, rtol=0, atol=1e-6)
    assert len(busy) == 3


def test_an_error_on_one_of_several_devices_comes_out(bert_retriever, monkeypatch):
    model = load(bert_retriever, "cpu", "cpu")
    monkeypatch.setattr(ForwardPass, "__call__", lambda self, ids: (_ for _ in ()).throw(RuntimeError("unplugged")))
    with pytest.raises(RuntimeError, match="unplugged"):
        encode(model)


def test_further_devices_follow_a_merge(bert_retriever, bert_language_model):
    settings = {"alpha_lower": 1, "alpha_upper": 1, "dtype": "float32", "batch_size": 1}
    several = MergedE5Encoder(bert_retriever, bert_language_model, device=["cpu", "cpu"], **settings)
    alone = MergedE5Encoder(bert_retriever, bert_language_model, device="cpu", **settings)
    texts = [f"{text} {other}" for text in TEXTS for other in TEXTS]
    for alpha in (1, 0.25, 0.75):
        several.alpha_lower = alone.alpha_lower = alpha
        torch.testing.assert_close(several.encode_docs(texts), alone.encode_docs(texts), rtol=0, atol=1e-6)
    assert several.fingerprint == alone.fingerprint
    assert several == alone


def test_padding_behind_texts_needs_no_mask_where_tokens_look_back(mistral_retriever, monkeypatch):
    model = SentenceTransformer(str(mistral_retriever), device="cpu")
    ids = [[1, 7, 8, 9], [1, 5, 6, 7, 8, 9, 10], [1]]
    masks, real = [], type(model.transformers_model).forward

    def noted(self, *given, **named):
        masks.append(named.get("attention_mask"))
        return real(self, *given, **named)

    monkeypatch.setattr(type(model.transformers_model), "forward", noted)
    with torch.inference_mode():
        expected = ForwardPass(model, "cpu")(ids)
        unmasked = ForwardPass(model, "cpu", looks_back=True)
        torch.testing.assert_close(unmasked(ids), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(unmasked(ids, padding_side="left"), expected, rtol=0, atol=1e-6)
    assert [mask is None for mask in masks] == [False, True, False]


def test_texts_that_were_cut_are_counted(bert_retriever):
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    fits, too_long = "fever " * 30, "fever " * 31  # 32 tokens with both ends
    encoder.encode_docs([fits, too_long, "", too_long])
    assert encoder.truncated == 2
    assert encoder(pd.DataFrame({"docno": ["1", "2"], "text": [too_long, fits]})).attrs["truncated"] == 1
    assert encoder.truncated == 3


@pytest.fixture
def cores():
    """A process that computes with three cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def watched(monkeypatch):
    """Note, for each batch, the thread that runs it and how many cores it uses."""
    real, seen = ForwardPass.__call__, []

    def noted(self, ids):
        seen.append((threading.current_thread(), torch.get_num_threads()))
        return real(self, ids)

    monkeypatch.setattr(ForwardPass, "__call__", noted)
    return seen


@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_each_core_takes_batches_of_its_own(family, request, monkeypatch, cores):
    model = load(request.getfixturevalue(f"{family}_retriever"))
    expected = encode(model, budget=1)
    seen = watched(monkeypatch)
    many = TEXTS * BATCHES_EACH
    vectors, _ = model.encode(many, prompt="", budget=1)
    np.testing.assert_allclose(vectors, np.tile(expected, (BATCHES_EACH, 1)), rtol=0, atol=1e-6)
    assert len(seen) == len(many)
    assert threading.current_thread() not in {thread for thread, _ in seen}
    assert {number for _, number in seen} == {1}


@pytest.mark.parametrize(("batches", "limit"), [(BATCHES_EACH * 2 - 1, 3), (BATCHES_EACH * 2, 1)])
def test_with_few_batches_cores_share_them(bert_retriever, monkeypatch, cores, batches, limit):
    model = load(bert_retriever)
    seen = watched(monkeypatch)
    model.encode(["fever"] * batches, prompt="", budget=1)
    assert {number for _, number in seen} == {limit}
    assert len({thread for thread, _ in seen}) <= 2


@pytest.mark.parametrize(("smallest", "texts"), [(1, 2), (9, 3), (256, 24)])
def test_few_texts_are_divided_among_the_cores(bert_retriever, monkeypatch, cores, smallest, texts):
    monkeypatch.setattr(forward_pass, "SMALLEST", smallest)
    model, sizes, real = load(bert_retriever), [], ForwardPass.__call__
    monkeypatch.setattr(ForwardPass, "__call__", lambda self, ids: sizes.append(len(ids)) or real(self, ids))
    model.encode(["fever"] * 24, prompt="", budget=1000)  # 72 tokens: 6 a batch, four batches a core
    assert sizes == [texts] * (24 // texts)
    sizes.clear()
    model.encode(["fever"] * 24, prompt="", budget=3)
    assert sizes == [1] * 24


def test_the_number_of_cores_is_left_as_it_was(bert_retriever, cores):
    load(bert_retriever).encode(TEXTS * BATCHES_EACH, prompt="", budget=1)
    found = [torch.get_num_threads()]
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [cores, cores]


def test_texts_are_read_in_the_callers_thread_and_an_error_of_theirs_comes_out(bert_retriever, cores):
    readers = set()

    def texts():
        for number in range(1000):
            readers.add(threading.current_thread())
            yield f"fever {number}"
        raise ConnectionResetError("the disk went away")

    before = threading.active_count()
    with pytest.raises(ConnectionResetError, match="the disk went away"):
        load(bert_retriever).encode(texts(), prompt="", budget=1)
    assert readers == {threading.current_thread()}
    assert threading.active_count() == before


def test_an_error_on_one_core_comes_out(bert_retriever, monkeypatch, cores):
    model = load(bert_retriever)
    real = ForwardPass.__call__
    calls = iter(range(1000))

    def faulty(self, ids):
        if next(calls) == 20:
            raise RuntimeError("no such instruction")
        return real(self, ids)

    monkeypatch.setattr(ForwardPass, "__call__", faulty)
    with pytest.raises(RuntimeError, match="no such instruction"):
        model.encode(TEXTS * 20, prompt="", budget=1)
