"""The self-test at load, with models that break one clause each."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, MistralConfig, ModernBertConfig, Qwen3Config, XLMRobertaConfig

from pyterrier_merge.encoding.forward_pass import ForwardPass
from pyterrier_merge.encoding.self_test import may_be_padded_left, require_sound
from pyterrier_merge.encoding.text_model import TextModel

IDS = [[1, 2, 3], [4, 5, 6, 7], [8]]


def vectors(ids, *, heeds_padding=True, heeds_order=True):
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids]).float()
    lengths = torch.tensor([[len(row)] for row in ids]) if heeds_padding else longest
    mean = padded.sum(dim=1, keepdim=True) / lengths
    return torch.cat([mean, torch.ones_like(mean)], dim=1) + (0 if heeds_order else torch.arange(len(ids))[:, None])


def test_a_mean_over_the_tokens_is_sound():
    require_sound(vectors, IDS, dtype=torch.float32, name="model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_over_the_padding_is_found_in_any_type(dtype):
    with pytest.raises(RuntimeError, match="model: the vector of a text is not the same alone and padded"):
        require_sound(lambda ids: vectors(ids, heeds_padding=False), IDS, dtype=dtype, name="model")


def test_a_vector_that_depends_on_its_place_is_found():
    def by_place(ids):
        return vectors(ids) if len(ids) == 1 else vectors(ids, heeds_order=False) * torch.tensor([1.0, 0.0])

    with pytest.raises(RuntimeError, match="not the same"):
        require_sound(by_place, IDS, dtype=torch.float32, name="model")


def test_small_differences_are_rounding_in_bfloat16_and_a_fault_in_float32():
    def rounded(ids):
        return vectors(ids) * (1 + 1e-3 * (len(ids) == 1))

    require_sound(rounded, IDS, dtype=torch.bfloat16, name="model")
    with pytest.raises(RuntimeError, match=r"0\.001 of its length apart, expected 1e-05 at most in torch\.float32"):
        require_sound(rounded, IDS, dtype=torch.float32, name="model")


def test_rounding_in_float32_adds_up_from_layer_to_layer():
    def rounded(ids):
        return vectors(ids) * (1 + 2e-5 * (len(ids) == 1))

    require_sound(rounded, IDS, dtype=torch.float32, name="model", layers=32)
    for layers in (None, 6, 12):
        with pytest.raises(RuntimeError, match="expected 1e-05 at most"):
            require_sound(rounded, IDS, dtype=torch.float32, name="model", layers=layers)
    with pytest.raises(RuntimeError, match="the same alone and padded"):  # in bfloat16 nothing is added
        require_sound(
            lambda ids: vectors(ids) * (1 + 0.15 * (len(ids) == 1)), IDS, dtype=torch.bfloat16, name="model", layers=48
        )


def test_nan_is_found():
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        require_sound(lambda ids: vectors(ids) * float("nan"), IDS, dtype=torch.float32, name="model")


def test_a_model_is_tested_when_it_is_loaded(bert_retriever, monkeypatch):
    def without_mask(self, ids):
        longest = max(map(len, ids))
        return real(self, [row + [0] * (longest - len(row)) for row in ids])

    real = ForwardPass.__call__
    monkeypatch.setattr(ForwardPass, "__call__", without_mask)
    with pytest.raises(RuntimeError, match="the pooling or the attention does not heed padding"):
        TextModel(bert_retriever, "tiny", dtype="float32", devices=["cpu"])


def test_a_last_token_that_is_some_word_is_found(mistral_retriever, monkeypatch):
    real = TextModel._tokenise
    monkeypatch.setattr(TextModel, "_tokenise", lambda self, *texts: ([row[:-1] for row in real(self, *texts)[0]], 0))
    with pytest.raises(RuntimeError, match="texts end with different tokens"):
        TextModel(mistral_retriever, "tiny", dtype="float32", devices=["cpu"])


def test_padding_on_the_left_is_a_clause_of_its_own():
    def right_only(ids, *, padding_side="right"):
        return vectors(ids) + (padding_side == "left")

    require_sound(right_only, IDS, dtype=torch.float32, name="model")
    with pytest.raises(RuntimeError, match="not the same padded on the right and on the left"):
        require_sound(right_only, IDS, dtype=torch.float32, name="model", padded_left=True)


def test_nan_in_any_way_of_padding_is_found():
    def left_nan(ids, *, padding_side="right"):
        return vectors(ids) * (float("nan") if padding_side == "left" else 1)

    with pytest.raises(RuntimeError, match="NaN or infinity"):
        require_sound(left_nan, IDS, dtype=torch.float32, name="model", padded_left=True)


def test_rotary_positions_may_be_padded_left_and_tables_of_positions_not():
    assert all(may_be_padded_left(config()) for config in (MistralConfig, Qwen3Config, ModernBertConfig))
    assert not any(may_be_padded_left(config()) for config in (BertConfig, XLMRobertaConfig))


@pytest.mark.parametrize(("family", "passes"), [("bert", 5), ("mistral", 6)])
def test_the_test_costs_a_pass_for_each_text_and_two_or_three_for_all(family, passes, request, monkeypatch):
    real, sides = ForwardPass.__call__, []

    def counted(self, ids, *, padding_side="right"):
        sides.append(padding_side)
        return real(self, ids, padding_side=padding_side)

    monkeypatch.setattr(ForwardPass, "__call__", counted)
    TextModel(request.getfixturevalue(f"{family}_retriever"), "tiny", dtype="float32", devices=["cpu"], task="t")
    assert len(sides) == passes
    assert sides.count("left") == passes - 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_last_token_counted_from_the_left_is_found(mistral_retriever, dtype, monkeypatch):
    """Right for padding on the right alone: what many a hand-written pooling does."""

    def by_count(self, features):
        last = features["attention_mask"].sum(dim=1) - 1
        tokens = features["token_embeddings"]
        return {**features, "sentence_embedding": tokens[torch.arange(len(tokens)), last]}

    monkeypatch.setattr(Pooling, "forward", by_count)
    with pytest.raises(RuntimeError, match="not the same padded on the right and on the left"):
        TextModel(mistral_retriever, "tiny", dtype=dtype, devices=["cpu"], task="t")


@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_a_pooling_that_is_blind_to_the_mask_is_found(family, request, monkeypatch):
    def last_position(self, features):
        return {**features, "sentence_embedding": features["token_embeddings"][:, -1]}

    monkeypatch.setattr(Pooling, "forward", last_position)
    with pytest.raises(RuntimeError, match="tiny: the vector of a text is not the same alone and padded in a batch"):
        TextModel(request.getfixturevalue(f"{family}_retriever"), "tiny", dtype="float32", devices=["cpu"], task="t")


def test_weights_with_nan_are_found(bert_retriever, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.3.output.dense.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="damaged: vectors hold NaN or infinity"):
        TextModel(folder, "damaged", dtype="float32", devices=["cpu"])


def test_an_end_that_is_lost_when_a_text_is_cut_is_found(mistral_retriever, monkeypatch):
    real = TextModel._tokenise

    def cut_last(self, *texts):
        return [row[:-1] if len(row) == self.contract.max_length else row for row in real(self, *texts)[0]], 0

    monkeypatch.setattr(TextModel, "_tokenise", cut_last)
    with pytest.raises(RuntimeError, match="texts end with different tokens"):
        TextModel(mistral_retriever, "tiny", dtype="float32", devices=["cpu"], task="t")


def test_padding_on_the_left_has_a_bound_of_its_own_in_bfloat16():
    """Other clauses keep theirs: 0.15 of a vector's length is rounding from right to left, and a fault elsewhere."""

    def apart(ids, *, padding_side="right"):
        return vectors(ids) * (1 + 0.15 * (padding_side == "left"))

    require_sound(apart, IDS, dtype=torch.bfloat16, name="model", padded_left=True)
    with pytest.raises(RuntimeError, match="padded on the right and on the left"):
        require_sound(apart, IDS, dtype=torch.float32, name="model", padded_left=True)
    with pytest.raises(RuntimeError, match=r"alone and padded in a batch.*expected 0\.1 at most"):
        require_sound(lambda ids: vectors(ids) * (1 + 0.15 * (len(ids) == 1)), IDS, dtype=torch.bfloat16, name="model")
