import json
import logging
import shutil

import numpy as np
import pytest
from transformers import AutoTokenizer

from pyterrier_merge import E5Encoder
from pyterrier_merge.encoding.tokens import read_tokenizer, tokenise
from pyterrier_merge.training.windows import tokenise_whole

PAD, UNKNOWN, CLS, SEP = 0, 1, 2, 3
TEXTS = ["acute kidney failure", "", "fever of the liver", "unheardof", "unheardof pain"]


@pytest.fixture
def ids(bert_retriever):
    return AutoTokenizer.from_pretrained(bert_retriever).convert_tokens_to_ids


def whole(texts, folder, **options):
    return tokenise_whole(texts, *read_tokenizer(folder, str(folder), **options))


def windows(texts, folder, length, packing="document", **options):
    return [window.tolist() for window in whole(texts, folder, **options).windows(length, packing=packing)]


def changed(folder, to, **files):
    """A copy with other values in some of its JSON files."""
    shutil.copytree(folder, to)
    for name, values in files.items():
        file = to / f"{name}.json"
        file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | values))
    return to


def test_a_window_is_a_document_or_one_of_its_parts_of_like_length(bert_retriever, ids):
    expected = [
        [CLS, *ids(["acute", "kidney", "failure"]), SEP],
        [CLS, *ids(["fever", "of"]), SEP],
        [CLS, *ids(["the", "liver"]), SEP],
        [CLS, UNKNOWN, *ids(["pain"]), SEP],
    ]
    assert windows(TEXTS, bert_retriever, 5) == expected
    assert whole(TEXTS, bert_retriever).lengths.tolist() == [5, 6, 4]


def test_a_part_of_unknown_words_alone_is_left_out(bert_retriever, ids):
    assert windows(["unheardof heart"], bert_retriever, 3) == [[CLS, *ids(["heart"]), SEP]]


def test_blocks_join_texts(bert_retriever, ids):
    expected = [
        [CLS, *ids(["acute", "kidney", "failure"]), SEP, SEP],
        [CLS, *ids(["fever", "of", "the", "liver"]), SEP],
        [CLS, SEP, UNKNOWN, *ids(["pain"]), SEP, SEP],
    ]
    assert windows(TEXTS, bert_retriever, 6, packing="block") == expected


@pytest.mark.parametrize("length", [8, 13, 32])
def test_nothing_of_a_long_text_is_thrown_away(length, bert_retriever, words):
    text = " ".join(np.random.default_rng(0).choice(words, 100))
    parts = windows([text], bert_retriever, length)
    assert max(map(len, parts)) <= length
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    together = [token for part in parts for token in part[1:-1]]
    assert together == AutoTokenizer.from_pretrained(bert_retriever)(text)["input_ids"][1:-1]


@pytest.mark.parametrize(
    "settings",
    [
        {"config_sentence_transformers": {"prompts": {"query": "high ", "document": "the heart "}}},
        {"sentence_bert_config": {"max_seq_length": 9, "do_lower_case": True}, "tokenizer": {"normalizer": None}},
        {},
    ],
    ids=["a document prompt", "lower case by sentence-transformers alone", "as it is"],
)
def test_short_texts_have_the_tokens_that_the_retriever_encodes(settings, bert_retriever, tmp_path):
    folder = changed(bert_retriever, tmp_path / "model", **settings)
    texts = ["Kidney FAILURE", "the Liver", "Acute \ud800 pain"]
    text_model = E5Encoder(folder, dtype="float32", device="cpu")._text_model()
    expected, _ = text_model._tokenise(texts, text_model.contract.document_prompt)
    assert windows(texts, folder, text_model.contract.max_length) == expected
    assert UNKNOWN not in expected[0]


def test_a_prompt_stands_before_every_window(bert_retriever, ids, tmp_path):
    folder = changed(
        bert_retriever, tmp_path / "model", config_sentence_transformers={"prompts": {"document": "the heart "}}
    )
    the, heart, fever, pain = ids(["the", "heart", "fever", "pain"])
    assert windows(["fever pain"], folder, 5) == [[CLS, the, heart, fever, SEP], [CLS, the, heart, pain, SEP]]
    assert windows(["", "  ", "pain"], folder, 5) == [[CLS, the, heart, pain, SEP]]


def test_what_the_encoder_was_told_comes_before_what_the_files_say(bert_retriever, ids):
    contract = E5Encoder(bert_retriever, document_prompt="high ", max_length=7, dtype="float32", device="cpu").contract
    assert windows(["fever"], bert_retriever, 7, contract=contract) == [[CLS, *ids(["high", "fever"]), SEP]]
    assert read_tokenizer(bert_retriever, "x", contract=contract)[1].max_length == 7
    assert read_tokenizer(bert_retriever, "x", contract=contract, max_length=5)[1].max_length == 5


def test_the_contract_of_the_base_is_the_encoders(bert_retriever, mistral_retriever):
    for folder in (bert_retriever, mistral_retriever):
        encoder = E5Encoder(folder, query_prompt="", dtype="float32", device="cpu")
        assert read_tokenizer(folder, str(folder))[1] == encoder.contract


def test_a_plain_checkpoint_is_read_to_its_last_position(bert_language_model, ids):
    tokenizer, contract = read_tokenizer(bert_language_model, str(bert_language_model))
    assert (contract.max_length, contract.document_prompt, contract.appended) == (64, "", ())
    assert tokenise(tokenizer, ["fever"], "", contract)[0] == [[CLS, *ids(["fever"]), SEP]]


def test_a_plain_checkpoint_of_a_known_family_has_its_prompt(bert_language_model, ids, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "e5-small-v2")
    assert read_tokenizer(folder, str(folder))[1].document_prompt == "passage: "


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", " \n"], "all are empty or blank"),
        (["", "unheardof"], r"knows none of their words and reads each as '\[UNK\]'"),
    ],
)
def test_texts_that_teach_nothing_say_why(texts, message, bert_retriever):
    with pytest.raises(ValueError, match=message):
        whole(texts, bert_retriever)


def test_some_texts_of_unknown_words_are_counted(bert_retriever, caplog):
    with caplog.at_level(logging.WARNING):
        whole(TEXTS, bert_retriever)
    assert "1 of 5 texts are left out" in caplog.text


def test_a_tokenizer_that_cannot_mask_is_refused(mistral_retriever):
    with pytest.raises(ValueError, match="no mask token"):
        whole(["fever"], mistral_retriever)
