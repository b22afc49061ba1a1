import json
import math
import random
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, DistilBertConfig, DistilBertForMaskedLM

from pyterrier_merge import E5Encoder, MaskedTraining, train_domain_model
from pyterrier_merge.training.masked import MaskedLM

TINY = {"steps": 12, "head_steps": 4, "batch_size": 4, "warmup": 2, "learning_rate": 1e-2, "max_length": 12}


@pytest.fixture(scope="module")
def texts(words):
    draw = random.Random(0)
    return [" ".join(draw.choices(words, k=draw.randint(2, 20))) for _ in range(30)]


def train(texts, base, out=None, **settings):
    return train_domain_model(texts, base, out, settings=MaskedTraining(**(TINY | settings)), device="cpu")


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_layers_move_and_the_embeddings_and_the_pooler_stay(texts, bert_retriever, tmp_path):
    before, after = weights(bert_retriever), weights(train(texts, bert_retriever, tmp_path / "domain"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == name.startswith(("embeddings.", "pooler.")), name


def test_the_model_learns_to_fill_in_the_masks(bert_retriever, tmp_path):
    texts = ["acute kidney failure", "chronic liver disease", "high heart rate"] * 20
    out = train(texts, bert_retriever, tmp_path / "domain", steps=150, batch_size=16, learning_rate=3e-3, dropout=0.0)
    losses = json.loads((out / "training.json").read_text())["loss"]
    assert losses[0] > 2.0  # 25 tokens, guessed blindly: log 25 = 3.2
    assert losses[-1] < 0.8  # most masks of a sentence can be told from the two words beside them


def test_the_folder_is_a_transformers_model_with_its_tokenizer(texts, bert_retriever, tmp_path):
    out = train(texts, bert_retriever, tmp_path / "domain")
    _, loading = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
    assert AutoTokenizer.from_pretrained(out)(texts) == AutoTokenizer.from_pretrained(bert_retriever)(texts)
    config = json.loads((out / "config.json").read_text())
    assert config["attention_probs_dropout_prob"] == 0.1  # the base's own, not what training set


def test_the_report_says_what_was_done(texts, bert_retriever, tmp_path):
    out = train(texts, bert_retriever, tmp_path / "domain", dtype="float32")
    report = json.loads((out / "training.json").read_text())
    assert report["settings"]["steps"] == 12
    assert (report["device"], report["dtype"], report["head_steps"], report["texts"]) == ("cpu", "float32", 4, 30)
    # Windows of 10 words with [CLS] and [SEP], four to a batch.
    words = [len(text.split()) for text in texts]
    windows = sum(math.ceil(count / 10) for count in words)
    assert (report["windows"], report["window"], report["batch_size"], report["steps"]) == (windows, 12, 4, 12)
    assert report["passes"] == round(12 / math.ceil(windows / 4), 2)
    assert report["share_of_text_read"] == 1.0
    assert report["seconds"] > 0
    assert report["versions"]["torch"] == torch.__version__


def test_a_pass_reads_every_token_once(texts, bert_retriever, tmp_path):
    windows = sum(math.ceil(len(text.split()) / 10) for text in texts)
    out = train(texts, bert_retriever, tmp_path / "domain", head_steps=0, steps=math.ceil(windows / 4))
    report = json.loads((out / "training.json").read_text())
    assert report["tokens"] == sum(len(text.split()) for text in texts) + 2 * windows
    assert report["passes"] == 1.0


def test_the_defaults_go_by_the_texts(texts, bert_retriever, tmp_path):
    settings = MaskedTraining(head_steps=1)
    for number, max_length in ((32, None), (24, 24)):
        contract = E5Encoder(bert_retriever, max_length=max_length, dtype="float32", device="cpu").contract
        out = train_domain_model(
            texts, bert_retriever, tmp_path / str(number), settings=settings, contract=contract, device="cpu"
        )
        report = json.loads((out / "training.json").read_text())
        assert (report["window"], report["windows"], report["batch_size"]) == (number, 30, 32)
        assert (report["steps"], report["passes"]) == (10, 10.0)


def test_what_changes_the_tokens_is_part_of_the_identity(texts, bert_retriever):
    def identity(**options):
        contract = E5Encoder(bert_retriever, dtype="float32", device="cpu", **options).contract
        settings = MaskedTraining(**TINY)
        return train_domain_model(texts[:4], bert_retriever, settings=settings, contract=contract, device="cpu").name

    assert identity() == identity(query_prompt="the ") == train(texts[:4], bert_retriever).name
    assert identity() != identity(document_prompt="the ")


def test_the_retrievers_lower_case_counts(bert_retriever, tmp_path):
    """``do_lower_case`` stands in sentence_bert_config.json alone: the tokenizer's own files keep the case."""
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": True}))
    upper = train(["Acute Kidney", "HEART rate"] * 4, folder, tmp_path / "upper")
    lower = train(["acute kidney", "heart rate"] * 4, folder, tmp_path / "lower")
    assert same(weights(upper), weights(lower))


def test_long_texts_and_a_plain_checkpoint(bert_language_model, words, tmp_path):
    text = " ".join(words * 20)  # 400 words: seven windows of 57 or 58 in 62 places
    settings = MaskedTraining(steps=2, head_steps=0)
    out = train_domain_model([text], bert_language_model, tmp_path / "out", settings=settings, device="cpu")
    report = json.loads((out / "training.json").read_text())
    assert (report["windows"], report["window"], report["tokens"]) == (7, 64, 2 * (400 + 7 * 2))


def test_a_decoder_without_sentence_transformers_files_is_refused(texts, mistral_language_model):
    with pytest.raises(ValueError, match=r"'mistral' model: a decoder"):
        train(texts, mistral_language_model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("killed_at", [3, 9])  # while the head learns alone, and in the second epoch
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    texts, bert_retriever, tmp_path, monkeypatch, killed_at, dtype
):
    settings = MaskedTraining(**TINY, dtype=dtype)
    whole = train_domain_model(texts, bert_retriever, tmp_path / "whole", settings=settings, device="cpu")

    resumable = {"settings": settings, "device": "cpu", "checkpoint_every": 2}
    job = partial(train_domain_model, texts, bert_retriever, tmp_path / "killed", **resumable)
    die_at_step(killed_at, monkeypatch, job)
    assert not (tmp_path / "killed").exists()
    steps_left, loss = [], MaskedLM.loss
    with monkeypatch.context() as patch:
        patch.setattr(MaskedLM, "loss", lambda *args: steps_left.append(1) or loss(*args))
        resumed = job()
    # a head whose four steps were cut off begins anew; the whole goes on at its last checkpoint
    assert len(steps_left) == (16 if killed_at < 4 else 16 - 4 - (killed_at - 4) // 2 * 2)
    assert same(weights(whole), weights(resumed))
    reports = [json.loads((folder / "training.json").read_text()) for folder in (whole, resumed)]
    assert [reports[0][name] for name in ("loss", "tokens")] == [reports[1][name] for name in ("loss", "tokens")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_a_checkpoint_of_another_training_is_not_resumed(texts, bert_retriever, tmp_path, monkeypatch):
    whole = train(texts, bert_retriever, tmp_path / "whole", seed=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MaskedLM, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        settings = MaskedTraining(**TINY)
        train_domain_model(
            texts, bert_retriever, tmp_path / "other", settings=settings, device="cpu", checkpoint_every=1
        )
    assert same(weights(whole), weights(train(texts, bert_retriever, tmp_path / "other", seed=1)))


def test_the_seed_decides_and_the_callers_random_numbers_are_left_alone(texts, bert_retriever, tmp_path):
    torch.manual_seed(5)
    first = weights(train(texts, bert_retriever, tmp_path / "first"))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert same(first, weights(train(texts, bert_retriever, tmp_path / "again")))
    assert not same(first, weights(train(texts, bert_retriever, tmp_path / "other", seed=1)))


def test_a_finished_model_is_returned_and_another_is_not_overwritten_unasked(
    texts, bert_retriever, tmp_path, monkeypatch
):
    out = train(texts, bert_retriever)
    assert out.parent.name == "domain-models"
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert train(iter(texts), bert_retriever) == out
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    assert train(texts[1:], bert_retriever) != out

    explicit = train(texts, bert_retriever, tmp_path / "domain")
    kept = weights(explicit)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        train(texts, bert_retriever, explicit, seed=1)
    assert same(kept, weights(explicit))
    settings = MaskedTraining(**TINY, seed=1)
    train_domain_model(texts, bert_retriever, explicit, settings=settings, device="cpu", overwrite=True)
    assert not same(kept, weights(explicit))


def test_the_current_folder_is_refused_before_anything_is_learnt(texts, bert_retriever, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyterrier_merge.training.domain._OnTexts.train", None)
    with pytest.raises(ValueError, match="the current folder"):
        train_domain_model(texts, bert_retriever, tmp_path, device="cpu", overwrite=True)


def test_a_base_with_a_head_keeps_it_and_needs_no_stage_for_it(texts, bert_language_model, tmp_path):
    out = train(texts, bert_language_model, tmp_path / "domain")
    assert json.loads((out / "training.json").read_text())["head_steps"] == 0
    base = {name.removeprefix("bert."): weight for name, weight in weights(bert_language_model).items()}
    trained = weights(out)
    assert not any(
        name.startswith("pooler.") for name in trained
    )  # the base has none, and a random one must not appear
    assert trained.keys() == {name for name in base if not name.startswith("cls.")}


def test_other_encoders_than_bert(texts, bert_retriever, tmp_path):
    config = DistilBertConfig(vocab_size=25, dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=64)
    DistilBertForMaskedLM(config).save_pretrained(tmp_path / "distilbert")
    AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(tmp_path / "distilbert")
    trained = weights(train(texts, tmp_path / "distilbert", tmp_path / "domain"))
    base = {name.removeprefix("distilbert."): weight for name, weight in weights(tmp_path / "distilbert").items()}
    moved = {name for name, weight in trained.items() if not torch.equal(weight, base[name])}
    assert moved == {name for name in trained if name.startswith("transformer.")}


def test_dropout_is_on(texts, bert_retriever, tmp_path):
    plain = weights(train(texts, bert_retriever, tmp_path / "plain", dropout=0.0))
    assert not same(plain, weights(train(texts, bert_retriever, tmp_path / "dropout", dropout=0.1)))


def test_a_decoder_is_refused(texts, mistral_retriever):
    with pytest.raises(ValueError, match=r"'mistral' model: a decoder"):
        train(texts, mistral_retriever)


def test_a_base_that_lacks_weights_is_refused(texts, bert_retriever, tmp_path):
    from safetensors.torch import save_file

    AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((bert_retriever / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="no weights"):
        train(texts, tmp_path)
    partial = {name: weight for name, weight in weights(bert_retriever).items() if "layer.1.output" not in name}
    save_file(partial, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for 4 parameters.*'encoder\.layer\.1\.output"):
        train(texts, tmp_path)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([], "corpus is empty"),
        (["", "  "], "all are empty or blank"),
        (["unheardof", ""], "knows none of their words"),
        ("acute", "single string"),
        (["a", None], "None"),
    ],
)
def test_a_corpus_to_learn_nothing_from_is_refused(corpus, message, bert_retriever):
    with pytest.raises(ValueError, match=message):
        train(corpus, bert_retriever)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"batch_size": True},
        {"head_steps": -1},
        {"max_length": 2},
        {"learning_rate": 0},
        {"weight_decay": -0.1},
        {"mask_probability": 1.0},
        {"dropout": 1.0},
        {"packing": "sentence"},
        {"dtype": "float16"},
    ],
)
def test_wrong_settings_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"validation error for MaskedTraining\n{name}\n"):
        MaskedTraining(**wrong)


def test_more_tokens_than_the_base_can_read_are_refused(texts, bert_retriever):
    with pytest.raises(ValueError, match="max_length=65 is more than the 64 positions"):
        train(texts, bert_retriever, max_length=65)
    with pytest.raises(ValueError, match="checkpoint_every"):
        train_domain_model(texts, bert_retriever, checkpoint_every=0)


def test_several_processes_are_refused(texts, bert_retriever, monkeypatch):
    for name, value in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="objective='masked' trains in one process"):
        train(texts, bert_retriever)


def test_blocks_train_too(texts, bert_retriever, tmp_path):
    out = train(texts, bert_retriever, tmp_path / "domain", packing="block")
    tokens = sum(len(text.split()) + 1 for text in texts)  # each text is closed by [SEP], and 10 of them fill a block
    windows = json.loads((out / "training.json").read_text())["windows"]
    assert windows == math.ceil((tokens - 1) / 10)  # a last one of [SEP] alone is left out


def test_a_base_in_a_folder_of_its_own_is_found(texts, bert_retriever, bert_retriever_of_old, tmp_path):
    usual = train(texts, bert_retriever, tmp_path / "usual")
    moved = train(texts, bert_retriever_of_old, tmp_path / "moved")
    assert same(weights(usual), weights(moved))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("trained.safetensors", "cut off"),
        ("optimizer.pt", "missing"),
        ("optimizer.pt", "empty"),
        ("rng_state.pth", "missing"),
        ("trainer_state.json", "cut off"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(file, damage, texts, bert_retriever, tmp_path, monkeypatch, caplog):
    whole = train(texts, bert_retriever, tmp_path / "whole")
    die_at_step(10, monkeypatch, lambda: train_in_steps(texts, bert_retriever, tmp_path / "out"))
    checkpoint = tmp_path / ".out.progress" / "checkpoint-6"  # and checkpoint-4 before it
    content = (checkpoint / file).read_bytes()
    if damage == "missing":
        (checkpoint / file).unlink()
    else:
        (checkpoint / file).write_bytes(b"" if damage == "empty" else content[:-50])
    assert same(weights(train_in_steps(texts, bert_retriever, tmp_path / "out")), weights(whole))
    assert f"lacks a complete {file.split('.')[0]}" in caplog.text


def test_a_training_that_diverges_is_no_model(texts, bert_retriever, tmp_path):
    with pytest.raises(RuntimeError, match="the training diverged"):
        train(texts, bert_retriever, tmp_path / "out", learning_rate=1e30)
    assert not (tmp_path / "out").exists()


def test_the_same_model_of_another_process_is_taken(texts, bert_retriever, tmp_path, monkeypatch):
    whole = train(texts, bert_retriever, tmp_path / "whole")
    real = MaskedLM.save

    def slower_than_another(self, folder):
        shutil.copytree(whole, tmp_path / "out")
        real(self, folder)

    monkeypatch.setattr(MaskedLM, "save", slower_than_another)
    assert train(texts, bert_retriever, tmp_path / "out") == tmp_path / "out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert MaskedTraining(learning_rate="7e-5") == MaskedTraining(learning_rate=7e-5)
    assert MaskedTraining(weight_decay=0) == MaskedTraining(weight_decay=0.0)
    with pytest.raises(ValueError, match="learning_rate\n  Input should be a valid number"):
        MaskedTraining(learning_rate="fast")


def train_in_steps(texts, base, out):
    return train_domain_model(texts, base, out, settings=MaskedTraining(**TINY), device="cpu", checkpoint_every=2)


def die_at_step(step, monkeypatch, job):
    taken = []
    real = MaskedLM.loss

    def step_or_die(self, *arguments):
        taken.append(1)
        if len(taken) > step:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as dying:
        dying.setattr(MaskedLM, "loss", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            job()
