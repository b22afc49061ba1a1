import json
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from pyterrier_merge import CausalTraining, E5Encoder, MergedE5Encoder, train_domain_model
from pyterrier_merge.training import domain
from pyterrier_merge.training.batches import WindowBatches
from pyterrier_merge.training.causal import CausalBatches, CausalLM

TINY = {"steps": 6, "batch_size": 4, "warmup": 2, "learning_rate": 1e-2, "max_length": 12}
BOS, EOS, PAD = 1, 2, 3


@pytest.fixture(scope="module")
def texts(words):
    draw = random.Random(0)
    return [" ".join(draw.choices(words, k=draw.randint(2, 20))) for _ in range(30)]


@pytest.fixture(scope="module")
def contract(mistral_retriever):
    """Of the retriever that the domain model is to be merged with: it ends texts with EOS."""
    return E5Encoder(mistral_retriever, task="fever", device="cpu", dtype="float32").contract


def train(texts, base, out=None, *, contract=None, **settings):
    settings = CausalTraining(**(TINY | {"dtype": "float32"} | settings))
    return train_domain_model(texts, base, out, settings=settings, device="cpu", contract=contract)


def weights(folder):
    return load_file(folder / "model.safetensors")


def batch_of(*rows, pad):
    windows = WindowBatches([np.array(row, dtype=np.int32) for row in rows], len(rows), pad, 0)
    return CausalBatches(windows, 1)[0]


@pytest.fixture(scope="module")
def full(texts, mistral_language_model, contract, tmp_path_factory):
    out = tmp_path_factory.mktemp("causal") / "full"
    return train(texts, mistral_language_model, out, contract=contract, rank=0)


@pytest.mark.parametrize("pad", [PAD, EOS])
def test_the_end_is_told_and_padding_is_not(pad):
    batch = batch_of([BOS, 7, 8, EOS], [BOS, 9, EOS], pad=pad)
    rows = {tuple(row) for row in batch["labels"].tolist()}
    assert rows == {(BOS, 7, 8, EOS), (BOS, 9, EOS, -100)}
    assert sorted(batch["attention_mask"].sum(dim=1).tolist()) == [3, 4]


def test_windows_of_a_single_token_are_left_out(mistral_language_model, tmp_path, monkeypatch):
    """A tokenizer without BOS and EOS makes a single token of "fever", which predicts nothing."""
    real = domain.tokenise_whole
    without = lambda *given, **options: replace(real(*given, **options), before=[], after=[])  # noqa: E731
    monkeypatch.setattr(domain, "tokenise_whole", without)
    some = [*["fever"] * 20, "acute kidney failure"]
    folder = train(some, mistral_language_model, tmp_path / "some", rank=0, steps=3, batch_size=2)
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    with pytest.raises(ValueError, match="no text has two tokens"):
        train(["fever"] * 3, mistral_language_model, tmp_path / "none", rank=0)


def test_all_but_the_embeddings_moves(full, mistral_language_model):
    before, after = weights(mistral_language_model), weights(full)
    assert before.keys() == after.keys()
    assert {name for name, weight in before.items() if torch.equal(weight, after[name])} == {
        "model.embed_tokens.weight"
    }


def test_the_report_says_what_was_done(full, texts):
    report = json.loads((full / "training.json").read_text())
    assert (report["objective"], report["rank"], report["texts"], report["steps"]) == ("causal", 0, 30, 6)
    windows = [len(part) for text in texts for part in np.array_split(text.split(), -(-len(text.split()) // 10))]
    assert report["windows"] == len(windows)  # BOS and EOS around ten words


def test_a_merge_with_it_works(full, mistral_retriever, mistral_language_model):
    settings = {"alpha_lower": 0.5, "alpha_upper": 0.25, "task": "fever", "device": "cpu", "dtype": "float32"}
    ours, base = (MergedE5Encoder(mistral_retriever, domain, **settings) for domain in (full, mistral_language_model))
    assert ours.encode_docs(["acute fever"]).shape == (1, 32)
    assert np.abs(ours.encode_docs(["acute fever"]) - base.encode_docs(["acute fever"])).max() > 1e-3


def test_it_learns(words, mistral_language_model, tmp_path):
    texts = ["acute kidney failure", "chronic liver disease", "high heart rate"] * 10
    out = train(texts, mistral_language_model, tmp_path / "out", steps=60, batch_size=8, learning_rate=3e-3)
    losses = pd.read_csv(out / "training.csv")["loss"]
    assert losses[0] > 2.0  # 25 tokens, guessed blindly: log 25 = 3.2
    assert losses[40:].mean() < 0.8  # the first of three words cannot be told: log 3 / 4 or more


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_merged_in(texts, mistral_language_model, contract, tmp_path, dtype):
    out = train(texts, mistral_language_model, tmp_path / "out", contract=contract, rank=4, dtype=dtype)
    before, after = weights(mistral_language_model), weights(out)
    assert before.keys() == after.keys()
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert moved == {name for name in before if "_proj." in name}
    for name in moved:
        change = after[name] - before[name]
        singular = torch.linalg.svdvals(change)
        assert singular[4] < 1e-4 * singular[0], name  # of rank 4, and nothing is rounded to bfloat16
    assert not list(out.glob("adapter*"))
    assert json.loads((out / "training.json").read_text())["rank"] == 4
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


def test_a_bfloat16_base_stays_so_where_an_adapter_is_trained_in_it(texts, mistral_language_model, tmp_path):
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(mistral_language_model, dtype=torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(mistral_language_model).save_pretrained(base)
    types = {
        (rank, dtype): {
            weight.dtype
            for weight in weights(train(texts, base, tmp_path / f"{rank}-{dtype}", rank=rank, dtype=dtype)).values()
        }
        for rank, dtype in ((4, "bfloat16"), (0, "bfloat16"), (4, "float32"))
    }
    assert types == {
        (4, "bfloat16"): {torch.bfloat16},
        (0, "bfloat16"): {torch.float32},
        (4, "float32"): {torch.float32},
    }


def test_rotary_frequencies_are_not_rounded(mistral_language_model):
    for dtype in (torch.float32, torch.bfloat16):
        model = CausalLM(mistral_language_model, "base", CausalTraining(rank=4), dtype=dtype, device="cpu").model
        assert {name: buffer.dtype for name, buffer in model.named_buffers() if "inv_freq" in name}
        assert {buffer.dtype for name, buffer in model.named_buffers() if "inv_freq" in name} == {torch.float32}


def test_large_models_get_an_adapter(mistral_language_model, monkeypatch):
    def rank(**settings):
        settings = CausalTraining(**settings)
        return CausalLM(mistral_language_model, "base", settings, dtype=torch.float32, device="cpu").rank

    assert rank() == 0
    monkeypatch.setattr("pyterrier_merge.training.causal.LARGE", 1000)
    assert (rank(), rank(rank=0), rank(rank=2)) == (16, 0, 2)


def test_checkpointing_gives_the_same_model(texts, full, mistral_language_model, contract, tmp_path):
    again = train(texts, mistral_language_model, tmp_path / "out", contract=contract, rank=0, checkpointing=True)
    for name, weight in weights(full).items():
        torch.testing.assert_close(weights(again)[name], weight)


@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_killed_run_ends_with_the_same_weights(texts, mistral_language_model, tmp_path, monkeypatch, killed_at):
    def job(out):
        settings = CausalTraining(**TINY, rank=4, dtype="float32")
        return train_domain_model(
            texts, mistral_language_model, tmp_path / out, settings=settings, device="cpu", checkpoint_every=2
        )

    whole, taken, real = job("whole"), [], CausalLM.loss

    def dying(self, *arguments):
        taken.append(1)
        if len(taken) > killed_at:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CausalLM, "loss", dying)
        job("killed")
    resumed, expected = weights(job("killed")), weights(whole)
    assert all(torch.equal(resumed[name], weight) for name, weight in expected.items())


def test_a_base_without_a_head_is_refused(texts, mistral_retriever, bert_retriever, tmp_path):
    with pytest.raises(ValueError, match="a retriever has no head to predict tokens with"):
        train(texts, mistral_retriever, tmp_path / "out")
    with pytest.raises(ValueError, match=r"'bert' model and not a decoder: train it with objective='masked'"):
        train(texts, bert_retriever, tmp_path / "out")
    config = ElectraConfig(vocab_size=25, embedding_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    ElectraForMaskedLM(config).save_pretrained(tmp_path / "electra")
    AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(tmp_path / "electra")
    with pytest.raises(ValueError, match="'electra' model and not a decoder"):  # though it can be told to decode
        train(texts, tmp_path / "electra", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["electra"]


def test_tied_embeddings_of_a_decoder_stay(texts, mistral_language_model, tmp_path):
    """Their head is the embeddings, which a merge takes from the source."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=25, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=BOS)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(mistral_language_model).save_pretrained(tmp_path / "gpt2")
    before, after = weights(tmp_path / "gpt2"), weights(train(texts, tmp_path / "gpt2", tmp_path / "out"))
    unmoved = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    assert "transformer.wte.weight" in unmoved
    assert not any(".h." in name for name in unmoved)
