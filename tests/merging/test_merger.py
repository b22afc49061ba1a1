import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from mergekit.merge_methods import merge_tensors
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from transformers import AutoModel, AutoTokenizer, NomicBertConfig, NomicBertModel

from pyterrier_merge import MergedE5Encoder, MergeRecipe, Segment
from pyterrier_merge.encoding.saving.folder import save_merge
from pyterrier_merge.merging import blending
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.merger import Merger
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.merging.places import is_embedding, is_final_norm, layer_of
from pyterrier_merge.methods import blend, get_method, list_methods

FAMILIES = ["bert", "mistral"]


@pytest.fixture(params=FAMILIES)
def pair(request):
    return request.getfixturevalue(f"{request.param}_retriever"), request.getfixturevalue(
        f"{request.param}_language_model"
    )


@pytest.fixture(scope="session")
def other_language_model(bert_language_model, tmp_path_factory):
    """A third BERT of the same vocabulary."""
    folder = shutil.copytree(bert_language_model, tmp_path_factory.mktemp("other") / "lm")
    generator = torch.Generator().manual_seed(5)
    tensors = load_file(folder / "model.safetensors")
    moved = {name: tensor + torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def live(folder, dtype=torch.float32):
    return AutoModel.from_pretrained(folder, dtype=dtype)


def merge(model, recipe):
    return Merger(model, Parents(recipe)).merge(recipe)


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_every_tensor_is_what_the_formula_says(pair):
    model = live(pair[0])
    merge(model, MergeRecipe.halves(*pair, 0.25, 0.75))
    source, domain = Checkpoint(pair[0]), Checkpoint(pair[1])
    for name, tensor in model.named_parameters():
        layer = layer_of(name)
        if layer is None and not is_final_norm(name):
            expected = source.tensor(name)  # embeddings and pooler are the source's
        else:
            alpha = 0.25 if layer in (0, 1) else 0.75
            expected = alpha * source.tensor(name) + (1 - alpha) * domain.tensor(name)
        torch.testing.assert_close(tensor.detach(), expected, rtol=0, atol=1e-6, msg=name)


def test_the_report_tells_weights_and_distances(pair):
    merges = merge(live(pair[0]), MergeRecipe.halves(*pair, 0.25, 1))
    source, domain = Checkpoint(pair[0]), Checkpoint(pair[1])
    assert {merged.layer for merged in merges if merged.weights == (0.25, 0.75)} == {0, 1}
    for merged in merges:
        alpha, (to_domain,) = merged.weights[0], merged.to_domains
        apart = (source.tensor(merged.name) - domain.tensor(merged.name)).norm()
        size = {model: model.tensor(merged.name).norm() for model in (source, domain)}
        relative = {model: float(apart / norm) if norm else float(apart) for model, norm in size.items()}
        assert merged.to_source == pytest.approx((1 - alpha) * relative[source], abs=1e-5)
        assert to_domain == pytest.approx(alpha * relative[domain], rel=1e-4)


def test_merging_again_starts_from_the_parents(pair):
    model, fresh = live(pair[0]), live(pair[0])
    again = Merger(model, Parents(MergeRecipe.halves(*pair, 1, 1)))
    for alphas in [(0, 0), (0.5, 1), (1, 0.25), (0.75, 1)]:
        again.merge(MergeRecipe.halves(*pair, *alphas))
    merge(fresh, MergeRecipe.halves(*pair, 0.75, 1))
    assert same(model, fresh)
    again.merge(MergeRecipe.halves(*pair, 1, 1))
    assert same(model, live(pair[0]))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "slerp"},
        {"method": "task_arithmetic", "parameters": {"lambda": 0.5}},
        {"embeddings": 0.25},
        {"segments": (Segment(0.5, parts={"attention": 0.25}),)},
        {"segments": (Segment(0.5, parts={"attention": 0.5, "feed_forward": 1}),)},
    ],
)
def test_whatever_the_recipe_changes_is_merged_anew_and_back(change, pair):
    model, fresh = live(pair[0]), live(pair[0])
    plain = MergeRecipe.halves(*pair, 0.5, 0.5)
    changed = replace(plain, **change)
    again = Merger(model, Parents(plain))
    again.merge(plain)
    reported = again.merge(changed)
    assert [(one.weights, one.part) for one in reported] == [(o.weights, o.part) for o in merge(fresh, changed)]
    assert same(model, fresh)
    again.merge(plain)
    fresh = live(pair[0])
    merge(fresh, plain)
    assert same(model, fresh)


def test_embeddings_and_final_norm_have_weights_of_their_own(mistral_retriever, mistral_language_model):
    pair = (mistral_retriever, mistral_language_model)
    model = live(pair[0])
    merges = merge(model, MergeRecipe.halves(*pair, 1, 1, embeddings=0.25, final_norm=0.5))
    source, domain = Checkpoint(pair[0]), Checkpoint(pair[1])
    moved = {merged.name: merged.weights[0] for merged in merges if merged.to_source > 0}
    assert moved == {"embed_tokens.weight": 0.25}  # both final norms are all ones: half of each is the same
    expected = 0.25 * source.tensor("embed_tokens.weight") + 0.75 * domain.tensor("embed_tokens.weight")
    torch.testing.assert_close(model.embed_tokens.weight.detach(), expected)
    assert next(merged.weights for merged in merges if merged.name == "norm.weight") == (0.5, 0.5)


def test_all_embedding_tensors_go_together(bert_retriever, bert_language_model):
    merges = merge(live(bert_retriever), MergeRecipe.halves(bert_retriever, bert_language_model, 1, 1, embeddings=0.5))
    moved = {merged.name for merged in merges if merged.to_source > 0}
    assert moved == {f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")}
    assert all(map(is_embedding, moved))


def test_several_domain_models_are_blended_by_their_weights(bert_retriever, bert_language_model, other_language_model):
    domains = (bert_language_model, other_language_model)
    recipe = MergeRecipe(bert_retriever, domains, (Segment(0.5), Segment(0.5, domain_weights=(0.125, 0.375))))
    model = live(bert_retriever)
    merges = merge(model, recipe)
    source, one, other = (Checkpoint(folder) for folder in (bert_retriever, *domains))
    for name, weights in (("encoder.layer.0", (0.5, 0.25, 0.25)), ("encoder.layer.3", (0.5, 0.125, 0.375))):
        name = f"{name}.output.dense.weight"
        expected = sum(weight * model.tensor(name) for weight, model in zip(weights, (source, one, other), strict=True))
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), expected)
        merged = next(merged for merged in merges if merged.name == name)
        assert merged.weights == weights
        assert merged.to_domains[1] == pytest.approx(
            float((expected - other.tensor(name)).norm() / other.tensor(name).norm()), rel=1e-4
        )


WEIGHTLESS_PARAMETERS = {"nearswap": {"t": 0.01}, "ties": {"normalize": False}, "della": {"normalize": False}}


@pytest.mark.parametrize("method", list_methods())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_method_merges_as_mergekit_does_and_is_rounded_once(
    method, dtype, bert_retriever, bert_language_model, other_language_model
):
    several = method in ("model_stock", "multislerp", "karcher")
    domains = (bert_language_model, *([other_language_model] if several else []))
    kind = get_method(method)
    alpha = 0.25 if kind.weighted else None
    recipe = MergeRecipe.halves(
        bert_retriever, domains, alpha, 1, method=method, parameters=WEIGHTLESS_PARAMETERS.get(method, {}), seed=7
    )
    model = live(bert_retriever, dtype)
    merges = {merged.name: merged for merged in merge(model, recipe)}
    parents = [Checkpoint(folder) for folder in (bert_retriever, *domains)]
    for name, parameter in model.named_parameters():
        tensors = [parent.tensor(name).float() for parent in parents if name in parent.body]
        if layer_of(name) in (0, 1):
            weights = recipe.segments[0].weights(len(domains))
            exact = blend(tensors, kind, weights, parameters=dict(recipe.parameters), name=name, seed=7)
            assert torch.equal(parameter, exact.to(dtype)), name
            assert merges[name].weights == weights
        else:
            assert torch.equal(parameter, tensors[0].to(dtype)), name
    assert any(merged.to_source > 1e-4 for merged in merges.values())


def test_large_tensors_are_merged_in_pieces_to_the_same_bits(pair, monkeypatch):
    model, pieces = live(pair[0]), live(pair[0])
    recipe = MergeRecipe.halves(*pair, 0.3, 0.7)
    whole = merge(model, recipe)
    monkeypatch.setattr(blending, "_PIECE", 100)
    cut = merge(pieces, recipe)
    assert same(model, pieces)
    assert [merged.to_source for merged in cut] == pytest.approx([merged.to_source for merged in whole], rel=1e-5)


def test_what_is_known_of_the_parents_is_measured_once(pair):
    recipe = MergeRecipe.halves(*pair, 0.3, 0.7)
    parents = Parents(recipe)
    blender = blending.Blender(parents, recipe)
    name = next(name for name in parents.source.body if layer_of(name) == 0)
    out = torch.empty(parents.source.body[name].shape)
    first = blender.blend_into(out, name).tolist()
    told = blender.describe(name, first, out.dtype)
    again = blender.blend_into(out, name).tolist()
    assert again == first[4:]  # of norms, distances apart and moved, two each
    assert blender.describe(name, again, out.dtype) == told


def test_a_tensor_without_elements_is_merged(bert_retriever, bert_language_model, tmp_path):
    folders = []
    for folder in (bert_retriever, bert_language_model):
        folders.append(shutil.copytree(folder, tmp_path / str(len(folders))))
        tensors = load_file(folders[-1] / "model.safetensors")
        prefix = "bert." if "bert.encoder.layer.0.output.dense.bias" in tensors else ""
        tensors[f"{prefix}encoder.layer.0.adapter.weight"] = torch.empty(0, 32)
        save_file(tensors, folders[-1] / "model.safetensors", metadata={"format": "pt"})
    recipe = MergeRecipe.halves(*folders, 0.5, 1)
    merged = load_file(save_merge(recipe, tmp_path / "merged") / "model.safetensors")
    assert merged["encoder.layer.0.adapter.weight"].shape == (0, 32)


def test_the_arithmetic_in_the_model_is_mergekits_to_the_bit(pair):
    model = live(pair[0])
    merge(model, MergeRecipe.halves(*pair, 0.3, 0.7))
    source, domain = Checkpoint(pair[0]), Checkpoint(pair[1])
    for name, parameter in model.named_parameters():
        if (layer := layer_of(name)) is not None:
            alpha = 0.3 if layer < 2 else 0.7
            tensors = [source.tensor(name), domain.tensor(name)]
            expected = merge_tensors(tensors, "linear", parameters={"weight": [alpha, 1 - alpha]})
            assert torch.equal(parameter, expected), name


PARTS = {
    "attention": ("self_attn", "attention.self", "attention.output.dense"),
    "feed_forward": ("mlp", "intermediate.dense", "0.output.dense", "1.output.dense"),
}


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic"])
def test_parts_of_layers_have_weights_of_their_own_to_the_bit(method, pair):
    """Against mergekit's tensor function, with alphas told by hand from the names that tiny models have."""
    alphas = {"attention": 0.25, "feed_forward": 0.75, None: 0.5}
    segment = Segment(0.5, parts={part: alphas[part] for part in PARTS})
    model = live(pair[0])
    merges = merge(model, MergeRecipe(*pair, (segment, Segment(1)), method=method))
    parameters, source, domain = dict(model.named_parameters()), Checkpoint(pair[0]), Checkpoint(pair[1])
    assert {merged.part for merged in merges} == {None, *PARTS}
    for merged in merges:
        name, tensors = merged.name, [source.tensor(merged.name), domain.tensor(merged.name)]
        if merged.layer not in (0, 1):
            assert torch.equal(parameters[name], tensors[0])
            continue
        found = [part for part, names in PARTS.items() if any(piece in name for piece in names)]
        part = found[0] if found else None
        assert (merged.part, merged.weights) == (part, (alphas[part], 1 - alphas[part]))
        left = 1 - alphas[part]
        given = {"linear": {"weight": [1 - left, left]}, "slerp": {"t": left}, "task_arithmetic": {"weight": [left]}}
        base = None if method == "linear" else 0
        expected = merge_tensors(tensors, method, parameters=given[method], base_index=base)
        assert torch.equal(parameters[name], expected), name


def test_the_first_part_counts_and_the_final_norm_is_in_none(mistral_retriever, mistral_language_model):
    pair = (mistral_retriever, mistral_language_model)
    segment = Segment(0.75, parts={"q_proj": 0.25, "self_attn": 0.5, "norm": 1})
    weights = {merged.name: merged.weights[0] for merged in merge(live(pair[0]), MergeRecipe(*pair, (segment,)))}
    assert weights["layers.2.self_attn.q_proj.weight"] == 0.25
    assert weights["layers.2.self_attn.k_proj.weight"] == 0.5
    assert weights["layers.2.input_layernorm.weight"] == 1
    assert weights["layers.2.mlp.up_proj.weight"] == weights["norm.weight"] == 0.75


def test_a_part_keeps_the_source_under_a_method_without_weights(pair):
    model, source = live(pair[0]), Checkpoint(pair[0])
    segment = Segment(None, parts={"attention": 1})
    merges = merge(model, MergeRecipe(*pair, (segment,), method="sce"))
    for merged in merges:
        if merged.part == "attention":
            assert torch.equal(dict(model.named_parameters())[merged.name], source.tensor(merged.name))
    assert any(merged.to_source for merged in merges if merged.part is None)


@pytest.mark.parametrize(
    ("family", "parts", "message"),
    [
        ("bert", ["self_attn"], r"part 'self_attn' of segment .* \(layers 0 to 1 .* did you mean 'attention'\?"),
        (
            "bert",
            ["mlp"],
            r"part 'mlp' .* did you mean 'feed_forward'\? parts there: 'attention', .* intermediate.dense",
        ),
        ("bert", ["attention.slef"], r"did you mean 'attention.self.\w+'\?"),
        ("bert", ["layer.3."], "part 'layer.3.' of segment .* has no tensor there"),
        (
            "mistral",
            ["q_porj"],
            r"did you mean 'q_proj'\? parts there: 'attention', 'feed_forward' .*self_attn.q_proj",
        ),
        (
            "mistral",
            ["attention", "k_proj"],
            "part 'k_proj' .* takes no tensor: .* 'attention' before it.* put it first",
        ),
        ("mistral", ["norm", "input_layernorm"], "belong to 'norm' before it"),
    ],
)
def test_a_part_that_finds_no_tensor_is_an_error(family, parts, message, request, tmp_path):
    pair = [request.getfixturevalue(f"{family}_{kind}") for kind in ("retriever", "language_model")]
    recipe = MergeRecipe(*pair, (Segment(0.5, parts=dict.fromkeys(parts, 0.25)), Segment(1)))
    with pytest.raises(ValueError, match=message):
        merge(live(pair[0]), recipe)
    with pytest.raises(ValueError, match=message):
        save_merge(recipe, tmp_path / "out", pooling="mean")


@pytest.mark.parametrize("method", ["linear", "slerp", "nuslerp", "multislerp"])
def test_an_alpha_of_0_is_the_domain_model_to_the_bit(method, pair):
    model = live(pair[0])
    merge(model, MergeRecipe.halves(*pair, 0, 0, method=method))
    domain = Checkpoint(pair[1])
    layers = [name for name, _ in model.named_parameters() if layer_of(name) is not None]
    assert layers
    assert all(torch.equal(dict(model.named_parameters())[name], domain.tensor(name)) for name in layers)


def test_a_copy_of_the_source_as_domain_model_is_an_error(bert_retriever):
    with pytest.raises(ValueError, match="nothing was merged: all 64 tensors"):
        merge(live(bert_retriever), MergeRecipe.halves(bert_retriever, bert_retriever, 0.5, 0.5))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_parent_is_named_and_the_next_merge_is_clean(poison, bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "poisoned")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.3.output.dense.weight"][5, 7] = poison
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = live(bert_retriever)
    recipe = MergeRecipe.halves(bert_retriever, folder, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"encoder\.layer\.3\.output\.dense\.weight.*poisoned holds NaN or infinity"):
        merge(model, recipe)
    clean = MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 1)
    merge(model, clean)
    fresh = live(bert_retriever)
    merge(fresh, clean)
    assert same(model, fresh)


def test_large_weights_are_not_called_nan_nor_a_types_fault(bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "large")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.3.output.dense.weight"][5, 7] = 1e30
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"output\.dense\.weight.*large holds weights up to 1e\+30, whose squares over"
    ):
        merge(live(bert_retriever), MergeRecipe.halves(bert_retriever, folder, 0.5, 0.5))
    settings = {"method": "task_arithmetic", "parameters": {"lambda": 1e38}}
    with pytest.raises(
        ValueError, match=r"torch\.float32 cannot hold; are the recipe's weights or parameters too large"
    ):
        merge(live(bert_retriever), MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 0.5, **settings))


def test_names_that_transformers_changes_while_loading_are_told_from_lacking_weights(bert_retriever, tmp_path):
    config = NomicBertConfig(vocab_size=25, hidden_size=32, num_hidden_layers=4, num_attention_heads=4)
    folders = [tmp_path / "source", tmp_path / "domain"]
    for folder in folders:
        NomicBertModel(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(folder)
    recipe = MergeRecipe.halves(*folders, 0.25, 0.75)
    said = r"\(nomic_bert\) under other names .*'embeddings\.LayerNorm\.weight'.*'encoder\.layers\.0.*to a folder"
    with pytest.raises(ValueError, match=said):
        merge(live(folders[0]), recipe)
    source, domain, merged = (
        live(folder).state_dict() for folder in (*folders, save_merge(recipe, tmp_path / "merged", pooling="mean"))
    )
    for name, tensor in merged.items():
        alpha = {None: 1, 0: 0.25, 1: 0.25}.get(layer_of(name), 0.75)
        torch.testing.assert_close(tensor, alpha * source[name] + (1 - alpha) * domain[name])


def test_parameters_that_the_source_lacks_are_an_error(bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    del tensors["embeddings.LayerNorm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for 1 parameters .*embeddings\.LayerNorm\.weight.*random"):
        merge(live(bert_retriever), MergeRecipe.halves(folder, bert_language_model, 0.5, 1))


def test_embeddings_of_another_vocabulary_are_not_merged(bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "reordered")
    tokenizer = (folder / "tokenizer.json").read_text()
    swapped = tokenizer.replace('"kidney": ', '"k": ').replace('"liver": ', '"kidney": ').replace('"k": ', '"liver": ')
    assert swapped != tokenizer
    (folder / "tokenizer.json").write_text(swapped)
    merge(live(bert_retriever), MergeRecipe.halves(bert_retriever, folder, 0.5, 1))  # the body is
    with pytest.raises(ValueError, match="embeddings"):
        merge(live(bert_retriever), MergeRecipe.halves(bert_retriever, folder, 0.5, 1, embeddings=0.5))


@pytest.fixture(scope="session")
def projected_pair(bert_retriever, tmp_path_factory):
    """Two retrievers of one shape with a dense module after the pooling, of other weights throughout."""
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = SentenceTransformer(str(bert_retriever), device="cpu")
        model.append(Dense(32, 8))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=seed)
        folders.append(tmp_path_factory.mktemp("projected"))
        model.save(str(folders[-1]))
    return tuple(folders)


def test_a_projection_head_has_a_weight_of_its_own(projected_pair):
    heads = [load_file(folder / "3_Dense" / "model.safetensors") for folder in projected_pair]
    encoder = MergedE5Encoder.from_recipe(MergeRecipe.halves(*projected_pair, 1, 0.5, head=0.25), device="cpu")
    moved = {merged.name for merged in encoder.tensor_merges if merged.weights == (0.25, 0.75)}
    assert moved == {"head.0.linear.weight", "head.0.linear.bias"}
    live_head = encoder._text_model().projection
    for key in ("linear.weight", "linear.bias"):
        expected = 0.25 * heads[0][key] + 0.75 * heads[1][key]
        torch.testing.assert_close(live_head[f"head.0.{key}"].detach(), expected)
    kept = MergedE5Encoder.from_recipe(MergeRecipe.halves(*projected_pair, 1, 0.5), device="cpu")
    assert torch.equal(kept._ready().projection["head.0.linear.weight"], heads[0]["linear.weight"])
    encoder.recipe = kept.recipe
    np.testing.assert_array_equal(encoder.encode_docs(["renal failure"]), kept.encode_docs(["renal failure"]))


def test_a_head_that_is_not_there_is_not_merged(projected_pair, bert_retriever, bert_language_model):
    for source, domain, message in (
        (bert_retriever, bert_language_model, "has no projection head to merge: leave `head` at 1"),
        (projected_pair[0], bert_language_model, r"has no tensor 'head\.0\.linear\.weight'"),
    ):
        encoder = MergedE5Encoder.from_recipe(MergeRecipe.halves(source, domain, 0.5, 1, head=0.5), device="cpu")
        with pytest.raises(ValueError, match=message):
            encoder.encode_docs(["fever"])


def test_a_final_norm_that_is_not_there_is_warned_of(bert_retriever, bert_language_model, caplog):
    recipe = MergeRecipe.halves(bert_retriever, bert_language_model, 0.5, 1, final_norm=0.5)
    merge(live(bert_retriever), recipe)
    assert "has no norm after its last layer: final_norm=0.5 merges nothing" in caplog.text


def test_a_model_that_changes_its_part_is_not_taken_for_what_it_was(
    bert_retriever, bert_language_model, other_language_model
):
    one, other = bert_language_model, other_language_model
    two = MergeRecipe.halves(bert_retriever, [one, other], 0.5, 0.5, method="task_arithmetic")
    based = MergeRecipe.halves(bert_retriever, one, 0.5, 0.5, method="task_arithmetic", base=str(other))
    encoder = MergedE5Encoder.from_recipe(two, device="cpu")
    encoder.encode_docs(["fever"])
    encoder.recipe = based
    fresh = MergedE5Encoder.from_recipe(based, device="cpu")
    np.testing.assert_array_equal(encoder.encode_docs(["fever"]), fresh.encode_docs(["fever"]))
    with pytest.raises(ValueError, match="merges other models than those that were opened"):
        Merger(live(bert_retriever), Parents(two)).merge(based)


def test_a_poisoned_base_is_named(bert_retriever, bert_language_model, other_language_model, tmp_path):
    folder = shutil.copytree(other_language_model, tmp_path / "poisoned")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = MergeRecipe.halves(
        bert_retriever, bert_language_model, 0.5, 0.5, method="task_arithmetic", base=str(folder)
    )
    with pytest.raises(ValueError, match=r"layer\.1\.output\.dense\.weight.*poisoned holds NaN or infinity"):
        merge(live(bert_retriever), recipe)


def test_a_merge_that_overflows_the_models_type_is_named(bert_retriever, bert_language_model):
    recipe = MergeRecipe.halves(
        bert_retriever, bert_language_model, 0.5, 0.5, method="task_arithmetic", parameters={"lambda": 1e6}
    )
    with pytest.raises(ValueError, match=r"has weights that torch\.float16 cannot hold: use bfloat16 or float32"):
        merge(live(bert_retriever, torch.float16), recipe)
