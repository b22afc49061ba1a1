import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from pyterrier_merge.training.masked import ByteDropout, MaskedLM


@pytest.fixture
def batch():
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 25, size=(20, 9))
    attention = np.ones_like(ids)
    attention[3, 5:] = 0
    predicted = (draw.random(ids.shape) < 0.6) & (attention == 1)
    arrays = {"input_ids": np.where(predicted, 4, ids), "attention_mask": attention, "predicted": predicted}
    return {name: torch.from_numpy(array) for name, array in (arrays | {"tokens": ids[predicted]}).items()}


def masked_lm(base, **changes):
    torch.manual_seed(0)
    return MaskedLM(base, **{"dropout": 0.0, "device": "cpu"} | changes)


def test_the_loss_is_transformers_own(bert_language_model, batch):
    model = BertForMaskedLM.from_pretrained(bert_language_model).eval()
    labels = torch.full(batch["input_ids"].shape, -100)
    labels[batch["predicted"]] = batch["tokens"]
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    theirs.backward()
    ours = masked_lm(bert_language_model)
    assert not ours.fresh_head
    assert len(batch["tokens"]) > 64  # more than one part of the loss
    loss = ours.loss(ours.model, batch)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    loss.backward()
    for (name, expected), (_, found) in zip(model.named_parameters(), ours.model.named_parameters(), strict=True):
        if name.startswith("bert.embeddings."):
            assert found.grad is None
        elif expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-4)
    assert not ours.model.base_model._forward_hooks  # the next user of the model sees all positions


def test_the_head_learns_alone_where_it_is_told_to(bert_retriever):
    model = masked_lm(bert_retriever)
    assert model.fresh_head
    model.train_head_only(True)
    assert {name.split(".")[0] for name, weight in model.model.named_parameters() if weight.requires_grad} == {"cls"}
    model.train_head_only(False)
    learning = {name for name, weight in model.model.named_parameters() if weight.requires_grad}
    assert any(name.startswith("bert.encoder.") for name in learning)
    assert not any(name.startswith("bert.embeddings.") for name in learning)


def test_byte_dropout_drops_its_share():
    layer, ones = ByteDropout(0.25), torch.ones(300, 1001)
    torch.manual_seed(0)
    kept = layer(ones)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.004)  # 5 standard errors
    assert torch.equal(layer.eval()(ones), ones)
