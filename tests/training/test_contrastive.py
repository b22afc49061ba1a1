import pandas as pd
import pytest
import torch

from pyterrier_merge import E5Encoder, KnownItemTraining, LoRATraining
from pyterrier_merge.training.contrastive import contrastive_loss, load_for_training, prepare
from pyterrier_merge.training.pair_batches import PairBatches


@pytest.fixture(scope="module")
def pairs(some_pairs):
    run = pd.DataFrame(
        [(f"q{n}", f"d{m}", 1 / (m + 1)) for n in range(12) for m in range(12)], columns=["qid", "docno", "score"]
    )
    return some_pairs.with_negatives(run, some_pairs.texts, per_query=3)


def loaded(folder, *, full=True, **settings):
    settings = LoRATraining(batch_size=4, negatives=2, temperature=0.01, dtype="float32", **settings)
    encoder = E5Encoder(folder, device="cpu", max_length=16)
    model, texts, _ = load_for_training(encoder, settings, "cpu", dtype="float32")
    if full:
        prepare(model, "model", rank=0)
    return model, texts, settings


def tevatron(model, batch, *, symmetric):
    """Each query against the texts of all queries, by inner products over the temperature of .01."""

    def encode(part):
        return model(dict(part))["sentence_embedding"]

    queries = encode(batch["query"])
    texts = torch.cat([encode(part) for name, part in batch.items() if name != "query"])
    right = torch.arange(len(queries))
    logits = queries @ texts.T / 0.01
    loss = -torch.log_softmax(logits, dim=1)[right, right].mean()
    if symmetric:
        back = queries @ texts[: len(queries)].T / 0.01
        loss = (loss - torch.log_softmax(back.T, dim=1)[right, right].mean()) / 2
    return loss


def gradients(model):
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("normalize", [None, False])
def test_the_loss_is_tevatrons(bert_retriever, pairs, symmetric, normalize):
    model, texts, settings = loaded(bert_retriever)
    if normalize is False:
        del model[-1]  # inner products are what retrieval scores with, of any length
    batch = PairBatches(pairs, texts, settings, 1)[0]
    loss = contrastive_loss(model, settings, symmetric=symmetric)
    assert loss(model, batch).item() == pytest.approx(tevatron(model, batch, symmetric=symmetric).item(), rel=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_of_the_loss_caching_and_checkpointing_are_the_same(mistral_retriever, pairs, symmetric):
    model, texts, settings = loaded(mistral_retriever)
    batch = PairBatches(pairs, texts, settings, 1)[0]
    tevatron(model, batch, symmetric=symmetric).backward()
    expected = gradients(model)
    assert len(expected) == 4 * 9 + 1  # seven matrices and two norms a layer, and the last norm; no embeddings
    for changes in ({}, {"cache": 3}, {"checkpointing": True}, {"cache": 3, "checkpointing": True}):
        model, texts, settings = loaded(mistral_retriever, **changes)
        model.train()  # recomputing is for training alone; this model has no dropout
        contrastive_loss(model, settings, symmetric=symmetric)(model, batch).backward()
        found = gradients(model)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            scale = expected[name].abs().max()
            torch.testing.assert_close(gradient / scale, expected[name] / scale, atol=2e-4, rtol=0)


def test_texts_of_other_lengths_do_not_change_a_vector(bert_retriever, pairs):
    """Padding to a batch's length has no part in the loss."""
    model, texts, _ = loaded(bert_retriever)
    short, long = (
        texts.documents(["fever pain"]),
        texts.documents(["fever pain", "acute kidney failure of the heart " * 2]),
    )
    alone, beside = (model(dict(batch))["sentence_embedding"][0] for batch in (short, long))
    torch.testing.assert_close(alone, beside)


def test_embeddings_and_what_follows_the_layers_stay_frozen(bert_retriever):
    model, _, _ = loaded(bert_retriever)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".encoder.layer." in name for name in learning)
    assert len(learning) == 4 * 16


def test_dense_modules_are_float32_as_in_an_encoder(bert_retriever, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    retriever = SentenceTransformer(str(bert_retriever), device="cpu")
    retriever.insert(2, Dense(32, 16))
    retriever.to(torch.bfloat16).save(str(tmp_path / "model"))
    encoder = E5Encoder(tmp_path / "model", device="cpu")
    settings = KnownItemTraining(dtype="bfloat16")
    model, _, computed = load_for_training(encoder, settings, "cpu", dtype="stored")
    types = {name.split(".")[0]: weight.dtype for name, weight in model.named_parameters()}
    assert computed == torch.bfloat16
    assert types == {"0": torch.bfloat16, "2": torch.float32}
