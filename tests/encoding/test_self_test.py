"""The self-test at load, with models that break one clause each."""

import pytest
import torch

from pyterrier_merge.encoding.self_test import require_sound
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


def test_nan_is_found():
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        require_sound(lambda ids: vectors(ids) * float("nan"), IDS, dtype=torch.float32, name="model")


def test_a_model_is_tested_when_it_is_loaded(bert_retriever, monkeypatch):
    def without_mask(self, ids):
        longest = max(map(len, ids))
        return real(self, [row + [0] * (longest - len(row)) for row in ids])

    real = TextModel._run
    monkeypatch.setattr(TextModel, "_run", without_mask)
    with pytest.raises(RuntimeError, match="the pooling or the attention does not heed padding"):
        TextModel(bert_retriever, "tiny", dtype="float32", device="cpu")


def test_a_last_token_that_is_some_word_is_found(mistral_retriever, monkeypatch):
    real = TextModel._tokenise
    monkeypatch.setattr(TextModel, "_tokenise", lambda self, *texts: [row[:-1] for row in real(self, *texts)])
    with pytest.raises(RuntimeError, match="texts end with different tokens"):
        TextModel(mistral_retriever, "tiny", dtype="float32", device="cpu")


def test_a_batch_that_does_not_fit_is_halved_until_it_does(bert_retriever, monkeypatch, caplog):
    model = TextModel(bert_retriever, "tiny", dtype="float32", device="cpu")
    texts = ["fever", "pain in the liver", "acute renal failure", "a", "the heart rate"]
    expected = model.encode(texts, prompt="", budget=1000)
    real, sizes = TextModel._run, []

    def small_memory(self, ids):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, ids)

    monkeypatch.setattr(TextModel, "_run", small_memory)
    torch.testing.assert_close(model.encode(texts, prompt="", budget=1000), expected, rtol=0, atol=1e-6)
    assert sizes == [5, 2, 3, 1, 2]
    assert "do not fit" in caplog.text
    sizes.clear()
    torch.testing.assert_close(model.encode(texts, prompt="", budget=1000), expected, rtol=0, atol=1e-6)
    assert max(sizes) <= 2  # it is remembered
    monkeypatch.setattr(TextModel, "_run", lambda self, ids: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        model.encode(["fever"], prompt="", budget=1000)
