import copy

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from pyterrier_merge.training.masked_lm import ByteDropout, MaskedLM
from pyterrier_merge.training.masking import MaskedBatch


@pytest.fixture
def batch():
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 25, size=(20, 9))
    attention = np.ones_like(ids)
    attention[3, 5:] = 0
    predicted = (draw.random(ids.shape) < 0.6) & (attention == 1)
    return MaskedBatch(np.where(predicted, 4, ids), attention, predicted, ids[predicted])


def masked_lm(base, **changes):
    torch.manual_seed(0)
    return MaskedLM(base, **{"dropout": 0.0, "weight_decay": 0.0, "dtype": torch.float32, "device": "cpu"} | changes)


def test_a_step_is_what_transformers_and_adamw_make_of_it(bert_language_model, batch):
    model = BertForMaskedLM.from_pretrained(bert_language_model).eval()
    labels = np.full(batch.input_ids.shape, -100)
    labels[batch.predicted] = batch.labels
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}
    loss = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).loss
    loss.backward()
    before = copy.deepcopy(model.bert.encoder.layer[1].output.dense.weight)
    norm = torch.stack(
        [
            weight.grad.norm()
            for name, weight in model.named_parameters()
            if not name.startswith("bert.embeddings.") and weight.grad is not None
        ]
    ).norm()
    gradient = before.grad if before.grad is not None else model.bert.encoder.layer[1].output.dense.weight.grad
    gradient = gradient / max(1.0, norm.item())

    ours = masked_lm(bert_language_model)
    assert not ours.fresh_head
    assert len(batch.labels) > 64  # more than one part of the loss
    assert ours.step(batch, learning_rate=1e-3, head_only=False) == pytest.approx(loss.item(), rel=1e-5)
    # The first step of Adam: the moments, corrected for their bias, are the gradient and its square.
    expected = before - 1e-3 * gradient / (gradient.abs() + 1e-8)
    after = ours.state()["weight.bert.encoder.layer.1.output.dense.weight"]
    torch.testing.assert_close(after, expected.detach(), atol=2e-5, rtol=0)


def test_the_body_stands_still_while_the_head_learns(bert_retriever, batch):
    model = masked_lm(bert_retriever)
    assert model.fresh_head
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    model.step(batch, learning_rate=1e-2, head_only=True)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, model.state()[name])}
    assert moved == {name for name in before if name.startswith("weight.cls.")}


def test_small_steps_add_up_in_bfloat16(bert_language_model, batch):
    model = masked_lm(bert_language_model, dtype=torch.bfloat16)
    name = "weight.bert.encoder.layer.1.output.LayerNorm.weight"  # near 1, where bfloat16 numbers are 0.004 apart
    before = model.state()[name].clone()
    for _ in range(5):
        model.step(batch, learning_rate=1e-4, head_only=False)
    drift = (model.state()[name] - before).abs()
    assert 1e-5 < drift.median() < 6e-4


def test_byte_dropout_drops_its_share():
    layer, ones = ByteDropout(0.25), torch.ones(300, 1001)
    torch.manual_seed(0)
    kept = layer(ones)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.004)  # 5 standard errors
    assert torch.equal(layer.eval()(ones), ones)
