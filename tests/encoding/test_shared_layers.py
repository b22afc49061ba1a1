"""Merges that share layers, against each merge by itself: the same vectors to the bit, and how often a layer runs."""

import copy
import random
import shutil
import threading
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    MptConfig,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
)

from pyterrier_merge import MergedE5Encoder, MergeRecipe, Segment
from pyterrier_merge.encoding.forward_pass import ForwardPass
from pyterrier_merge.encoding.shared_layers import SharedLayers, most_kept, plan_walk

SIZES = {
    "vocab_size": 25,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
SHARED_KEYS = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "bert": BertConfig(**SIZES),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen": Qwen3Config(**SIZES, **SHARED_KEYS),
    "gemma 3": Gemma3TextConfig(**SIZES, **SHARED_KEYS, sliding_window=4, use_bidirectional_attention=True),
    "mpnet": MPNetConfig(**SIZES),
    "modernbert": ModernBertConfig(**SIZES, local_attention=6, global_attn_every_n_layers=2, pad_token_id=0),
    "distilbert": DistilBertConfig(vocab_size=25, dim=32, n_layers=4, hidden_dim=48, n_heads=4),
    "gpt 2": GPT2Config(vocab_size=25, n_embd=32, n_layer=4, n_head=4, n_positions=64, pad_token_id=0),
    "mpt, which returns attention weights too": MptConfig(
        vocab_size=25, d_model=32, n_layers=4, n_heads=4, max_seq_len=64, pad_token_id=0
    ),
    "deberta, a convolution between layers": DebertaV2Config(
        **SIZES, conv_kernel_size=3, relative_attention=True, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm"
    ),
}
POSITION_BIAS = T5Config(
    vocab_size=25, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=4, is_encoder_decoder=False
)


def texts(words, count=20):
    generator = random.Random(0)
    return [" ".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, bert_language_model):
    """Writes two models of random weights with the same configuration, once each."""
    made = {}

    def write(name, config, family=AutoModel.from_config):
        if name not in made:
            folders = [tmp_path_factory.mktemp("pair") for _ in range(2)]
            for seed, folder in enumerate(folders):
                for file in bert_language_model.glob("*token*"):
                    shutil.copy(file, folder)
                torch.manual_seed(seed)
                family(copy.deepcopy(config)).save_pretrained(folder)
            made[name] = folders
        return made[name]

    return write


@pytest.fixture
def encoder(pair):
    return make(pair("bert", FAMILIES["bert"]))


def make(models, **settings):
    given = {"pooling": "mean", "dtype": "float32", "device": "cpu", "batch_size": 2, "max_length": 16}
    return MergedE5Encoder(*models, alpha_lower=1, alpha_upper=1, **{**given, **settings})


def halves(encoder, *alphas):
    return [encoder.recipe.with_alphas(*pair) for pair in product(alphas, alphas)]


def of_segments(encoder, *segments, **settings):
    return MergeRecipe(encoder.source, encoder.domain, segments, **settings)


def shared(encoder, recipes, some):
    """Vectors by recipe, through one walk."""
    walk = SharedLayers(encoder, recipes)
    batches = list(encoder.batches(some, kind="document"))
    found = {}
    for recipe, parts in walk.run(recipes, batches):
        found[recipe] = np.empty((len(some), parts[0][1].shape[1]), dtype=np.float32)
        for rows, vectors in parts:
            found[recipe][rows] = vectors
    return found, walk


def alone(encoder, recipe, some):
    encoder.recipe = recipe
    return encoder.encode_docs(some)


def require_equal(encoder, recipes, some):
    found, walk = shared(encoder, recipes, some)
    assert found.keys() == set(recipes)
    for recipe in recipes:
        assert np.array_equal(found[recipe], alone(encoder, recipe, some)), recipe
    assert len({vectors.tobytes() for vectors in found.values()}) == len(recipes)  # and no two are one
    return walk


def layer_calls(monkeypatch, encoder, name="bert"):
    """Counts how often each layer of a loaded encoder computes."""
    calls = Counter()
    body = encoder.open()[0].body
    for place, layer in enumerate(body.encoder.layer):
        layer.attention.register_forward_pre_hook(lambda *_, place=place: calls.update([place]))
    return calls


QUICK = ("bert", "qwen", "mpt, which returns attention weights too", "deberta, a convolution between layers")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in FAMILIES]
)
def test_every_family_gives_what_it_gives_alone(name, pair, words):
    encoder = make(pair(name, FAMILIES[name]))
    assert not require_equal(encoder, halves(encoder, 0, 1), texts(words)).reason


def test_a_retriever_that_pools_its_last_token(mistral_retriever, mistral_language_model, words):
    encoder = make([mistral_retriever, mistral_language_model], pooling=None, max_length=None)
    assert not require_equal(encoder, halves(encoder, 0, 1), texts(words)).reason


def test_layers_that_take_more_than_states_are_run_alone(pair, words, caplog):
    encoder = make(pair("t5", POSITION_BIAS, T5EncoderModel))
    walk = require_equal(encoder, halves(encoder, 0, 1), texts(words))
    assert walk.reason == "its layers need more from those below them than the states of the tokens"
    assert caplog.text.count("every merge is run from its first layer, for its layers need more") == 1
    assert walk.token_bytes(halves(encoder, 0, 1)) == 0


def test_layers_that_read_what_others_left_are_run_alone(encoder, words, monkeypatch, caplog):
    """As Gemma 3n's do: the upper layers read keys and values of a lower one, which a walk would not have run."""
    layers = encoder.open()[0].body.encoder.layer
    left = threading.local()  # batches run in threads
    real = type(layers[0]).forward

    def reads(self, hidden_states, *args, **kwargs):
        if self is layers[0]:
            left.sum = hidden_states.sum(dim=1, keepdim=True)
        elif self is layers[3]:
            hidden_states = hidden_states + left.__dict__.pop("sum")
        return real(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(type(layers[0]), "forward", reads)
    walk = require_equal(encoder, halves(encoder, 0, 1), texts(words))
    assert walk.reason == "its layers cannot be run alone (KeyError: 'sum')"
    left_before = {"sum": 0}

    def wrong(self, hidden_states, *args, **kwargs):
        if self is layers[0]:
            left_before["sum"] += 1
        return real(self, hidden_states + left_before["sum"] * (self is layers[3]), *args, **kwargs)

    monkeypatch.setattr(type(layers[0]), "forward", wrong)
    assert "than the states of the tokens" in SharedLayers(encoder, halves(encoder, 0, 1)).reason


def test_several_devices_run_every_merge_alone(pair, words):
    encoder = make(pair("bert", FAMILIES["bert"]), device=["cpu", "cpu"])
    assert require_equal(encoder, halves(encoder, 0, 1), texts(words)).reason == "several devices share the texts"


def test_a_grid_of_25_runs_the_lower_half_5_times(encoder, words, monkeypatch):
    some, recipes = texts(words), halves(encoder, 0, 0.25, 0.5, 0.75, 1)
    random.Random(1).shuffle(recipes)
    walk = SharedLayers(encoder, recipes)
    batches = list(encoder.batches(some, kind="document"))
    calls = layer_calls(monkeypatch, encoder)
    assert len(list(walk.run(recipes, batches))) == 25
    count = len({tuple(map(tuple, batch.ids)) for batch in batches})
    assert count == len(batches) > 5
    assert calls == {0: 5 * count, 1: 5 * count, 2: 25 * count, 3: 25 * count}


@pytest.mark.parametrize(
    ("name", "alphas", "calls"),
    [
        ("thirds", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0.25, 0.5, 0.75)], [2, 4, 12, 12]),
        ("a layer each", [(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)], [2, 4, 8, 16]),
        ("nothing in common", [(0, 1), (0.5, 1), (1, 1)], [3, 3, 3, 3]),
        ("a profile", [(0.25, 0.5, 0.5, 1), (0.25, 0.5, 0.75, 1), (0.25, 1, 1, 1), (0.5, 0.5, 1, 1)], [2, 3, 4, 4]),
    ],
)
def test_each_prefix_runs_once(encoder, words, monkeypatch, name, alphas, calls):
    sizes = {3: (1, 1, 2)}.get(len(alphas[0]), (1,) * len(alphas[0]))
    recipes = [of_segments(encoder, *map(Segment, own, sizes)) for own in alphas]
    require_equal(encoder, recipes, texts(words))
    batches = list(encoder.batches(texts(words), kind="document"))
    walk, counted = SharedLayers(encoder, recipes), layer_calls(monkeypatch, encoder)
    list(walk.run(recipes, batches))
    assert [counted[place] / len(batches) for place in range(4)] == calls


def test_what_decides_a_layer_counts_not_how_it_is_written(encoder, words):
    """Parts, embeddings, final norms and methods: equal weights are shared, and others are not."""
    own = Segment(0.5, parts={"attention": 1})
    recipes = [
        of_segments(encoder, own, Segment(0.5)),
        of_segments(encoder, own, Segment(0.75)),
        of_segments(encoder, Segment(0.5), Segment(0.75)),
        of_segments(encoder, Segment(0.5, 1), Segment(0.5, 1), Segment(0.25, 2)),  # the same lower half, in two parts
        of_segments(encoder, Segment(0.5), Segment(0.75), embeddings=0.5),
        of_segments(encoder, Segment(0.5), Segment(0.75), method="slerp"),
    ]
    walk = require_equal(encoder, recipes, texts(words))
    steps = {step.place: step for step in walk._steps(recipes)}
    assert [step.shared for _, step in sorted(steps.items())] == [2, 0, 2, 0, 0, 0]


def test_a_merge_that_differs_in_the_final_norm_alone_runs_no_layer(pair, words, monkeypatch):
    encoder = make(pair("llama", FAMILIES["llama"]))
    recipes = [of_segments(encoder, Segment(0.5), final_norm=alpha) for alpha in (0.25, 0.5)]
    with torch.no_grad():  # norms of fresh models are ones, in both
        encoder.open()[0].body.norm.weight.mul_(1)
    walk = SharedLayers(encoder, recipes)
    assert [step.shared for step in walk._steps(recipes)] == [4, 0]
    found, _ = shared(encoder, recipes, texts(words))
    for recipe in recipes:
        assert np.array_equal(found[recipe], alone(encoder, recipe, texts(words)))


def test_states_are_kept_for_as_long_as_they_are_needed():
    steps = plan_walk([tuple(f"e{path}") for path in ("00", "01", "10", "00")])
    assert [(step.place, sorted(step.kept), step.shared) for step in steps] == [
        (0, [1, 2], 2),  # the third begins where the second does: after one layer; the twin needs all
        (3, [], 1),
        (1, [], 0),
        (2, [], 0),
    ]
    assert most_kept(steps) == 2
    assert most_kept(plan_walk([("e", "a", "b"), ("e", "c", "d")])) == 0
    assert most_kept(plan_walk([("e", *path) for path in product("ab", repeat=5)])) == 4


def test_what_a_token_takes_is_what_is_kept(encoder, words):
    recipes = [of_segments(encoder, *map(Segment, own)) for own in product((0, 1), repeat=4)]
    walk = SharedLayers(encoder, recipes)
    assert walk.token_bytes(recipes) == 3 * 32 * 4  # after one layer, two and three: 32 numbers of 4 bytes
    assert walk.token_bytes(recipes[:2]) == 32 * 4
    batches, most = list(encoder.batches(texts(words), kind="document")), 0

    def held(_):
        nonlocal most
        states = [state for kept in walk._kept.values() for state in kept.values()]
        most = max(most, sum(state.untyped_storage().nbytes() for state in states))

    list(walk.run(recipes, batches, held))
    assert most == walk.token_bytes(recipes) * sum(batch.tokens for batch in batches)
    assert not walk._kept


def test_threads_each_begin_with_their_own_batch(encoder, words):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        some = texts(words)
        found, _ = shared(encoder, halves(encoder, 0, 0.5, 1), some)
        for recipe, vectors in found.items():
            assert np.array_equal(vectors, alone(encoder, recipe, some))
    finally:
        torch.set_num_threads(before)


def test_batches_that_were_halved_meanwhile_run_from_the_first_layer(encoder, words, monkeypatch):
    recipes, some = halves(encoder, 0, 1), texts(words)
    walk = SharedLayers(encoder, recipes)
    batches = list(encoder.batches(some, kind="document"))
    real, runs = ForwardPass.__call__, []

    def little_memory(self, ids, **settings):
        runs.append(len(ids))
        if len(runs) > 15 and len(ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, ids, **settings)

    monkeypatch.setattr(ForwardPass, "__call__", little_memory)
    found = {recipe: np.concatenate([vectors for _, vectors in parts]) for recipe, parts in walk.run(recipes, batches)}
    monkeypatch.setattr(ForwardPass, "__call__", real)
    order = [row for batch in batches for row in batch.rows]
    for recipe in recipes:
        np.testing.assert_allclose(found[recipe], alone(encoder, recipe, some)[order], atol=1e-5)


def test_an_interrupted_walk_leaves_the_model_as_it_was(encoder, words):
    recipes, some = halves(encoder, 0, 1), texts(words)
    walk = SharedLayers(encoder, recipes)
    batches = list(encoder.batches(some, kind="document"))

    def interrupt(place):
        if place == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(walk.run(recipes, batches, interrupt))
    running = walk.run(recipes, batches)
    next(running)
    running.close()
    assert not walk._kept
    assert not any("forward" in vars(module) for module in encoder.open()[0].body.modules())
    fresh = make([encoder.source, encoder.domain])
    assert np.array_equal(alone(encoder, recipes[1], some), alone(fresh, recipes[1], some))
