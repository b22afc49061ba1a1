import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from pyterrier_merge import E5Encoder, LoRAE5Encoder, LoRATraining, MergedE5Encoder, known_items, train_lora
from pyterrier_merge.collections import from_frames
from pyterrier_merge.collections.some_queries import with_queries
from pyterrier_merge.encoding.text_model import TextModel
from pyterrier_merge.training import contrastive, lora
from pyterrier_merge.training.pairs import pairs_from_collection
from pyterrier_merge.training.provenance import trained_documents

TINY = {"steps": 6, "batch_size": 4, "evaluate_every": 2, "dtype": "float32", "learning_rate": 1e-2}
TEXTS = ["acute kidney failure", "fever", "high heart rate and pain of the liver"]


def encoder_of(folder, **settings):
    return E5Encoder(folder, device="cpu", dtype="float32", **settings)


def train(source, pairs, out, *, dev=None, **settings):
    source = source if isinstance(source, E5Encoder) else encoder_of(source)
    return train_lora(source, pairs, out, LoRATraining(**(TINY | settings)), dev=dev, checkpoint_every=2)


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def report(folder):
    return json.loads((folder / "training.json").read_text())


def curve(folder):
    return pd.read_csv(folder / "training.csv")


@pytest.fixture(scope="module")
def live():
    """The last model that was trained."""
    return {}


@pytest.fixture(scope="module")
def trained(some_pairs, bert_retriever, small_collection, tmp_path_factory, live):
    """An adapter of the BERT, measured on the way; its best step is not the source."""
    with pytest.MonkeyPatch.context() as patch:
        real = lora.save_adapter

        def keep(model, folder, name, contract):
            live["vectors"] = TextModel.of(model.eval(), contract, device="cpu").encode(
                TEXTS, prompt=contract.document_prompt, budget=100
            )
            live["base"] = {
                name.replace(".base_layer", ""): weight.detach().clone()
                for name, weight in model.transformers_model.named_parameters()
                if "lora_" not in name
            }
            real(model, folder, name, contract)

        patch.setattr(lora, "save_adapter", keep)
        source = encoder_of(bert_retriever, query_prompt="the ", document_prompt="of ", max_length=16)
        return train(source, some_pairs, tmp_path_factory.mktemp("lora") / "adapter", dev=small_collection)


@pytest.fixture(scope="module")
def mistral_adapter(some_pairs, mistral_retriever, tmp_path_factory):
    source = encoder_of(mistral_retriever, task="the fever")
    return train(source, some_pairs, tmp_path_factory.mktemp("lora") / "mistral", steps=3)


def test_the_adapter_gives_the_vectors_of_the_model_that_was_trained(trained, bert_retriever, live):
    encoder = LoRAE5Encoder(bert_retriever, trained, device="cpu", dtype="float32")
    found = encoder.encode_docs(TEXTS)
    np.testing.assert_allclose(
        found, live["vectors"].vectors if hasattr(live["vectors"], "vectors") else live["vectors"][0], atol=2e-6
    )
    assert report(trained)["best_step"] > 0
    assert np.abs(found - encoder_of(bert_retriever, document_prompt="of ").encode_docs(TEXTS)).max() > 0.01


def test_the_folder_has_the_prompts_and_the_length_that_it_was_trained_with(trained, bert_retriever):
    contract = LoRAE5Encoder(bert_retriever, trained, device="cpu", dtype="float32").contract
    assert (contract.query_prompt, contract.document_prompt, contract.max_length) == ("the ", "of ", 16)


def test_a_training_without_prompts_counts_more_than_the_family(some_pairs, bert_retriever, tmp_path):
    source = tmp_path / "e5-base-v2"
    shutil.copytree(bert_retriever, source)
    out = train(encoder_of(source, query_prompt="", max_length=16), some_pairs, tmp_path / "adapter", steps=2)
    found = LoRAE5Encoder(source, out, device="cpu", dtype="float32")
    assert (found.contract.query_prompt, found.contract.document_prompt) == ("", "passage: ")
    assert LoRAE5Encoder(source, out, device="cpu", query_prompt="my ").contract.query_prompt == "my "


@pytest.mark.parametrize("which", ["bert", "mistral"])
def test_sentence_transformers_reads_it_as_it_is(which, trained, mistral_adapter, bert_retriever, mistral_retriever):
    folder, base = (trained, bert_retriever) if which == "bert" else (mistral_adapter, mistral_retriever)
    plain = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    ours = LoRAE5Encoder(base, folder, device="cpu", dtype="float32")
    np.testing.assert_allclose(plain.encode_document(TEXTS), ours.encode_docs(TEXTS), atol=2e-6)
    np.testing.assert_allclose(plain.encode_query(TEXTS), ours.encode_queries(TEXTS), atol=2e-6)


def test_only_the_adapter_moves(trained, bert_retriever, live):
    for name, weight in load_file(bert_retriever / "model.safetensors").items():
        assert torch.equal(live["base"][name], weight), name


def test_it_adapts_the_linear_modules_of_the_layers(trained, mistral_adapter):
    def modules(folder):
        names = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in adapter(folder)}
        return {name.split(".", 3)[-1] if "encoder" in name else name.split(".", 2)[-1] for name in names}

    assert modules(trained) == {
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    }  # and not pooler.dense
    assert len(adapter(trained)) == 4 * 6 * 2
    projections = [*(f"self_attn.{name}_proj" for name in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert modules(mistral_adapter) == set(projections)
    assert len(adapter(mistral_adapter)) == 4 * 7 * 2


def test_the_report_says_what_was_done(trained, some_pairs, tmp_path):
    found = report(trained)
    assert found["settings"] == LoRATraining(**TINY).model_dump()
    assert found["objective"] == "lora"
    assert found["pairs"] == {"name": "a frame", "queries": 12, "labels": sorted(some_pairs.queries["qid"])}
    assert found["dev"] == "nDCG@10 on dev of small"
    assert (found["device"], found["dtype"], found["diverged_at"]) == ("cpu", "float32", None)
    table = curve(trained)
    assert table["step"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert table.set_index("step")["dev"].notna().tolist() == [True, False, True, False, True, False, True]
    best = table.loc[table["dev"].idxmax()]
    assert found["best_step"] == best["step"]
    assert found["tokens"] == table["tokens"].sum() > 0
    assert found["loss"] == [pytest.approx(table["loss"].mean(), abs=1e-4)]
    names = {path.name for path in trained.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "modules.json", "training.csv"} <= names
    assert not {"README.md", "model.safetensors"} & names
    config = json.loads((trained / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])


def test_only_names_that_the_user_gave_are_in_the_folder(trained, bert_retriever):
    """No other folder of this machine: not the place of the training, no home, no cache."""
    roots = [str(trained.parent), "/root", "/home", str(trained.parents[1])]
    for file in (path for path in trained.rglob("*") if path.suffix in (".json", ".csv")):
        text = file.read_text().replace(str(bert_retriever), "SOURCE")
        assert not any(root in text for root in roots), file


def test_the_dev_measure_is_that_of_the_finished_adapter(trained, bert_retriever, small_collection):
    """What is measured in memory, at the length and with the prompts of the training, is what a user will measure."""
    from ir_measures import nDCG

    from pyterrier_merge import dense_retriever
    from pyterrier_merge.evaluation import measure_runs

    encoder = LoRAE5Encoder(bert_retriever, trained, device="cpu", dtype="float32")
    run = dense_retriever(encoder, small_collection, num_results=100).transform(small_collection.topics("dev"))
    measured = measure_runs({"run": run}, small_collection.qrels("dev"), [nDCG @ 10])["value"].mean()
    assert measured == pytest.approx(curve(trained)["dev"].max())


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("killed_at", [1, 5])
def test_a_killed_training_gives_the_same_adapter(
    some_pairs, bert_retriever, small_collection, tmp_path, monkeypatch, measured, killed_at, trained
):
    dev = small_collection if measured else None
    source = encoder_of(bert_retriever, query_prompt="the ", document_prompt="of ", max_length=16)
    whole = trained if measured else train(source, some_pairs, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        real, taken = contrastive.contrastive_loss, []

        def dying(*arguments, **options):
            loss = real(*arguments, **options)

            def step(*batch):
                taken.append(1)
                if len(taken) > killed_at:
                    raise KeyboardInterrupt
                return loss(*batch)

            return step

        patch.setattr(contrastive, "contrastive_loss", dying)
        train(source, some_pairs, tmp_path / "killed", dev=dev)
    assert not (tmp_path / "killed").exists()
    resumed = train(source, some_pairs, tmp_path / "killed", dev=dev)
    assert same(adapter(resumed), adapter(whole))
    columns = ["step", "loss", "tokens", "dev"]
    assert curve(resumed)[columns].equals(curve(whole)[columns])
    assert report(resumed)["fingerprint"] == report(whole)["fingerprint"]
    assert not list(tmp_path.glob(".*"))


def test_the_source_may_be_best(some_pairs, bert_retriever, small_collection, tmp_path, monkeypatch, caplog):
    values = iter([0.9, 0.1, 0.2, 0.3])
    monkeypatch.setattr("pyterrier_merge.training.dev.DevMeasure.__call__", lambda _self: next(values))
    out = train(bert_retriever, some_pairs, tmp_path / "out", dev=small_collection)
    assert report(out)["best_step"] == 0
    assert "no step of the training was better than" in caplog.text
    caplog.clear()
    found = LoRAE5Encoder(bert_retriever, out, device="cpu", dtype="float32").encode_docs(TEXTS)
    np.testing.assert_array_equal(found, encoder_of(bert_retriever).encode_docs(TEXTS))
    assert "is an adapter of zeros" in caplog.text


def test_patience_and_an_early_stop(some_pairs, bert_retriever, small_collection, tmp_path, monkeypatch):
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr("pyterrier_merge.training.dev.DevMeasure.__call__", lambda _self: next(values))
    out = train(bert_retriever, some_pairs, tmp_path / "out", dev=small_collection, steps=10, patience=2)
    assert (report(out)["best_step"], curve(out)["step"].max()) == (2, 6)
    stopped = train(bert_retriever, some_pairs, tmp_path / "stopped", steps=10, stop_at=3)
    assert curve(stopped)["step"].tolist() == [1, 2, 3]
    whole = train(bert_retriever, some_pairs, tmp_path / "whole", steps=10)
    assert curve(stopped)["loss"].tolist() == curve(whole)["loss"].tolist()[:3]  # the rate is that of ten steps


def test_nan_keeps_the_best_state(some_pairs, bert_retriever, small_collection, tmp_path):
    out = train(bert_retriever, some_pairs, tmp_path / "out", dev=small_collection, learning_rate=1e25)
    found = report(out)
    assert found["diverged_at"] is not None
    assert found["best_step"] < found["diverged_at"]
    assert all(weight.isfinite().all() for weight in adapter(out).values())
    assert "NaN" not in (out / "training.json").read_text()  # which JSON does not have
    with pytest.raises(RuntimeError, match="the training diverged"):
        train(bert_retriever, some_pairs, tmp_path / "none", learning_rate=1e25)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_finished_adapter_is_returned_and_another_is_not_overwritten(
    trained, some_pairs, bert_retriever, small_collection, monkeypatch
):
    source = encoder_of(bert_retriever, query_prompt="the ", document_prompt="of ", max_length=16)
    written = (trained / "adapter_model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(lora, "load_for_training", None)  # nothing is loaded
    assert train(source, some_pairs, trained, dev=small_collection) == trained
    fewer = with_queries(small_collection, "dev", small_collection.topics("dev")["qid"][:5])
    for changes in ({"seed": 1}, {"dev": None}, {"dev": fewer}):
        with pytest.raises(FileExistsError, match="is not the model of this training"):
            train(source, some_pairs, trained, **{"dev": small_collection, **changes})
    assert (trained / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_a_folder_with_a_damaged_report_is_somebody_elses(some_pairs, bert_retriever, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training.json").write_text("{")
    with pytest.raises(FileExistsError, match="is not the model of this training"):
        train(bert_retriever, some_pairs, tmp_path / "out")


def test_what_was_given_is_as_it_was(some_pairs, bert_retriever, tmp_path):
    encoder = encoder_of(bert_retriever)
    settings, frames = encoder.settings(), [some_pairs.queries.copy(), some_pairs.positives.copy()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
    vectors = encoder.encode_docs(TEXTS)
    train(encoder, some_pairs, tmp_path / "out", steps=2)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()) == states
    assert encoder.settings() == settings
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), vectors)
    assert some_pairs.queries.equals(frames[0])
    assert some_pairs.positives.equals(frames[1])


def test_the_seed_decides(some_pairs, bert_retriever, tmp_path):
    first, again, other = (
        adapter(train(bert_retriever, some_pairs, tmp_path / name, steps=2, seed=seed))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert same(first, again)
    assert not same(first, other)


def test_a_bfloat16_base_has_a_float32_adapter(some_pairs, mistral_retriever, small_collection, tmp_path):
    out = train(mistral_retriever, some_pairs, tmp_path / "out", dev=small_collection, dtype="bfloat16", cache=2)
    assert {weight.dtype for weight in adapter(out).values()} == {torch.float32}
    assert report(out)["dtype"] == "bfloat16"
    full = train(mistral_retriever, some_pairs, tmp_path / "full", dtype="float32")
    losses = [curve(folder)["loss"].dropna().to_numpy() for folder in (out, full)]
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=0.1)
    assert not np.array_equal(*losses)


def test_the_length_of_the_settings_is_that_of_training_measuring_and_searching(
    some_pairs, bert_retriever, small_collection, tmp_path, monkeypatch
):
    from pyterrier_merge.training import dev

    lengths, real = [], dev.TextModel.of
    monkeypatch.setattr(
        dev.TextModel,
        "of",
        lambda model, contract, **options: lengths.append(contract.max_length) or real(model, contract, **options),
    )
    out = train(bert_retriever, some_pairs, tmp_path / "out", dev=small_collection, steps=2, max_length=6)
    assert set(lengths) == {6}
    assert report(out)["settings"]["max_length"] == 6
    assert report(out)["tokens"] <= 2 * 2 * 4 * 6
    assert LoRAE5Encoder(bert_retriever, out, device="cpu").contract.max_length == 6
    lengths.clear()  # an encoder with a length of its own searches with that
    source = encoder_of(bert_retriever, max_length=12)
    train(source, some_pairs, tmp_path / "longer", dev=small_collection, steps=2, max_length=6)
    assert set(lengths) == {12}


def test_known_items_are_recorded(long_collection, bert_retriever, tmp_path):
    items = known_items(long_collection, 30)
    out = train(bert_retriever, pairs_from_collection(items, "train"), tmp_path / "out", steps=2)
    [documents] = trained_documents(out)
    assert documents.docnos == set(items.qrels("train")["docno"])
    assert report(out)["pairs"]["labels"] == []


@pytest.mark.parametrize(
    ("targets", "adapted"), [(("query",), 4), (("attention.output.dense", "key"), 8), (("layer.0.output.dense",), 1)]
)
def test_target_modules_of_ones_own(targets, adapted, some_pairs, bert_retriever, tmp_path):
    out = train(bert_retriever, some_pairs, tmp_path / "out", steps=2, target_modules=targets)
    assert len(adapter(out)) == 2 * adapted
    LoRAE5Encoder(bert_retriever, out, device="cpu").encode_docs(TEXTS[:1])


def test_what_is_wrong_is_refused_and_leaves_nothing(
    some_pairs, bert_retriever, small_collection, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"has no linear module 'q_proj'; it has dense, key, query, value"):
        train(bert_retriever, some_pairs, out, target_modules=("query", "q_proj"))
    with pytest.raises(ValueError, match="must not be chosen on test queries"):
        train_lora(bert_retriever, some_pairs, out, dev=small_collection, split="test")
    with pytest.raises(ValueError, match=r"10 of the 10 queries of dev of small are trained on"):
        train(bert_retriever, pairs_from_collection(small_collection, "dev"), out, dev=small_collection)
    for device in ("cuda:1", ["cuda:0", "cuda:1"]):
        with pytest.raises(ValueError, match="set CUDA_VISIBLE_DEVICES to choose a GPU"):
            train_lora(E5Encoder(bert_retriever, device=device), some_pairs, out)
    with pytest.raises(ValueError, match="no two queries can share a batch of 4"):
        train(bert_retriever, some_pairs.only(["q1"]), out)
    with pytest.raises(ValueError, match="more than the 64 positions"):
        train(bert_retriever, some_pairs, out, max_length=65)
    with pytest.raises(FileNotFoundError):
        train(tmp_path / "nowhere", some_pairs, out)
    assert list(tmp_path.iterdir()) == []


def test_a_source_of_several_models_is_refused(some_pairs, bert_retriever, bert_language_model, trained, tmp_path):
    for source in (
        MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1.0, device="cpu"),
        LoRAE5Encoder(bert_retriever, trained, device="cpu"),
    ):
        with pytest.raises(ValueError, match=rf"found a {type(source).__name__}: save a merge"):
            train_lora(source, some_pairs, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_on_top_of_another(some_pairs, bert_retriever, trained, tmp_path):
    name = f"{bert_retriever}+{trained}"
    out = train(name, some_pairs, tmp_path / "out", steps=2)
    first = encoder_of(name).encode_docs(TEXTS)
    second = LoRAE5Encoder(name, out, device="cpu", dtype="float32").encode_docs(TEXTS)
    assert 0 < np.abs(first - second).max() < 0.5


def test_another_sources_adapter_is_refused(trained, bert_retriever, tmp_path):
    other = shutil.copytree(bert_retriever, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] += 1
    from safetensors.torch import save_file

    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="was trained on"):
        LoRAE5Encoder(other, trained, device="cpu").encode_docs(TEXTS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stop_at": 7}, "stop_at=7 is more than the 6 steps"),
        ({"target_modules": ()}, "target_modules"),
        ({"rank": 0}, "rank"),
        ({"patience": 0}, "patience"),
        ({"temperature": 0}, "temperature"),
        ({"momentum": 1}, "momentum"),
    ],
)
def test_wrong_settings_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        LoRATraining(**(TINY | wrong))


def test_dev_without_queries_of_that_split(some_pairs, bert_retriever, small_collection, tmp_path):
    with pytest.raises(ValueError, match="train"):
        train_lora(bert_retriever, some_pairs, tmp_path / "out", dev=small_collection, split="train")
    topics = {"dev": pd.DataFrame([("q", "fever")], columns=["qid", "query"])}
    unjudged = {"dev": pd.DataFrame([("other", "d", 1)], columns=["qid", "docno", "label"])}
    docs = [{"docno": "d", "text": "pain"}]
    with pytest.raises(ValueError, match="judge"):
        train(bert_retriever, some_pairs, tmp_path / "out", dev=from_frames("none", docs, topics, unjudged))
