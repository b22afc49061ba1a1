import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from pyterrier_merge import MergeRecipe, Segment
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.merger import Merger
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.merging.writing import MergedWeights

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture
def frozen(bert_retriever, bert_language_model, tmp_path):
    """A domain model with the source's weights in tensors whose names begin so: what was frozen in its training."""

    def of(*beginnings):
        folder = shutil.copytree(bert_language_model, tmp_path / f"frozen-{len(list(tmp_path.iterdir()))}")
        own, tensors = load_file(bert_retriever / "model.safetensors"), load_file(folder / "model.safetensors")
        kept = {name: own[name.removeprefix("bert.")] for name in tensors if name.startswith(beginnings)}
        assert kept
        save_file({**tensors, **kept}, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return of


@pytest.fixture
def merge(bert_retriever):
    def into_a_live_model(recipe, dtype=torch.float32):
        return Merger(AutoModel.from_pretrained(bert_retriever, dtype=dtype), Parents(recipe)).merge(recipe)

    return into_a_live_model


@DTYPES
def test_a_domain_model_that_is_a_copy_is_named_among_others(
    dtype, merge, bert_retriever, bert_language_model, tmp_path
):
    copy = shutil.copytree(bert_retriever, tmp_path / "copy")
    recipe = MergeRecipe.halves(bert_retriever, [bert_language_model, copy], 0.5, 1)
    with pytest.raises(ValueError, match=r"domain model '\S+/copy' adds nothing: all 32 tensors"):
        merge(recipe, dtype)
    with pytest.raises(ValueError, match=r"domain model '\S+/copy' adds nothing: all 32 tensors"):
        MergedWeights(recipe, dtype=str(dtype).removeprefix("torch.")).write(tmp_path)


def test_a_copy_without_a_weight_is_none_of_the_merges_business(merge, bert_retriever, bert_language_model):
    without = Segment(0.5, domain_weights=(0.5, 0))
    assert merge(MergeRecipe(bert_retriever, [bert_language_model, bert_retriever], (without,)))
    with pytest.raises(ValueError, match="adds nothing: all 32 tensors"):
        merge(MergeRecipe(bert_retriever, [bert_language_model, bert_retriever], (without, Segment(0.5))))


def test_a_copy_is_one_although_the_live_model_is_coarser_than_both(merge, bert_retriever):
    with pytest.raises(ValueError, match="adds nothing: all 64 tensors"):
        merge(MergeRecipe.halves(bert_retriever, bert_retriever, 0.5, 0.5), torch.bfloat16)


def test_a_copy_beside_another_base_is_named(merge, bert_retriever, bert_language_model):
    recipe = MergeRecipe.halves(
        bert_retriever, bert_retriever, 0.5, 0.25, method="task_arithmetic", base=str(bert_language_model)
    )
    with pytest.raises(ValueError, match="adds nothing: all 64 tensors"):
        merge(recipe)


@DTYPES
def test_a_segment_that_the_domain_model_has_from_the_source_is_named(dtype, merge, frozen, bert_retriever, tmp_path):
    domain = frozen("bert.encoder.layer.2.", "bert.encoder.layer.3.")
    message = r"segment 0\.25 was not merged: in its layers \(2 to 3\) all 32 tensors equal .* give the segment alpha 1"
    for lower in (0.25, 0.5):
        with pytest.raises(ValueError, match=message):
            merge(MergeRecipe.halves(bert_retriever, domain, lower, 0.25), dtype)
    with pytest.raises(ValueError, match=message):
        MergedWeights(MergeRecipe.halves(bert_retriever, domain, 0.5, 0.25)).write(tmp_path)
    assert merge(MergeRecipe.halves(bert_retriever, domain, 0.5, 1), dtype)
    assert merge(MergeRecipe.halves(bert_retriever, domain, 0, 0), dtype)  # the domain model itself
    with pytest.raises(ValueError, match="segment 0 was not merged"):
        merge(MergeRecipe.halves(bert_retriever, domain, 0.5, 0), dtype)


def test_what_stays_within_a_segment_that_moves_is_no_error(merge, frozen, bert_retriever):
    domain = frozen("bert.encoder.layer.0.", "bert.encoder.layer.3.", "bert.embeddings.")
    merges = merge(MergeRecipe.halves(bert_retriever, domain, 0.5, 0.5, embeddings=0.5))
    assert {merged.layer for merged in merges if merged.to_source > 0} == {1, 2}


@DTYPES
def test_a_part_that_the_domain_model_has_from_the_source_is_named(dtype, merge, frozen, bert_retriever, tmp_path):
    domain = frozen(*(f"bert.encoder.layer.{layer}.attention." for layer in range(4)))
    parts = {"attention": 0.25, "feed_forward": 0.75}
    recipe = MergeRecipe(bert_retriever, domain, (Segment(0.5, parts=parts), Segment(1)))
    message = (
        r"part 'attention' of segment 0\.5 \(.*\) was not merged: .* \(0 to 1\) all 16 tensors .* the part alpha 1"
    )
    with pytest.raises(ValueError, match=message):
        merge(recipe, dtype)
    with pytest.raises(ValueError, match=message):
        MergedWeights(recipe).write(tmp_path)
    assert merge(MergeRecipe(bert_retriever, domain, (Segment(0.5, parts={**parts, "attention": 1}),)), dtype)
    assert merge(MergeRecipe(bert_retriever, domain, (Segment(0.5),)), dtype)  # layers as a whole have moved


def test_a_segment_that_the_method_weighs_is_named_too(merge, frozen, bert_retriever):
    domain = frozen("bert.encoder.layer.0.", "bert.encoder.layer.1.")
    with pytest.raises(ValueError, match=r"segment - was not merged: in its layers \(0 to 1\)"):
        merge(MergeRecipe.halves(bert_retriever, domain, None, None, method="sce"))
    assert merge(MergeRecipe.halves(bert_retriever, domain, 1, None, method="sce"))


def test_a_segment_that_moves_away_from_another_base_is_merged(merge, frozen, bert_retriever, bert_language_model):
    domain = frozen("bert.encoder.layer.2.", "bert.encoder.layer.3.")
    segments = (Segment(0.5), Segment(0.5, domain_weights=(1,)))
    recipe = MergeRecipe(bert_retriever, domain, segments, method="task_arithmetic", base=bert_language_model)
    assert all(merged.to_source > 0.1 for merged in merge(recipe) if merged.name.endswith("dense.weight"))


@DTYPES
def test_the_report_says_how_far_the_models_lie_apart(dtype, merge, bert_retriever, bert_language_model):
    recipe = MergeRecipe.halves(bert_retriever, [bert_language_model, bert_language_model], 0.25, 0.75)
    source, domain = Checkpoint(bert_retriever), Checkpoint(bert_language_model)
    merger = Merger(AutoModel.from_pretrained(bert_retriever, dtype=dtype), Parents(recipe))
    first, again = merger.merge(recipe), merger.merge(recipe.with_alphas(0.5, 0.5))
    for merged in (*first, *again):
        own = source.tensor(merged.name).double()
        far, norm = (domain.tensor(merged.name).double() - own).norm(), own.norm()
        assert merged.apart == pytest.approx([float(far / norm if norm else far)] * 2, rel=1e-5)
