import json
import resource
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from transformers import AutoModel

from pyterrier_merge import E5Encoder, MergedE5Encoder, MergeRecipe, Segment
from pyterrier_merge.mergekit_yaml import read_recipe
from pyterrier_merge.merging.identity import merge_fingerprint

TEXTS = ["acute kidney failure", "fever", "", "  pain  ", "the rate of the heart " * 12, "unheard words"]
FAMILIES = pytest.mark.parametrize("family", ["bert", "mistral"])


@pytest.fixture
def pair(request):
    """Source and domain model of a family."""

    def of(family):
        return tuple(request.getfixturevalue(f"{family}_{kind}") for kind in ("retriever", "language_model"))

    return of


def merged(source, domain, lower=0.5, upper=0.75, **settings):
    return MergedE5Encoder(
        source, domain, alpha_lower=lower, alpha_upper=upper, **{"dtype": "float32", "device": "cpu", **settings}
    )


def assert_same_vectors(encoder, folder):
    """In sentence-transformers and in the encoder of this package, with no setting given."""
    loaded = SentenceTransformer(str(folder), device="cpu")
    again = E5Encoder(folder, dtype="float32", device="cpu")
    for kind, encode, own in (
        ("query", encoder.encode_queries, again.encode_queries),
        ("document", encoder.encode_docs, again.encode_docs),
    ):
        expected = encode(TEXTS)
        np.testing.assert_allclose(loaded.encode(TEXTS, prompt_name=kind), expected, atol=5e-6)
        np.testing.assert_allclose(own(TEXTS), expected, atol=5e-6)
    assert again.contract == replace(encoder.contract, prepended=(), appended=())


@FAMILIES
def test_sentence_transformers_gives_the_same_vectors(family, pair, tmp_path):
    encoder = merged(*pair(family), task="find fever")
    assert encoder.save(tmp_path / "model") == tmp_path / "model"
    assert encoder._loaded is None  # it took no live model
    assert_same_vectors(encoder, tmp_path / "model")
    source = E5Encoder(pair(family)[0], task="find fever", dtype="float32", device="cpu")
    assert np.abs(source.encode_docs(TEXTS) - encoder.encode_docs(TEXTS)).max() > 0.01


@FAMILIES
def test_the_encoders_settings_travel(family, pair, tmp_path):
    encoder = merged(*pair(family), query_prompt="fever of ", document_prompt="the ", max_length=9)
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")
    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert saved.max_seq_length == 9
    assert (saved.prompts["query"], saved.prompts["document"]) == ("fever of ", "the ")


def test_prompts_that_no_file_says_are_written_down(pair, tmp_path):
    """Those of the classic E5 models are known by their names."""
    source = shutil.copytree(pair("bert")[0], tmp_path / "e5-base-v2")
    encoder = merged(source, pair("bert")[1])
    assert encoder.contract.query_prompt == "query: "
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")


@FAMILIES
def test_names_types_and_configuration_are_the_sources(family, pair, tmp_path):
    source, domain = pair(family)
    merged(source, domain).save(tmp_path / "model")
    own, saved = load_file(source / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert {key: (t.shape, t.dtype) for key, t in own.items()} == {key: (t.shape, t.dtype) for key, t in saved.items()}
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "model")]
    assert configs[0] == configs[1]
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o044  # others may read it


def test_weights_are_computed_in_float32_and_rounded_once(pair, tmp_path):
    source, domain = pair("mistral")
    merged(source, domain).save(tmp_path / "model", dtype="bfloat16")
    own, other = load_file(source / "model.safetensors"), load_file(domain / "model.safetensors")
    for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items():
        alpha = 1.0 if "embed" in name else 0.5 if name.startswith(("layers.0.", "layers.1.")) else 0.75
        exact = alpha * own[name] + (1 - alpha) * other["model." + name] if alpha < 1 else own[name]
        torch.testing.assert_close(tensor, exact.bfloat16(), atol=0, rtol=2**-7 if alpha < 1 else 0)
        assert (tensor != exact.bfloat16()).float().mean() < 0.01  # mergekit divides by the sum of the weights
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert SentenceTransformer(str(tmp_path / "model"), device="cpu").transformers_model.dtype == torch.bfloat16


def test_auto_keeps_the_type_that_the_source_is_stored_in(pair, tmp_path):
    source, domain = pair("bert")
    merged(source, domain).save(tmp_path / "half", dtype="float16")
    merged(tmp_path / "half", domain).save(tmp_path / "again")
    assert {tensor.dtype for tensor in load_file(tmp_path / "again" / "model.safetensors").values()} == {torch.float16}


def test_a_pytorch_checkpoint_in_a_folder_of_its_own_comes_out_as_safetensors(
    bert_retriever_of_old, bert_language_model, tmp_path
):
    source = shutil.copytree(bert_retriever_of_old, tmp_path / "source")
    weights = load_file(source / "0_Transformer" / "model.safetensors")
    torch.save({**weights, "embeddings.position_ids": torch.arange(64)}, source / "0_Transformer" / "pytorch_model.bin")
    (source / "0_Transformer" / "model.safetensors").unlink()
    encoder = merged(source, bert_language_model)
    encoder.save(tmp_path / "model")
    files = {path.name for path in (tmp_path / "model" / "0_Transformer").iterdir()}
    assert "model.safetensors" in files
    assert "pytorch_model.bin" not in files
    assert_same_vectors(encoder, tmp_path / "model")


def test_tensors_that_share_memory_or_lie_in_columns_are_written(pair, tmp_path):
    source, domain = pair("bert")
    source = shutil.copytree(source, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    words = weights["embeddings.word_embeddings.weight"].t().contiguous().t()  # as in checkpoints from TensorFlow
    tied = {"embeddings.word_embeddings.weight": words, "cls.predictions.decoder.weight": words}
    torch.save({**weights, **tied}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    encoder = merged(source, domain)
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")


def test_an_empty_prompt_stays_empty(pair, tmp_path):
    source = shutil.copytree(pair("bert")[0], tmp_path / "source")
    file = source / "config_sentence_transformers.json"
    prompts = {"query": "fever of ", "passage": "pain "}
    file.write_text(json.dumps({**json.loads(file.read_text()), "prompts": prompts}))
    assert E5Encoder(source, device="cpu").contract.document_prompt == "pain "
    encoder = merged(source, pair("bert")[1], document_prompt="")
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")


def test_the_length_is_said_as_vllm_reads_it(pair, tmp_path):
    merged(*pair("bert"), max_length=9).save(tmp_path / "model")
    said = json.loads((tmp_path / "model" / "sentence_bert_config.json").read_text())
    assert (said["max_seq_length"], said["do_lower_case"]) == (9, False)


def test_large_models_are_written_in_shards(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_merge.merging.writing.SHARD_BYTES", 50_000)
    encoder = merged(*pair("mistral"), task="find fever")
    encoder.save(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards == sorted(set(index["weight_map"].values()))
    assert_same_vectors(encoder, tmp_path / "model")


@FAMILIES
@pytest.mark.parametrize(
    "recipe",
    [
        {"segments": (Segment(1), Segment(1))},
        {"segments": (Segment(0.25), Segment(0.5, 2), Segment(1)), "embeddings": 0.5, "final_norm": 0.1},
        {"segments": (Segment(0.5),), "method": "ties", "parameters": {"density": 0.5, "normalize": False}},
        {"segments": (Segment(0.5),), "method": "dare_linear", "parameters": {"density": 0.5}, "seed": 3},
        {"segments": (Segment(None),), "method": "model_stock", "twice": True},
        {"segments": (Segment(0.5, domain_weights=(0.2, 0.3)),), "twice": True},
        {"segments": (Segment(0.5, parts={"attention": 0.25, "feed_forward": 1}), Segment(1))},
    ],
)
def test_every_recipe_is_saved_as_it_is_merged(family, recipe, pair, tmp_path):
    source, domain = pair(family)
    other = shutil.copytree(domain, tmp_path / "other")
    weights = {key: tensor * 1.5 for key, tensor in load_file(domain / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    fields = {name: value for name, value in recipe.items() if name != "twice"}
    domains = (domain, other) if recipe.get("twice") else (domain,)
    if recipe.get("method") == "dare_linear":
        fields["parameters"] = {"density": 0.5, "normalize": False}
    encoder = MergedE5Encoder.from_recipe(
        MergeRecipe(source, domains, **fields), task="find fever", dtype="float32", device="cpu"
    )
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")
    recorded = json.loads((tmp_path / "model" / "merge.json").read_text())["tensors"]
    assert {t["name"]: t["to_source"] for t in recorded} == {t.name: t.to_source for t in encoder.tensor_merges}


@pytest.mark.parametrize("head", [1, 0.25])
def test_a_projection_head_is_saved(head, pair, tmp_path):
    for number, name in enumerate(("source", "domain")):
        torch.manual_seed(number)
        model = SentenceTransformer(str(pair("bert")[0]), device="cpu")
        model.append(Dense(32, 8))
        for parameter in model.transformers_model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        model.save(str(tmp_path / name))
    recipe = MergeRecipe.halves(tmp_path / "source", tmp_path / "domain", 0.5, 0.75, head=head)
    encoder = MergedE5Encoder.from_recipe(recipe, dtype="float32", device="cpu")
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")
    own, saved = (load_file(tmp_path / name / "3_Dense" / "model.safetensors") for name in ("source", "model"))
    assert torch.equal(own["linear.weight"], saved["linear.weight"]) == (head == 1)
    places = [place["place"] for place in json.loads((tmp_path / "model" / "merge.json").read_text())["layers"]]
    assert ("projection head" in places) == (head != 1)


def test_a_head_that_is_not_there_is_refused(pair, tmp_path):
    recipe = MergeRecipe.halves(*pair("bert"), 0.5, 0.75, head=0.5)
    with pytest.raises(ValueError, match="no projection head"):
        MergedE5Encoder.from_recipe(recipe, device="cpu").save(tmp_path / "model")


def test_other_files_are_copied_and_other_forms_of_the_weights_are_not(pair, tmp_path):
    source = shutil.copytree(pair("bert")[0], tmp_path / "source")
    (source / "onnx").mkdir()
    for name in ("LICENSE", "vocab.txt", "tf_model.h5", "pytorch_model.bin", "onnx/model.onnx", ".gitattributes"):
        (source / name).write_text(name)
    (source / "README.md").write_text("the source's card")
    merged(source, pair("bert")[1]).save(tmp_path / "model")
    files = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*") if path.is_file()}
    own = {"config.json", "modules.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"}
    own |= {"config_sentence_transformers.json", "1_Pooling/config.json", "2_Normalize/config.json"}
    made = {"model.safetensors", "merge.json", "mergekit_config.yml", "README.md"}
    assert files == own | made | {"LICENSE", "vocab.txt"}
    assert "the source's card" not in (tmp_path / "model" / "README.md").read_text()


def test_the_record_says_what_was_merged(pair, tmp_path):
    source, domain = pair("mistral")
    encoder = merged(source, domain, 0.5, 1, task="find fever")
    encoder.save(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "merge.json").read_text())
    assert record["recipe"]["source"] == str(source)
    assert [parent["role"] for parent in record["parents"]] == ["source", "domain"]
    assert record["fingerprint"] == merge_fingerprint(encoder.recipe)
    assert record["contract"]["query_prompt"] == "Instruct: find fever\nQuery: "
    assert record["versions"]["mergekit"].startswith("0.1.")
    own, new = load_file(source / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    names = [name for name in own if name.startswith(("layers.0.", "layers.1."))]
    norm = sum(float(own[name].double().pow(2).sum()) for name in names)
    far = sum(float((own[name] - new[name]).double().pow(2).sum()) for name in names)
    lower, upper, last = record["segments"]
    assert (lower["place"], upper["place"], last["place"]) == ("layers 0-1", "layers 2-3", "final norm")
    assert lower["to_source"] == pytest.approx((far / norm) ** 0.5, rel=1e-4)
    assert (upper["weights"], upper["to_source"]) == ([1.0, 0.0], 0.0)
    assert [layer["place"] for layer in record["layers"]] == [f"layer {n}" for n in range(4)] + ["final norm"]
    assert read_recipe(tmp_path / "model" / "mergekit_config.yml") == encoder.recipe


def test_the_record_has_parts_of_layers_where_there_are_any(pair, tmp_path):
    source, domain = pair("bert")
    segments = (Segment(0.5, parts={"attention": 0.25, "feed_forward": 0.75}), Segment(1))
    encoder = MergedE5Encoder.from_recipe(MergeRecipe(source, domain, segments), device="cpu")
    encoder.save(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "merge.json").read_text())
    places = {place["place"]: place["weights"] for place in record["segments"]}
    assert list(places) == ["layers 0-1, attention", "layers 0-1, feed_forward", "layers 0-1, rest", "layers 2-3"]
    assert list(places.values()) == [[0.25, 0.75], [0.75, 0.25], [0.5, 0.5], [1, 0]]
    assert [layer["place"] for layer in record["layers"]][2:4] == ["layer 0, rest", "layer 1, attention"]
    parts = {tensor["name"]: tensor.get("part") for tensor in record["tensors"]}
    assert parts["encoder.layer.1.attention.self.key.bias"] == "attention"
    assert parts["encoder.layer.1.output.LayerNorm.bias"] is None
    lower, upper = record["recipe"]["segments"]
    assert [name for name, _ in lower["parts"]] == ["attention", "feed_forward"]
    assert upper == {"alpha": 1, "size": 1, "domain_weights": None}
    assert "| layer 0, attention | 0.25 : 0.75 |" in (tmp_path / "model" / "README.md").read_text()
    assert read_recipe(tmp_path / "model" / "mergekit_config.yml") == encoder.recipe


def test_what_mergekit_cannot_say_is_said_in_words(pair, tmp_path):
    source, domain = pair("bert")
    recipe = MergeRecipe(source, (domain, domain), (Segment(0.5),))
    MergedE5Encoder.from_recipe(recipe, device="cpu").save(tmp_path / "model")
    text = (tmp_path / "model" / "mergekit_config.yml").read_text()
    assert text.startswith("# mergekit's YAML cannot express this merge: ")
    assert all(line.startswith("#") for line in text.splitlines())


def test_a_folder_that_is_there_stays_unless_told(pair, tmp_path):
    encoder = merged(*pair("bert"))
    encoder.save(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    encoder.alpha_lower = 0
    with pytest.raises(FileExistsError, match="exists already"):
        encoder.save(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    encoder.save(tmp_path / "model", overwrite=True)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a retrieval model's folder"):
        encoder.save(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize("place", ["parents/source", "parents/domain/merged", "parents", "package:some/model"])
def test_parents_are_not_written_over(place, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, name in zip(pair("bert"), ("source", "domain"), strict=True):
        shutil.copytree(folder, tmp_path / "parents" / name)
    (tmp_path / "parents" / "modules.json").write_text("[]")
    encoder = merged(tmp_path / "parents" / "source", tmp_path / "parents" / "domain")
    with pytest.raises(ValueError, match="names a model" if "package" in place else "the folder of the parent"):
        encoder.save(place, overwrite=True)
    assert load_file(tmp_path / "parents" / "source" / "model.safetensors")


@pytest.mark.parametrize("place", ["parents/base", "parents/adapter", "parents/adapter/merged", "parents"])
@pytest.mark.parametrize("named", [True, False])
def test_what_a_parent_is_made_from_is_not_written_over(place, named, pair, tmp_path):
    """The parent itself is the merged model in the cache."""
    source, domain = pair("bert")
    base = shutil.copytree(domain, tmp_path / "parents" / "base")
    adapter = tmp_path / "parents" / "adapter"
    settings = LoraConfig(
        r=2, target_modules=["query"], init_lora_weights=False
    )  # at random: what changes nothing fails
    get_peft_model(AutoModel.from_pretrained(base), settings).save_pretrained(adapter)
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    for folder in (tmp_path / "parents", base, adapter):
        (folder / "modules.json").write_text(json.dumps([module]))
    encoder = merged(source, f"{base}+{adapter}" if named else adapter)
    with pytest.raises(ValueError, match="the folder of the parent"):
        encoder.save(tmp_path / place, overwrite=True)
    assert (adapter / "adapter_model.safetensors").exists()
    assert (base / "model.safetensors").exists()


def test_the_folder_of_a_gguf_file_is_not_written_over_but_written_into(pair, tmp_path, monkeypatch):
    source, domain = pair("bert")
    file = tmp_path / "models" / "small.gguf"
    file.parent.mkdir()
    file.touch()
    (file.parent / "modules.json").write_text("[]")
    monkeypatch.setattr("pyterrier_merge.models.names.convert_gguf", lambda _: domain)
    encoder = merged(source, file)
    for place in (file.parent, tmp_path):
        with pytest.raises(ValueError, match="the folder of the parent"):
            encoder.save(place, overwrite=True)
    assert file.exists()
    encoder.save(file.parent / "merged")
    assert_same_vectors(encoder, file.parent / "merged")


def test_a_disk_without_room_is_refused_before_anything_is_written(pair, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 1234, 1234))
    with pytest.raises(OSError, match=r"16,\d{3},\d{3} bytes .* needed, 1,234 .* of .*deep/model; make room"):
        merged(*pair("bert")).save(tmp_path / "deep" / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_in_the_middle_leaves_nothing(pair, tmp_path, monkeypatch):
    """The kernel refuses the second shard, for a file may have 80 kB."""
    monkeypatch.setattr("pyterrier_merge.merging.writing.SHARD_BYTES", 100_000)
    encoder = merged(*pair("bert"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"weights could not be written into .*model-0000\d-of-0000\d\.safetensors"):
            encoder.save(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    encoder.save(tmp_path / "model")


def test_weights_that_do_not_fit_the_type_are_named(pair, tmp_path):
    source, domain = (shutil.copytree(folder, tmp_path / str(n)) for n, folder in enumerate(pair("bert")))
    for file, key in (
        (source, "embeddings.word_embeddings.weight"),
        (domain, "bert.encoder.layer.2.output.dense.bias"),
    ):
        weights = load_file(file / "model.safetensors")
        save_file({**weights, key: weights[key] + 1e6}, file / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"embeddings\.word_embeddings\.weight.* torch\.float16 cannot hold"):
        merged(source, pair("bert")[1]).save(tmp_path / "saved", dtype="float16")
    with pytest.raises(ValueError, match=r"encoder\.layer\.2\.output\.dense\.bias.* torch\.float16 cannot hold"):
        merged(pair("bert")[0], domain).save(tmp_path / "saved", dtype="float16")
    assert not (tmp_path / "saved").exists()
    merged(source, domain).save(tmp_path / "saved", dtype="bfloat16")


def test_wrong_input_leaves_nothing(pair, tmp_path):
    source, domain = pair("bert")
    with pytest.raises(ValueError, match="unknown dtype 'int8'"):
        merged(source, domain).save(tmp_path / "model", dtype="int8")
    with pytest.raises(ValueError, match="cannot be merged"):
        merged(source, pair("mistral")[1]).save(tmp_path / "model")
    with pytest.raises(ValueError, match="nothing was merged"):
        merged(source, source).save(tmp_path / "model")
    with pytest.raises(ValueError, match="not a retrieval model"):
        merged(domain, source).save(tmp_path / "model")
    damaged = shutil.copytree(domain, tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.bias.* NaN"):
        merged(source, damaged).save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize(
    ("family", "pooling", "normalize"),
    [("mistral", "lasttoken", None), ("mistral", "weightedmean", False), ("bert", "cls", True), ("bert", "max", False)],
)
def test_a_plain_source_is_saved_with_the_modules_it_lacks(family, pooling, normalize, pair, tmp_path):
    """The language model as source, the retriever as domain model: a merge of what has no modules.json."""
    retriever, language_model = pair(family)
    encoder = merged(language_model, retriever, task="find fever", pooling=pooling, normalize=normalize)
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")
    own, saved = load_file(language_model / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert own.keys() == saved.keys()
    kinds = [
        module["type"].rpartition(".")[2] for module in json.loads((tmp_path / "model" / "modules.json").read_text())
    ]
    assert kinds == ["Transformer", "Pooling", "Normalize"][: 2 if normalize is False else 3]
    record = json.loads((tmp_path / "model" / "merge.json").read_text())
    assert (record["contract"]["pooling"], record["contract"]["normalize"]) == (pooling, normalize is not False)


@pytest.mark.parametrize(("pooling", "normalize"), [("cls", None), (None, False), ("weightedmean", True)])
def test_another_pooling_than_the_sources_is_saved(pooling, normalize, pair, bert_retriever_of_old, tmp_path):
    for source in (pair("bert")[0], bert_retriever_of_old):
        encoder = merged(source, pair("bert")[1], pooling=pooling, normalize=normalize)
        encoder.save(tmp_path / "model", overwrite=True)
        assert_same_vectors(encoder, tmp_path / "model")
        assert (tmp_path / "model" / "2_Normalize").exists() == (normalize is not False)


def test_a_projection_head_stays_where_another_pooling_is_saved(pair, tmp_path):
    torch.manual_seed(0)
    model = SentenceTransformer(str(pair("bert")[0]), device="cpu")
    model.append(Dense(32, 8))
    model.save(str(tmp_path / "source"))
    encoder = merged(tmp_path / "source", pair("bert")[1], pooling="cls", normalize=True)
    encoder.save(tmp_path / "model")
    assert_same_vectors(encoder, tmp_path / "model")
    kinds = [
        module["type"].rpartition(".")[2] for module in json.loads((tmp_path / "model" / "modules.json").read_text())
    ]
    assert kinds == ["Transformer", "Pooling", "Normalize", "Dense", "Normalize"]


def test_pooling_is_written_as_other_readers_know_it(pair, tmp_path):
    """vLLM and versions of sentence-transformers before 6 read ``pooling_mode_*`` keys."""
    merged(pair("bert")[1], pair("bert")[0], pooling="cls").save(tmp_path / "model")
    content = json.loads((tmp_path / "model" / "1_Pooling" / "config.json").read_text())
    assert content.pop("word_embedding_dimension") == 32
    assert {key for key, value in content.items() if value} == {"pooling_mode_cls_token", "include_prompt"}


def test_a_merge_is_of_no_family_whatever_its_folder_is_called(pair, tmp_path):
    encoder = merged(*pair("bert"), query_prompt="", document_prompt="", normalize=False)
    encoder.save(tmp_path / "e5-base-v2")
    assert_same_vectors(encoder, tmp_path / "e5-base-v2")


def test_a_save_that_would_pool_otherwise_is_stopped(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_merge.encoding.saving.folder.save_modules", lambda model, folder: None)
    with pytest.raises(RuntimeError, match=r"the saved model is RetrieverContract\(pooling='mean'.* expected .*'cls'"):
        merged(*pair("bert"), pooling="cls").save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processor", [None, {"type": "Sequence", "processors": []}, "ends"])
def test_a_start_that_the_source_lost_is_in_the_saved_tokenizer(processor, pair, tmp_path):
    """The files ask for BOS and the post-processor puts none, or EOS alone."""
    source = shutil.copytree(pair("mistral")[0], tmp_path / "source")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    if processor == "ends":
        end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
        text, other = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
        special = {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}
        processor = {"type": "TemplateProcessing", "single": [text, end], "pair": [text, other, end]}
        processor["special_tokens"] = special
    (source / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": processor}))
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}))
    encoder = merged(source, pair("mistral")[1], task="find fever", max_length=12)
    encoder.save(tmp_path / "model")
    assert encoder.contract.prepended == (1,)
    assert_same_vectors(encoder, tmp_path / "model")
