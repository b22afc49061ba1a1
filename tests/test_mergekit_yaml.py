"""Reading and writing mergekit's YAML: by mergekit itself, back and forth, and files as people write them."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from pyterrier_merge import MergeRecipe, Segment
from pyterrier_merge.mergekit_yaml import read_recipe, recipe_yaml
from pyterrier_merge.methods import blend, get_method

LAYERS = 4
PAPER = """
slices:
  - sources:
      - model: intfloat/e5-mistral-7b-instruct
        layer_range: [0, 16]
        parameters: {weight: 0.75}
      - model: BioMistral/BioMistral-7B
        layer_range: [0, 16]
        parameters: {weight: 0.25}
  - sources:
      - model: intfloat/e5-mistral-7b-instruct
        layer_range: [16, 32]
        parameters: {weight: 1}
      - model: BioMistral/BioMistral-7B
        layer_range: [16, 32]
        parameters: {weight: 0}
merge_method: linear
tokenizer_source: intfloat/e5-mistral-7b-instruct
dtype: float16
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text, **settings):
        (tmp_path / "merge.yaml").write_text(text, encoding="utf-8")
        return read_recipe(tmp_path / "merge.yaml", **settings)

    return from_text


@pytest.fixture(scope="module")
def mistrals(mistral_retriever, tmp_path_factory):
    """Three checkpoints whose class mergekit knows; name -> folder and tensors."""
    from mergekit.io.tasks import LoaderCache

    tokenizer = PreTrainedTokenizerFast.from_pretrained(mistral_retriever)
    config = MistralConfig.from_pretrained(mistral_retriever)
    found = {}
    for seed, name in enumerate(("source", "domain", "other"), start=10):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp(name)
        MistralForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found[name] = (str(folder), load_file(folder / "model.safetensors"))
    yield found
    LoaderCache.loaders.clear()


def run_mergekit(text, out):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    options = MergeOptions(device="cpu", write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(out), options=options)
    return load_file(out / "model.safetensors")


def expected(recipe, tensors):
    """Each tensor of the body, blended under the recipe's weights."""
    segments = recipe.layer_segments(LAYERS)
    for name in tensors[recipe.source]:
        if name == "lm_head.weight":
            continue
        if name.startswith("model.layers."):
            segment = segments[int(name.split(".")[2])]
            words = {"attention": "self_attn.", "feed_forward": "mlp."}
            parts = [one for part, one in segment.parts if words.get(part, part) in name]
            segment = parts[0] if parts else segment
        else:
            segment = recipe.embeddings if "embed" in name else recipe.final_norm or segments[-1]
        base = None if recipe.base is None else tensors[recipe.base][name]
        models = [tensors[model][name] for model in (recipe.source, *recipe.domains)]
        method, weights = get_method(recipe.method), segment.weights(len(recipe.domains))
        kept = segment.keeps_source and not method.weighted
        yield name, models[0] if kept else blend(models, method, weights, base=base, parameters=dict(recipe.parameters))


@pytest.mark.parametrize(
    ("domains", "alphas", "settings"),
    [
        (["domain"], (0.75, 1), {}),
        (["domain"], (0.9, 0.3), {"embeddings": 0.5, "final_norm": 0.25}),
        (["domain", "other"], (0.5, 0.25), {}),
        (["domain"], (0.75, 1), {"method": "slerp", "final_norm": 0.5}),
        (["domain"], (0.9, 1 / 3), {"method": "slerp", "embeddings": 0.5}),
        (["domain"], (0.75, 0.5), {"method": "nuslerp", "embeddings": 0.5}),
        (["domain"], (0.9, 1), {"method": "task_arithmetic", "parameters": {"lambda": 0.5}}),
        (["domain", "other"], (0.9, 1), {"method": "task_arithmetic"}),
        (["domain"], (0.75, 0.5), {"method": "task_arithmetic", "base": "other", "embeddings": 0.5}),
        (["domain", "other"], (0.5, 1), {"method": "ties", "parameters": {"density": (0.5, 0.25)}}),
        (["domain"], (0.5, 0.25), {"method": "ties", "base": "other", "parameters": {"density": 0.5}}),
        (["domain"], (None, None), {"method": "karcher", "embeddings": Segment(None)}),
        (["domain"], (None, 1), {"method": "sce", "embeddings": Segment(None)}),
        (["domain"], (Segment(0.5, parts={"attention": 0.25, "feed_forward": 0.75}), 1), {}),
        (["domain"], (Segment(0.5, parts={"attention": 0, "feed_forward": 0.75}), 0.5), {"method": "slerp"}),
        (["domain"], (1, Segment(0.75, parts={"k_proj": 0.25, "norm": 1, "self_attn": 0.5})), {"embeddings": 0.5}),
        (
            ["domain", "other"],
            (Segment(0.5, parts={"mlp": Segment(0.25, domain_weights=(0.5, 0.25))}), 0.75),
            {"method": "task_arithmetic"},
        ),
    ],
)
def test_mergekit_runs_what_is_written_to_the_same_weights(domains, alphas, settings, mistrals, tmp_path):
    folders = {name: folder for name, (folder, _) in mistrals.items()}
    named = {**settings, "base": folders[settings["base"]]} if "base" in settings else settings
    segments = tuple(alpha if isinstance(alpha, Segment) else Segment(alpha) for alpha in alphas)
    recipe = MergeRecipe(folders["source"], [folders[name] for name in domains], segments, **named)
    text = recipe_yaml(recipe, LAYERS)
    assert yaml.safe_load(text)["tokenizer_source"] == folders["source"]
    merged = run_mergekit(text, tmp_path)
    blends = dict(expected(recipe, dict(mistrals.values())))
    assert len(blends) == 9 * LAYERS + 2
    assert all(torch.equal(merged[name], tensor) for name, tensor in blends.items())
    assert (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_mergekit_runs_parts_of_a_bert_to_the_same_weights(method, bert_retriever, tmp_path):
    folders = [str(tmp_path / name) for name in ("source", "domain")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        config = BertConfig.from_pretrained(bert_retriever)
        BertForSequenceClassification(config).save_pretrained(folder)  # mergekit asks for a pooler
        PreTrainedTokenizerFast.from_pretrained(bert_retriever).save_pretrained(folder)
    segments = (
        Segment(0.5, parts={"attention": 0.25, "feed_forward": 0.75}),
        Segment(1, parts={"feed_forward": 0.125}),
    )
    merged = run_mergekit(recipe_yaml(MergeRecipe(*folders, segments, method=method), LAYERS), tmp_path / "out")
    source, domain = (load_file(f"{folder}/model.safetensors") for folder in folders)
    alphas = {"attention": (0.25, 1), "feed_forward": (0.75, 0.125), "norm": (0.5, 1)}
    kinds = {"attention.self": "attention", "attention.output.dense": "attention", "LayerNorm": "norm"}
    names = [name for name in source if ".layer." in name]
    assert len(names) == 16 * LAYERS
    for name in names:
        kind = next((kind for piece, kind in kinds.items() if piece in name), "feed_forward")
        alpha = alphas[kind][int(name.split(".")[3]) // 2]
        assert torch.equal(merged[name], blend([source[name], domain[name]], get_method(method), (alpha, 1 - alpha))), (
            name
        )


@pytest.mark.parametrize(
    "text",
    [
        """{merge_method: linear, models: [
            {model: SOURCE, parameters: {weight: [{filter: embed, value: 1}, {value: [3, 1, 1]}]}},
            {model: DOMAIN, parameters: {weight: [{filter: embed, value: 0}, {filter: model.norm, value: 1}]}}],
            parameters: {weight: 2}}""",
        """{merge_method: slerp, base_model: DOMAIN, models: [{model: SOURCE}, {model: DOMAIN}],
            parameters: {t: [{filter: embed_tokens, value: 5e-1}, {value: [0, 0.25, 1]}]}}""",
        """{merge_method: ties, base_model: OTHER, slices: [
            {sources: [{model: SOURCE, layer_range: [0, 1]}, {model: OTHER, layer_range: [0, 1]},
                {model: DOMAIN, layer_range: [0, 1], parameters: {density: 0.25}}]},
            {sources: [{model: OTHER, layer_range: [1, 4]}, {model: SOURCE, layer_range: [1, 4]},
                {model: DOMAIN, layer_range: [1, 4], parameters: {weight: [1, 0.5], density: 0.25}}],
                parameters: {weight: [{filter: model.norm.weight, value: 0.5}]}}],
            parameters: {weight: [{filter: embed, value: 1}, {value: 0.25}], density: 0.5, lambda: 1.5}}""",
        """{merge_method: task_arithmetic, base_model: SOURCE, models: [{model: DOMAIN}, {model: SOURCE}],
            parameters: {weight: [{filter: embed, value: [0.5, 0]}, {filter: lm_head, value: 0}, {value: 0.3}]}}""",
        """{merge_method: slerp, base_model: SOURCE, slices: [{sources: [
            {model: SOURCE, layer_range: [0, 4]}, {model: DOMAIN, layer_range: [0, 4]}]}], parameters: {t: [
            {filter: embed, value: 0}, {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]},
            {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]}}""",
        """{merge_method: linear, models: [
            {model: SOURCE, parameters: {weight: [
                {filter: embed, value: 1}, {filter: self_attn, value: 3}, {value: 1}]}},
            {model: DOMAIN, parameters: {weight: [
                {filter: embed, value: 0}, {filter: mlp, value: 0.5}, {value: 0.25}]}}]}""",
        """{merge_method: linear, models: [
            {model: SOURCE, parameters: {weight: [{filter: q_proj, value: 3}, {filter: self_attn, value: 2}]}},
            {model: DOMAIN, parameters: {weight: [{filter: q_proj, value: 0.5}, {filter: self_attn, value: [1, 0]}]}}],
            parameters: {weight: [{filter: embed, value: 1}, {filter: norm, value: 3}, {value: 2}]}}""",
        """{merge_method: ties, base_model: SOURCE, models: [
            {model: DOMAIN, parameters: {density: 0.5, weight: 1}},
            {model: OTHER, parameters: {density: 0.33, weight: [{filter: mlp, value: 0.5}, {value: 0}]}}],
            parameters: {weight: [{filter: embed, value: 1}, {value: 0.5}]}}""",
    ],
    ids=[
        "linear",
        "slerp",
        "ties",
        "task_arithmetic",
        "parts, slerp",
        "parts, linear",
        "parts in parts",
        "parts, ties",
    ],
)
def test_what_others_wrote_is_read_as_mergekit_reads_it(text, mistrals, read, tmp_path):
    for name, (folder, _) in mistrals.items():
        text = text.replace(name.upper(), folder)
    merged = run_mergekit(text, tmp_path / "merged")
    blends = dict(expected(read(text), dict(mistrals.values())))
    assert len(blends) == 9 * LAYERS + 2
    for name, tensor in blends.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("num_layers", [4, 7, 32])
@pytest.mark.parametrize(
    "recipe",
    [
        MergeRecipe.halves("s", "d", 0.75, 1),
        MergeRecipe.halves("s", "d", 1, 0.9),
        MergeRecipe.halves("s@main", "d+adapter", 1 / 3, 0.1, embeddings=0.7, final_norm=1),
        MergeRecipe("s", "d", (Segment(0.5),), embeddings=0.5),
        MergeRecipe("s", "d", (Segment(0.5, 1), Segment(0.25, 2), Segment(0.75, 1))),
        MergeRecipe("s", ["d", "e", "f"], (Segment(0.3), Segment(0.6, domain_weights=(0.3, 0.1, 0)))),
        MergeRecipe("s", "d", (Segment(2, domain_weights=(-0.5,)),), parameters={"normalize": False}),
        MergeRecipe.halves("s", "d", 1 / 3, 0.9, method="slerp", final_norm=0.3),
        MergeRecipe.halves("s", "d", 1 / 3, 0.9, method="nuslerp", parameters={"nuslerp_flatten": False}),
        MergeRecipe.halves("s", "d", 0.3, 0.9, method="nuslerp", base="b"),
        MergeRecipe.halves("s", ["d", "e"], 0.3, 0.9, method="multislerp"),
        MergeRecipe.halves("s", "d", 0.7, 1 / 3, method="task_arithmetic", parameters={"lambda": 0.5}),
        MergeRecipe.halves("s", ["d", "e"], 0.7, 1, method="ties", parameters={"density": (0.5, 0.1)}),
        MergeRecipe.halves("s", "d", 0.7, 1, method="dare_ties", base="b", parameters={"density": (0.5, 0.1)}),
        MergeRecipe("s", "d", (Segment(-1, domain_weights=(2,)),), method="task_arithmetic"),
        MergeRecipe.halves("s", "d", None, 1, method="karcher", parameters={"max_iter": 5}),
        MergeRecipe.halves("s", ["d", "e"], 1, None, method="model_stock"),
        MergeRecipe.halves("s", "d", None, 1, method="sce", base="b"),
        MergeRecipe("s", "d", (Segment(None),), method="nearswap", parameters={"t": 1e-5}),
        MergeRecipe("s", "d", (Segment(0.5, parts={"attention": 0.25, "feed_forward": 0.75}), Segment(1))),
        MergeRecipe("s", "d", (Segment(1, parts={"feed_forward": 1 / 3}),), method="slerp", final_norm=0.5),
        MergeRecipe("s", "d", (Segment(1), Segment(0.5, parts={"norm": 0.25, "attention": 1, "mlp": 0}))),
        MergeRecipe("s", "d", (Segment(0.5, parts={"attention": 0.5}),), method="task_arithmetic"),
        MergeRecipe("s", ["d", "e"], (Segment(0.5, parts={"mlp": Segment(0.1, domain_weights=(0.3, 0.6))}),)),
    ],
    ids=str,
)
def test_what_is_written_is_read_back(recipe, num_layers, read):
    def weights(one):
        segments = [*one.layer_segments(num_layers), one.embeddings, one.final_norm or one.segments[-1]]
        names = [tuple(name for name, _ in segment.parts) for segment in segments[:-1]]
        return names, [part.weights(len(one.domains)) for segment in segments for part in segment.each]

    again = read(recipe_yaml(recipe, num_layers))
    assert weights(again) == weights(recipe)
    for field in ("source", "domains", "method", "parameters", "base", "embeddings"):
        assert getattr(again, field) == getattr(recipe, field)
    assert again.final_norm == (recipe.final_norm if recipe.final_norm != recipe.segments[-1].rest else None)


def test_head_and_seed_are_given_at_reading(read):
    recipe = MergeRecipe.halves("s", "d", 0.5, 1, method="dare_linear", head=0.5, seed=3)
    text = recipe_yaml(recipe, 4)
    assert "# - It knows no projection head; the recipe's has the weights 0.5.\n" in text
    assert "than pyterrier_merge does with seed 3" in text
    assert read(text, head=0.5, seed=3) == recipe
    assert read(text, embeddings=0.5).embeddings == Segment(0.5)


def test_the_papers_file_is_a_recipe_of_halves(read):
    paper = MergeRecipe.halves("intfloat/e5-mistral-7b-instruct", "BioMistral/BioMistral-7B", 0.75, 1)
    assert read(PAPER) == paper
    unnormalised = PAPER.replace("0.75", "3").replace("0.25", "1.0").replace("weight: 1}", "weight: 20}")
    assert read(unnormalised) == paper
    reverse = read(PAPER.replace("tokenizer_source", "# "), source="BioMistral/BioMistral-7B")
    assert reverse == MergeRecipe.halves(paper.domains[0], paper.source, 0.25, 0)


def test_a_slice_of_one_model_is_that_models(read):
    text = """
    merge_method: linear
    slices:
    - sources: [{model: s, layer_range: [0, 2]}, {model: d, layer_range: [0, 2], parameters: {weight: 3}}]
    - sources: [{model: s, layer_range: [2, 4]}]
    - sources: [{model: d, layer_range: [4, 8]}]
    parameters: {weight: 1}
    """
    assert read(text) == MergeRecipe("s", "d", (Segment(0.25), Segment(1), Segment(0, 2)))


def test_parameters_are_looked_up_in_model_slice_and_file_in_this_order(read):
    text = """
    merge_method: linear
    slices:
    - sources:
      - {model: s, layer_range: [0, 1], parameters: {weight: [{filter: embed, value: 0.9}]}}
      - {model: d, layer_range: [0, 1], parameters: {weight: 0.1}}
      parameters: {weight: 0.4}
    - sources:
      - {model: s, layer_range: [1, 2]}
      - {model: d, layer_range: [1, 2], parameters: {weight: 0.7}}
    parameters: {weight: 0.3}
    """
    segments = (Segment(0.4 / 0.5), Segment(0.3))
    assert read(text) == MergeRecipe("s", "d", segments, embeddings=0.9)


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("base_model: s, models: [{model: s}, {model: d}], parameters: {t: 0.25}", ("s", 0.75)),
        ("base_model: s/, models: [{model: d}], parameters: {t: 0.25}", ("s", 0.75)),
        ("base_model: d, models: [{model: s}, {model: d}], parameters: {t: 0.25}", ("d", 0.75)),
    ],
)
def test_the_t_of_slerp_counts_from_the_base_model(text, recipe, read):
    source, alpha = recipe
    found = read("{merge_method: slerp, " + text + "}")
    assert (found.source, found.segments, found.base) == (source, (Segment(alpha),), None)
    other = found.domains[0]
    assert read("{merge_method: slerp, " + text + "}", source=other).segments == (Segment(1 - alpha),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [{model: d, parameters: {weight: 0.3}}]", ("s", ("d",), None, (0.7, 0.3))),
        (
            "models: [{model: s}, {model: d, parameters: {weight: 0.3}}, {model: e, parameters: {weight: 0.5}}]",
            ("s", ("d", "e"), None, (0.2, 0.3, 0.5)),
        ),
        ("models: [{model: d}, {model: e}], parameters: {weight: 0.5}", ("d", ("e",), "s", (0.5, 0.5))),
        ("models: [{model: d}], parameters: {weight: 1.5}", ("s", ("d",), None, (-0.5, 1.5))),
    ],
)
def test_the_base_of_task_arithmetic_is_the_source_or_a_third_model(text, expected, read):
    found = read("{merge_method: task_arithmetic, base_model: s, " + text + "}")
    weights = found.segments[0].weights(len(found.domains))
    assert (found.source, found.domains, found.base, weights) == (*expected[:3], pytest.approx(expected[3]))


def test_of_three_models_the_argument_says_which_one_is_the_source(read):
    text = "{merge_method: task_arithmetic, base_model: b, models: [{model: d}, {model: s}], parameters: {weight: 0.5}}"
    assert read(text, source="s") == MergeRecipe("s", "d", (Segment(0.5),), method="task_arithmetic", base="b")
    shared = read(text, source="b")
    assert (shared.domains, shared.segments, shared.base) == (("d", "s"), (Segment(0),), None)


def test_a_gradient_is_a_segment_for_each_layer_of_its_slice(read):
    text = """
    merge_method: slerp
    base_model: s
    slices:
    - sources: [{model: s, layer_range: [0, 3]}, {model: d, layer_range: [0, 3]}]
      parameters: {t: [0.5, 0]}
    - sources: [{model: s, layer_range: [3, 4]}, {model: d, layer_range: [3, 4]}]
      parameters: {t: [{filter: lm_head, value: 1}, {filter: "*", value: [0.25, 1]}]}
    """
    found = read(text)
    assert [segment.alpha for segment in found.segments] == [0.5, 0.75, 1, 0]
    assert found.final_norm == Segment(
        0.75
    )  # mergekit reads it at the start of the gradient, a single layer at the end


def test_gradients_of_whole_models_need_the_number_of_layers(read, bert_retriever, bert_language_model):
    inputs = f"[{{model: '{bert_retriever}', parameters: {{weight: [1, 0]}}}}, {{model: '{bert_language_model}'}}]"
    found = read(f"{{merge_method: linear, models: {inputs}, parameters: {{weight: 0.5}}}}")
    assert [segment.alpha for segment in found.segments] == [
        1 / 1.5,
        (2 / 3) / (2 / 3 + 0.5),
        (1 / 3) / (1 / 3 + 0.5),
        0,
    ]
    assert found.final_norm is None  # BERT has none that mergekit's weight, the first layer's, could go to


def test_slices_that_miss_layers_of_a_model_at_hand_are_refused(read, bert_retriever):
    text = recipe_yaml(MergeRecipe.halves(bert_retriever, "d", 0.5, 1), 6)
    with pytest.raises(ValueError, match=r"slices: they cover 6 layers, .* has 4"):
        read(text)


def test_what_most_people_paste_is_read(read):
    text = """
    slices:
      - sources:
          - {model: OpenPipe/mistral-ft-optimized-1218, layer_range: [0, 32]}
          - {model: mlabonne/NeuralHermes-2.5-Mistral-7B, layer_range: [0, 32]}
    merge_method: slerp
    base_model: OpenPipe/mistral-ft-optimized-1218
    parameters:
      t:
        - filter: self_attn
          value: [0, 0.5, 0.3, 0.7, 1]
        - filter: mlp
          value: [1, 0.5, 0.7, 0.3, 0]
        - value: 0.5
    dtype: bfloat16
    """
    found = read(text)
    assert (found.method, found.source, len(found.segments)) == ("slerp", "OpenPipe/mistral-ft-optimized-1218", 32)
    assert (found.segments[0], found.final_norm) == (Segment(0.5, parts={"self_attn": 1, "mlp": 0}), None)
    assert found.segments[31] == Segment(0.5, parts={"self_attn": 0, "mlp": 1})
    (_, attention), (_, mlp) = found.segments[8].parts  # at 8 / 31 of the way, between the second and third number
    assert attention.alpha == pytest.approx(1 - (0.5 - 0.2 * (32 / 31 - 1)))
    assert mlp.alpha == pytest.approx(1 - (0.5 + 0.2 * (32 / 31 - 1)))
    assert read(recipe_yaml(found, 32)) == found


MODELS = [  # mergekit's ModelReference and ModelPath, in every form that its own parser takes, and the name it has here
    ("{model: org/m}", "org/m"),
    ("{model: org/m@v1}", "org/m@v1"),
    ("{model: {path: org/m}}", "org/m"),
    ("{model: {path: org/m, revision: v1}}", "org/m@v1"),
    ("{model: {path: org/m/, revision: null}, lora: null, override_architecture: null}", "org/m"),
    ("{model: org/m, lora: org/a}", "org/m+org/a"),
    ("{model: {path: org/m, revision: v1}, lora: {path: org/a, revision: v2}}", "org/m@v1+org/a@v2"),
    ("org/m@v1+org/a", "org/m@v1+org/a"),
]


@pytest.mark.parametrize(("written", "name"), MODELS, ids=[name for name, _ in MODELS])
def test_models_written_out_in_full_are_named(written, name, read):
    from mergekit.common import ModelReference

    assert str(ModelReference.model_validate(yaml.safe_load(written))).replace("m/", "m") == name
    text = f"{{merge_method: slerp, base_model: {written}, tokenizer: {{source: {written}}}, models: [{{model: d}}]"
    assert read(text + ", parameters: {t: 0.25}}") == MergeRecipe(name, "d", (Segment(0.75),), method="slerp")
    with pytest.raises(ValueError, match=r"models\[1\].model: .* stands here twice"):
        read(
            f"{{merge_method: linear, models: [{{model: '{name}'}}, {{model: {written}}}], parameters: {{weight: 1}}}}"
        )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{model: {path: s}, override_architecture: LlamaForCausalLM}", "model.override_architecture: .* leave it out"),
        ("{model: {path: s}, adapter: a}", "model.adapter: unknown key 'adapter'; fields of a model here: model, lora"),
        ("{path: s}", "model.path: unknown key 'path'"),
        ("{model: {path: s, revison: v1}}", "model.model.revison: .* did you mean 'revision'"),
        ("{model: {path: s, revision: 1.5}}", "model.model.revision: expected a name, found 1.5"),
        ("{model: {revision: v1}}", "model.model.path: expected a name, found None"),
        ("{lora: a}", "model.model: expected a name, found None"),
        ("{model: {path: s}, lora: {path: ''}}", "model.lora.path: expected a name, found ''"),
        ("{model: {path: a+b}}", r"model.model.path: 'a\+b' is not a folder here, .* fields of their own, 'lora'"),
        ("{model: {path: a@b}}", "'a@b' is not a folder here"),
    ],
)
def test_fields_of_a_model_that_a_recipe_cannot_keep_are_named(written, message, read):
    with pytest.raises(ValueError, match=message):
        read(f"{{merge_method: linear, models: [{{model: {written}}}, {{model: d}}], parameters: {{weight: 1}}}}")


def test_a_folder_with_mergekits_signs_in_its_path_is_written_out_in_full(read, bert_retriever, tmp_path, monkeypatch):
    shutil.copytree(bert_retriever, tmp_path / "c++@home")
    monkeypatch.chdir(tmp_path)
    recipe = MergeRecipe.halves("c++@home", "d", 0.5, 0.25)
    text = recipe_yaml(recipe, 4)
    assert yaml.safe_load(text)["slices"][0]["sources"][0]["model"] == {"model": {"path": "c++@home"}}
    assert read(text, source="c++@home") == recipe


@pytest.mark.parametrize(
    ("one", "two"), [("q_proj", "self_attn"), ("norm", "self_attn"), ("w1", "w2"), ("mlp", "layers.2")]
)
def test_filters_that_may_overlap_stand_in_one_order(one, two, read):
    def text(first, second):
        weights = [
            f"[{{filter: {f}, value: 1}}, {{filter: {s}, value: 3}}, 2]" for f, s in ((one, two), (first, second))
        ]
        weights = [weight.replace("2]", "{value: 2}]") for weight in weights]
        models = [
            f"{{model: {name}, parameters: {{weight: {weight}}}}}" for name, weight in zip("sd", weights, strict=True)
        ]
        return f"{{merge_method: linear, models: [{', '.join(models)}]}}"

    assert [name for name, _ in read(text(one, two)).segments[0].parts] == [one, two]
    message = rf"models\[1\].parameters.weight: the filters '{one}' and '{two}' may let the same .* both, in one order"
    for first, second in ((two, one), (two, "down_proj")):
        with pytest.raises(ValueError, match=message):
            read(text(first, second))


def test_other_parameters_for_parts_of_layers_are_refused(read):
    text = """{merge_method: ties, base_model: s, models: [{model: d, parameters:
        {density: [{filter: mlp, value: 0.5}, {value: 1}]}}], parameters: {weight: 1, normalize: false}}"""
    with pytest.raises(ValueError, match=r"density: the filter 'mlp' is for parts of layers; .* one 'density' for all"):
        read(text)


def test_parts_that_keep_the_source_without_weights_have_no_words_in_mergekit():
    recipe = MergeRecipe("s", "d", (Segment(None, parts={"attention": 1}),), method="karcher")
    with pytest.raises(ValueError, match="mergekit's karcher takes no weights, so parts of layers cannot differ"):
        recipe_yaml(recipe, 4)


def test_numbers_that_yaml_takes_for_strings_are_numbers(read):
    assert yaml.safe_load("1e-1") == "1e-1"
    text = "{merge_method: multislerp, models: [{model: s}, {model: d}], parameters: {weight: 5e-1, eps: 1e-6}}"
    assert read(text) == MergeRecipe("s", "d", (Segment(0.5),), method="multislerp", parameters={"eps": 1e-6})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (PAPER, "", "expected fields such as 'merge_method' and 'slices'"),
        (PAPER, "- 1", "expected fields such as"),
        (PAPER, "a: [", "is not readable YAML"),
        ("merge_method", "merge_metod", "merge_metod: unknown key 'merge_metod'; did you mean 'merge_method'"),
        ("merge_method: linear", "", "merge_method: expected a name, found None"),
        ("merge_method: linear", "merge_method: average", "unknown merge method 'average'"),
        ("merge_method: linear", "merge_method: passthrough", "unknown merge method 'passthrough'"),
        ("merge_method: linear", "merge_method: slerp", r"unknown key 'weight'; parameters of slerp here: t"),
        ("slices:", "modules:", "modules: a recipe merges one stack"),
        ("dtype: float16", "models: []", "expected either 'slices' or 'models', found both"),
        ("dtype: float16", "parameters: {normalise: false}", "parameters.normalise: .* did you mean 'normalize'"),
        (
            "dtype: float16",
            "parameters: 3",
            r"parameters: expected .* linear \(normalize, weight\), found 3",
        ),
        ("dtype: float16", "parameters: {normalize: [1, 0]}", "'normalize' differs from layer to layer"),
        ("dtype: float16", "parameters: {normalize: often}", "parameters.normalize: expected a number or boolean"),
        ("weight: 0.75", "wait: 0.75", r"slices\[0\].sources\[0\].parameters.wait: .* did you mean 'weight'"),
        ("weight: 0.75", "normalize: false", r"sources\[0\].parameters.normalize: mergekit does not look here .* move"),
        ("weight: 0.75", "", r"slices\[0\].sources\[0\].parameters.weight is missing"),
        ("weight: 0.75", "weight: true", r"slices\[0\].sources\[0\].parameters.weight: expected a finite number"),
        ("weight: 0.75", "weight: much", r"slices\[0\].sources\[0\].parameters.weight: .* found 'much'"),
        ("weight: 0.75", "weight: .nan", r"slices\[0\].sources\[0\].parameters.weight: expected a finite number"),
        ("weight: 0.75", "weight: [0, true]", r"parameters.weight\[1\]: expected a finite number, found True"),
        ("weight: 0.75", "weight: -0.25", r"slices\[0\]: the weights add up to 0, and linear divides"),
        ("weight: 0.75", "weight: {filter: mlp, value: 1}", r"weight is missing: linear needs it for the layers"),
        (
            "weight: 0.75",
            "weight: {filter: attention, value: 1}",
            r"weight\[0\].filter: mergekit takes 'attention' for a ",
        ),
        ("weight: 0.75", "weight: [{filter: embed, valu: 1}]", r"weight\[0\].valu: .* did you mean 'value'"),
        ("weight: 0.75", "weight: [{filter: embed}, 1]", r"weight\[0\].value: expected a number or a list"),
        ("weight: 0.75", "weight: [{value: [{value: 1}]}]", r"weight\[0\].value: expected a number or a list"),
        ("weight: 0.75", "weight: {filter: 3, value: 1}", r"weight\[0\].filter: expected a part of .* found 3"),
        ("weight: 0.75", "weight: [{filter: embed, value: 1}]", r"sources\[0\].parameters.weight is missing"),
        ("layer_range: [16, 32]", "layer_range: [8, 24]", r"slices\[1\].* begins at 16, found \[8, 24\]; .* repeats"),
        ("layer_range: [0, 16]", "layer_range: [0, 12]", r"expected a range that begins at 12, found \[16, 32\]"),
        ("layer_range: [16, 32]", "layer_range: [16]", r"layer_range: expected \[first, end\].* found \[16\]"),
        ("layer_range: [16, 32]", "layer_range: [16, 16]", r"layer_range: expected \[first, end\]"),
        ("layer_range: [16, 32]", "", r"slices\[1\].sources\[0\].layer_range: expected .* found None"),
        ("model: BioMistral/BioMistral-7B", "model: 7", r"slices\[0\].sources\[1\].model: expected a name, found 7"),
        ("BioMistral/BioMistral-7B", "intfloat/e5-mistral-7b-instruct/", r"sources\[1\].model: .* stands here twice"),
        (
            "tokenizer_source: intfloat/e5-mistral-7b-instruct",
            "tokenizer_source: union",
            "a recipe keeps the tokenizer",
        ),
        (
            "tokenizer_source: intfloat/e5-mistral-7b-instruct",
            "tokenizer: {tokens: {}}",
            "tokenizer.tokens: unknown key",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(old, new, message, read, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        read(PAPER.replace(old, new))
    assert str(tmp_path / "merge.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: ties, models: [{model: s}, {model: d}]", "base_model is missing: ties needs one"),
        ("merge_method: linear, models: [{model: s, parameters: {weight: 1}}]", "a source and a domain model at least"),
        ("merge_method: linear, models: []", r"models: expected a list, found \[\]"),
        ("merge_method: linear, models: [s, d]", r"models\[0\]: expected fields \(model, parameters\), found 's'"),
        ("merge_method: nuslerp, base_model: s, models: [{model: s}, {model: d}]", "base_model: s is the source"),
        (
            "merge_method: slerp, base_model: s, models: [{model: d, parameters: {t: 0.5}}]",
            r"models\[0\].parameters.t: mergekit does not look here",
        ),
        ("merge_method: slerp, base_model: s, models: [{model: d}]", "parameters.t is missing: slerp needs it"),
        (
            "merge_method: slerp, base_model: s, models: [{model: d}, {model: e}], parameters: {t: 0.5}",
            "slerp, with source and 2 domain models",
        ),
        (
            "merge_method: task_arithmetic, base_model: s, slices: [{sources: [{model: d, layer_range: [0, 2]}, "
            "{model: e, layer_range: [0, 2]}]}], parameters: {weight: 1}",
            r"slices\[0\].sources: the base model s is missing",
        ),
        (
            "merge_method: karcher, slices: [{sources: [{model: s, layer_range: [0, 2]}, {model: d, layer_range: "
            "[0, 2]}]}, {sources: [{model: d, layer_range: [2, 4]}]}]",
            r"slices\[1\].sources: expected s, d; found d",
        ),
        (
            "merge_method: ties, base_model: s, models: [{model: d}], parameters: {weight: 1}",
            "alpha would change nothing",
        ),
    ],
)
def test_models_that_do_not_fit_the_method_are_refused(text, message, read):
    with pytest.raises(ValueError, match=message):
        read("{" + text + "}")


def test_arguments_that_do_not_fit_the_file_are_refused(read, tmp_path):
    with pytest.raises(ValueError, match="source='e5' is not one of the file's models: intfloat/e5"):
        read(PAPER, source="e5")
    with pytest.raises(ValueError, match="'method' is the file's to say; read_recipe takes"):
        read(PAPER, method="slerp")
    with pytest.raises(FileNotFoundError, match="no merge file"):
        read_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not readable YAML"):
        read_recipe(tmp_path / "binary.yaml")


def test_what_mergekit_cannot_name_is_refused_or_said():
    with pytest.raises(ValueError, match="mergekit takes each model once; the recipe names 's' more than once"):
        recipe_yaml(MergeRecipe.halves("s", "s", 0.5, 1), 4)
    with pytest.raises(ValueError, match="3 segments do not fit 2 layers"):
        recipe_yaml(MergeRecipe("s", "d", (Segment(0), Segment(0.5), Segment(1))), 2)
    text = recipe_yaml(MergeRecipe.halves("package:some/model", "d", 0.5, 1), 4)
    assert "# - It knows no names that begin with 'package:' or '~': write folders in their place." in text


def test_a_segment_that_mergekit_would_compute_otherwise_is_pointed_out(tmp_path, caplog):
    weights = [{"model": "s", "parameters": {"weight": 1}}, {"model": "d", "parameters": {"weight": 0}}]
    content = {"merge_method": "task_arithmetic", "base_model": "b", "models": [*weights, {"model": "b"}]}
    (tmp_path / "merge.yml").write_text(yaml.safe_dump(content))
    assert read_recipe(tmp_path / "merge.yml", source="s").keeps_source
    assert "layers with weight 1 for s and 0 for the others are its own" in caplog.text
