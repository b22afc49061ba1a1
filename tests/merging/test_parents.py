import pytest
import torch
from transformers import AutoModel

from pyterrier_merge import MergeRecipe
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.merger import Merger
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.methods import get_method, list_methods


@pytest.fixture
def gpu_memory(monkeypatch):
    """Says what a GPU has free; tensors that stay 'there' stay in this machine's memory."""

    def free(megabytes):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (megabytes * 10**6, 10**9))

    return free


def test_parents_stay_on_a_gpu_that_has_room(bert_retriever, bert_language_model, gpu_memory):
    parents = Parents(MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 1))
    like = torch.empty(32, 32)
    name = "encoder.layer.0.output.dense.weight"
    for megabytes, stays in ((100, True), (0.1, False)):
        gpu_memory(megabytes)
        parents.reside(torch.device("cuda", 0))
        like = torch.empty(parents.source.body[name].shape)
        again = parents.read(parents.source, name, like)
        assert (again is parents.read(parents.source, name, like)) == stays
        parents._resident = None


def test_parents_that_stay_do_so_device_by_device(bert_retriever, bert_language_model, gpu_memory):
    parents = Parents(MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 1))
    gpu_memory(100)
    parents.reside(torch.device("cuda", 0))
    name = "encoder.layer.0.output.dense.bias"
    for device in ("cpu", "meta"):
        assert parents.read(parents.source, name, torch.empty(32, device=device)).device.type == device


def test_parents_on_a_cpu_are_read_anew(bert_retriever, bert_language_model):
    parents = Parents(MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 1))
    parents.reside(torch.device("cpu"))
    assert parents._resident is None


@pytest.mark.parametrize("method", [name for name in list_methods() if name not in ("model_stock",)])
def test_no_method_writes_to_parents_that_stay(method, bert_retriever, bert_language_model, gpu_memory):
    parameters = {"ties": {"normalize": False}, "della": {"normalize": False}, "nearswap": {"t": 0.01}}.get(method, {})
    alpha = 0.5 if get_method(method).weighted else None
    recipe = MergeRecipe.halves(
        bert_retriever, bert_language_model, alpha, alpha, method=method, parameters=parameters, embeddings=1
    )
    parents = Parents(recipe)
    gpu_memory(100)
    parents.reside(torch.device("cuda", 0))
    Merger(AutoModel.from_pretrained(bert_retriever, dtype=torch.float32), parents).merge(recipe)
    assert parents._resident
    files = {parents.source: Checkpoint(bert_retriever), parents.domains[0]: Checkpoint(bert_language_model)}
    for (checkpoint, name, _), tensor in parents._resident.items():
        assert torch.equal(tensor, files[checkpoint].tensor(name)), name


def test_a_tensor_of_another_shape_or_none_at_all_is_named(bert_retriever, bert_language_model):
    parents = Parents(MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 1))
    with pytest.raises(ValueError, match=r"has no tensor 'head\.0\.linear\.weight'"):
        parents.read(parents.source, "head.0.linear.weight", torch.empty(1))
    with pytest.raises(ValueError, match=r"'encoder\.layer\.0\.output\.dense\.bias' of .* is \(32,\), not \(31,\)"):
        parents.read(parents.source, "encoder.layer.0.output.dense.bias", torch.empty(31))
