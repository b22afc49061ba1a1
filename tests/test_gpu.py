"""What a GPU changes: nothing but the time. Skipped where there is none; several GPUs are one that is named twice."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from adapters_made import made_adapter

from pyterrier_merge import E5Encoder, FaissIndex, LoRAE5Encoder, MergedE5Encoder, MergeRecipe, Segment
from pyterrier_merge.merging.blending import _kernel
from pyterrier_merge.merging.merger import Merger
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.retrieval.dense.faiss_library import import_faiss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TEXTS = ["fever", "acute renal failure in the heart", "", "pain " * 40, *(f"liver {'pain ' * n}" for n in range(20))]
FAMILIES = ["bert", "mistral"]
TWICE = ["cuda:0", "cuda:0"]


def both(folder, *, dtype="float32", device="cuda", **settings):
    """One encoder on the CPU, one on the GPU."""
    return [E5Encoder(folder, dtype=dtype, device=where, **settings) for where in ("cpu", device)]


@pytest.mark.parametrize("device", ["cuda", TWICE], ids=["one", "two"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_cpu(family, device, request):
    on_cpu, on_gpu = both(request.getfixturevalue(f"{family}_retriever"), device=device, batch_size=2)
    np.testing.assert_allclose(on_gpu.encode_docs(TEXTS), on_cpu.encode_docs(TEXTS), rtol=0, atol=1e-5)
    np.testing.assert_allclose(on_gpu.encode_queries(TEXTS), on_cpu.encode_queries(TEXTS), rtol=0, atol=1e-5)
    assert on_gpu.truncated == on_cpu.truncated


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_the_default_and_lies_near_float32(family, request):
    folder = request.getfixturevalue(f"{family}_retriever")
    exact = E5Encoder(folder, dtype="float32", device="cpu").encode_docs(TEXTS)
    encoder = E5Encoder(folder)
    cosines = (encoder.encode_docs(TEXTS) * exact).sum(axis=1)
    assert encoder._text_model().dtype == torch.bfloat16
    assert cosines.min() > 0.99


@pytest.mark.parametrize("form", ["plain", "DoRA", "embeddings"])
def test_an_adapter_is_merged_on_the_gpu(form, mistral_retriever, tmp_path):
    targets = ["q_proj", "down_proj", *(["embed_tokens"] if form == "embeddings" else [])]
    adapter = made_adapter(mistral_retriever, tmp_path / "a", target_modules=targets, use_dora=form == "DoRA")
    on_cpu, on_gpu = (LoRAE5Encoder(mistral_retriever, adapter, dtype="float32", device=d) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.encode_docs(TEXTS), on_cpu.encode_docs(TEXTS), rtol=0, atol=1e-5)


def test_fast_kernels_are_used(mistral_retriever, bert_retriever):
    mistral, bert = (E5Encoder(folder)._text_model() for folder in (mistral_retriever, bert_retriever))
    assert type(mistral.body.norm).__name__ == "RMSNorm"
    assert mistral._forward_pass.looks_back
    assert not bert._forward_pass.looks_back


def test_gradients_reach_the_queries(mistral_retriever):
    vectors = E5Encoder(mistral_retriever, dtype="float32").encode_queries_torch(TEXTS)
    assert vectors.is_cuda
    assert vectors.requires_grad
    expected = E5Encoder(mistral_retriever, dtype="float32", device="cpu").encode_queries(TEXTS)
    np.testing.assert_allclose(vectors.detach().cpu().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merges_are_those_of_the_cpu(family, dtype, request):
    parents = [request.getfixturevalue(f"{family}_{kind}") for kind in ("retriever", "language_model")]
    bodies = []
    for device in ("cpu", "cuda", TWICE):
        encoder = MergedE5Encoder(*parents, alpha_lower=0.3, alpha_upper=0.9, dtype=dtype, device=device)
        encoder.encode_docs(TEXTS)
        encoder.alpha_lower, encoder.alpha_upper = 0.6, 0.7
        encoder.encode_docs(TEXTS)  # from parents that stay on the GPU
        bodies.append(encoder._text_model().body.cpu().state_dict())
        distances = [(merge.to_source, *merge.to_domains, *merge.apart) for merge in encoder.tensor_merges]
        bodies[-1]["distances"] = torch.tensor(distances)
    on_cpu, *on_gpus = bodies
    for on_gpu in on_gpus:
        assert on_gpu.keys() == on_cpu.keys()
        torch.testing.assert_close(on_gpu.pop("distances"), on_cpu["distances"], rtol=1e-4, atol=1e-6)
        assert [name for name in on_gpu if not torch.equal(on_gpu[name], on_cpu[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_layers_merge_as_on_the_cpu(family, request):
    parents = [request.getfixturevalue(f"{family}_{kind}") for kind in ("retriever", "language_model")]
    segments = (Segment(0.5, parts={"attention": 0.25, "feed_forward": 1}), Segment(1, parts={"feed_forward": 0.3}))
    bodies = []
    for device in ("cpu", "cuda"):
        encoder = MergedE5Encoder.from_recipe(MergeRecipe(*parents, segments), dtype="bfloat16", device=device)
        weights = [(merge.name, merge.part, merge.weights) for merge in encoder.tensor_merges]
        bodies.append((encoder._text_model().body.cpu().state_dict(), weights))
    (on_cpu, expected), (on_gpu, found) = bodies
    assert found == expected
    assert [name for name in on_gpu if not torch.equal(on_gpu[name], on_cpu[name])] == []


def test_further_gpus_follow_a_merge(bert_retriever, bert_language_model):
    settings = {"alpha_lower": 1, "alpha_upper": 1, "dtype": "float32", "batch_size": 1}
    encoders = [
        MergedE5Encoder(bert_retriever, bert_language_model, device=device, **settings) for device in ("cpu", TWICE)
    ]
    for alpha in (1, 0.25, 0.75):
        for encoder in encoders:
            encoder.alpha_lower = alpha
        on_cpu, on_gpus = (encoder.encode_docs(TEXTS) for encoder in encoders)
        np.testing.assert_allclose(on_gpus, on_cpu, rtol=0, atol=1e-5)


def test_a_merge_takes_one_pass_where_it_can(bert_retriever, bert_language_model, monkeypatch):
    kernel, taken = _kernel(torch.device("cuda", 0)), []
    assert kernel is not None
    settings = {"dtype": "bfloat16", "alpha_lower": 0.3, "alpha_upper": 1}
    one, several = (MergedE5Encoder(bert_retriever, bert_language_model, **settings) for _ in range(2))

    def counted(*given, **more):
        taken.append(1)
        return kernel(*given, **more)

    monkeypatch.setattr("pyterrier_merge.merging.blending._kernel", lambda _device: counted)
    one.encode_docs(TEXTS)
    assert len(taken) == len(one.tensor_merges)
    monkeypatch.setattr("pyterrier_merge.merging.blending._kernel", lambda _device: None)
    several.encode_docs(TEXTS)
    assert len(taken) == len(one.tensor_merges)
    for merge, other in zip(one.tensor_merges, several.tensor_merges, strict=True):
        assert merge.to_source == pytest.approx(other.to_source, rel=1e-2, abs=1e-6)  # rounded otherwise in bfloat16
        assert merge.apart == pytest.approx(other.apart, rel=1e-4)


def test_parents_stay_on_the_gpu(bert_retriever, bert_language_model):
    recipe = MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 0.5)
    body = E5Encoder(bert_retriever, dtype="float32")._text_model().body
    parents = Parents(recipe)
    Merger(body, parents).merge(recipe)
    assert {tensor.device for tensor in parents._resident.values()} == {torch.device("cuda", 0)}


def test_what_is_random_is_the_same_every_time(bert_retriever, bert_language_model):
    settings = {"method": "dare_linear", "parameters": {"density": 0.5, "normalize": False}}
    encoders = [
        MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1, **settings)
        for _ in range(2)
    ]
    _kernel.cache_clear()  # its trial is to leave the generator alone, too
    generator = torch.cuda.get_rng_state()
    MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1).encode_docs(TEXTS)
    first, second = (encoder.encode_docs(TEXTS) for encoder in encoders)
    assert np.array_equal(first, second)
    assert torch.equal(generator, torch.cuda.get_rng_state())


def test_a_batch_that_does_not_fit_is_halved(bert_retriever, caplog):
    texts = [f"fever {'pain ' * (n % 28)}" for n in range(20_000)]
    on_cpu, on_gpu = both(bert_retriever, batch_size=100_000)
    expected = on_cpu.encode_docs(texts[:200])
    on_gpu.encode_docs(texts[:1])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 100e6) / total)
    try:
        with caplog.at_level(logging.WARNING):
            vectors = on_gpu.encode_docs(texts)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "do not fit into the memory of cuda" in caplog.text
    np.testing.assert_allclose(vectors[:200], expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """5,000 documents of 24 dimensions, some of them twice."""
    matrix = np.random.default_rng(0).standard_normal((5000, 24)).astype(np.float32)
    matrix[1000:1100] = matrix[:100]
    index = FaissIndex(tmp_path_factory.mktemp("dense") / "index", verbose=False)
    index.index({"docno": f"d{row}", "doc_vec": vector} for row, vector in enumerate(matrix))
    return index


@pytest.fixture
def queries():
    vectors = np.random.default_rng(1).standard_normal((7, 24)).astype(np.float32)
    return pd.DataFrame({"qid": [f"q{row}" for row in range(7)], "query_vec": list(vectors)})


@pytest.mark.parametrize("device", ["cuda", TWICE], ids=["one", "two"])
@pytest.mark.parametrize("k", [1, 10, 3000, 6000])
def test_exact_search_finds_what_the_cpu_finds(index, queries, device, k):
    on_cpu, on_gpu = (index.retriever(k, device=where)(queries) for where in (None, device))
    assert on_gpu.equals(on_cpu)  # scores to the last bit


@pytest.mark.parametrize("device", ["cuda", TWICE], ids=["one", "two"])
@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,SQfp16", "IVF16,PQ8np"])
def test_faiss_searches_on_the_gpu(index, queries, factory, device, caplog):
    if not import_faiss().get_num_gpus():
        pytest.skip("this FAISS has no GPU support: needs faiss-gpu")
    settings = {"factory": factory, "nprobe": 16}
    on_cpu, on_gpu = (index.retriever(10, device=where, **settings)(queries) for where in (None, device))
    common = on_cpu.merge(on_gpu, on=["qid", "docno"])
    assert len(common) >= 0.95 * len(on_cpu)
    assert np.array_equal(common["score_x"], common["score_y"])
    with caplog.at_level(logging.INFO):
        many = index.retriever(3000, device=device, **settings)(queries)
    assert "more than FAISS finds on a GPU" in caplog.text
    assert len(many) == 7 * 3000
