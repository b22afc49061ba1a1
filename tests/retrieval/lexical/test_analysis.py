"""BM25 beyond English: Japanese by morphemes, on real questions; the other languages' stemmers; terms kept whole."""

# ruff: noqa: RUF001 (full-width letters and signs are what is tested)

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR, nDCG

from pyterrier_merge.collections import from_frames
from pyterrier_merge.retrieval.lexical.analysis import ANALYSES, Japanese, Words
from pyterrier_merge.retrieval.lexical.bm25 import BM25, bm25
from pyterrier_merge.retrieval.lexical.engines import SNOWBALL_STEMMERS

pytest.importorskip("sudachipy", reason="Japanese is analysed by Sudachi")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="engine='terrier' needs Java")
both = pytest.mark.parametrize("engine", ["pisa", pytest.param("terrier", marks=needs_java)])

QRELS = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})
TEXTS = {
    "d1": "東京都の梅雨は、六月から七月まで続く。",
    "d2": "引っ越しには、サーバーの設定を変える必要がある。",
    "d3": "大阪は雨が少ない。",
    "d4": "ＡＫＢ４８のコンサート",
    "d5": "",
    "d6": "、。！？",
}


def queries(*texts):
    return pd.DataFrame({"qid": [str(number) for number in range(1, len(texts) + 1)], "query": list(texts)})


def collection_of(texts, language="ja"):
    docs = [{"docno": docno, "text": text} for docno, text in texts.items()]
    return from_frames("small", docs, queries("雨"), QRELS, language=language)


def found_by(retriever, *texts):
    found = retriever(queries(*texts))
    return {text: found[found["query"] == text]["docno"].tolist() for text in texts}


@pytest.fixture(scope="module")
def jsquad(shared):
    """The first question on each paragraph of JSQuAD, with its paragraph as the only relevant one."""
    articles = json.loads((shared / "jsquad" / "valid-v1.3.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    docs = [
        {"docno": f"d{number}", "text": paragraph["context"].replace("[SEP]", " ")}
        for number, paragraph in enumerate(paragraphs)
    ]
    rows = [
        (paragraph["qas"][0]["id"], paragraph["qas"][0]["question"], doc["docno"], 1)
        for doc, paragraph in zip(docs, paragraphs, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "label"])
    return from_frames("jsquad", docs, frame[["qid", "query"]], frame[["qid", "docno", "label"]], language="ja")


class TestJapaneseTransformer(pt.testing.transformer_test_class(lambda: bm25(collection_of(TEXTS)))):
    pass


@both
def test_the_analyser_finds_the_paragraphs_of_real_questions(jsquad, engine, monkeypatch):
    def figures():
        found = bm25(jsquad, engine=engine, num_results=10)(jsquad.topics("test"))
        return pt.Evaluate(found, jsquad.qrels("test"), [nDCG @ 10, RR @ 10])

    assert jsquad.num_docs == 1_145
    with_analyser = figures()
    monkeypatch.setitem(ANALYSES, "ja", Words())
    without = figures()
    assert with_analyser["nDCG@10"] > 0.93
    assert with_analyser["RR@10"] > 0.91
    for measure, value in without.items():
        assert with_analyser[measure] > value + 0.5


def test_terms_are_content_words_in_one_spelling():
    terms = Japanese().terms
    assert terms("東京都の梅雨は、六月から続く。") == ["東京", "都", "梅雨", "6", "月", "続く"]
    assert terms("引越し 引越 引っ越し") == ["引っ越し"] * 3
    assert terms("サーバ サーバー ｻｰﾊﾞｰ") == ["サーバー"] * 3
    assert terms("行った 行って 行く") == ["行く"] * 3
    assert terms("ＡＫＢ４８ akb48") == ["akb", "48"] * 2
    assert terms("です、。 \n！？「」🙂") == []
    assert terms("") == []


def test_long_texts_are_analysed_whole():
    sentence = "東京都の梅雨は長い。"
    assert Japanese().terms(sentence * 3000) == Japanese().terms(sentence) * 3000
    assert len(Japanese().terms("東京" * 30_000)) > 29_000  # no sentence ends in it
    assert "".join(Japanese().terms("㍿" * 20_000)).count("株式会社") > 19_000  # a character that becomes four


def test_encoded_terms_are_one_ascii_word_each():
    class Given(Words):
        def terms(self, text):
            return text.split(",")

    odd = ["東京", "東", "", "a b", "C++", ".net", "x", "2", "㍿", "🙂", "the", "running"]
    words = Given().encoded(",".join(odd)).split(" ")
    assert len(set(words)) == len(odd)
    assert all(word.isascii() and word.isalnum() and word == word.lower() and len(word) <= 60 for word in words)
    long = Given().encoded(f"{'京' * 18}a,{'京' * 18}b,{'京' * 17}b").split(" ")
    assert long[0] == long[1] != long[2]


@both
def test_documents_and_queries_are_analysed_alike(engine):
    retriever = bm25(collection_of(TEXTS), engine=engine)
    assert found_by(retriever, "東京の六月", "引越のサーバ", "akb48", "雨", "の", "！？", "") == {
        "東京の六月": ["d1"],
        "引越のサーバ": ["d2"],
        "akb48": ["d4"],
        "雨": ["d3"],  # not 梅雨, which is another word
        "の": [],
        "！？": [],
        "": [],
    }


@both
def test_odd_queries_never_break(engine):
    retriever = bm25(collection_of(TEXTS), engine=engine)
    odd = ['"梅雨" AND (雨)', "梅雨:雨^2 -大阪", "#combine(梅雨)", "a/b\\c 梅雨\u2028\0\n", "梅雨~2 *", "梅雨" * 9000]
    for query, docnos in found_by(retriever, *odd).items():
        assert "d1" in docnos, query
    half = pd.DataFrame({"qid": ["1"], "query": pd.Series(["梅雨\ud800"], dtype=object)})
    assert retriever(half)["docno"].tolist() == ["d1"]
    assert found_by(retriever, "🙂", "𠮷野家") == {"🙂": [], "𠮷野家": []}


@needs_java
def test_terms_are_not_stemmed_after_an_english_index_was_searched(monkeypatch):
    english = from_frames("english", [{"docno": "d1", "text": "running"}], queries("run"), QRELS)
    assert found_by(bm25(english, engine="terrier"), "runs")["runs"] == ["d1"]
    monkeypatch.setitem(ANALYSES, "ja", Words())
    words = ["".join(letters) for letters in itertools.product("あいうぉ", repeat=4)]
    assert any(Words().encoded(word).endswith("s") for word in words), "what Porter would cut"
    retriever = bm25(collection_of({f"d{word}": word for word in words}), engine="terrier")
    assert found_by(retriever, *words) == {word: [f"d{word}"] for word in words}


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [
        ("de", "Die Häuser in der Straße", "HAUS"),
        ("fr", "les nationalités", "nationalité"),
        ("es", "las casas blancas", "casa"),
        ("it", "le case bianche", "casa"),
        ("nl", "de katten", "kat"),
        ("ru", "читая книгами", "книга"),
        ("sv", "flickorna", "flicka"),
    ],
)
def test_other_languages(language, text, query):
    collection = collection_of({"d1": text, "d2": "xyz", "d3": "uvw"}, language)
    if shutil.which("java"):
        assert found_by(bm25(collection, engine="terrier"), query)[query] == ["d1"], "Terrier stems"
    word = text.split()[-1]
    assert found_by(bm25(collection), query, word.upper()) == {query: [], word.upper(): ["d1"]}, "PISA does not"


def test_marks_and_soft_hyphens_do_not_end_a_word():
    """Encyclopaedias print the stress of Russian words, and the small letter of İ has a dot of its own."""
    collection = collection_of({"ru": "за\u0301мок", "tr": "İstanbul", "de": "Donau\u00addampf"}, "tr")
    assert found_by(bm25(collection), "замок", "istanbul", "donaudampf", "мок", "dampf") == {
        "замок": ["ru"], "istanbul": ["tr"], "donaudampf": ["de"], "мок": [], "dampf": []
    }  # fmt: skip
    assert Words().terms("éйa\u0308") == ["éйä"]


@needs_java
def test_terrier_has_every_stemmer_that_is_named():
    retriever = bm25(collection_of({"d1": "x y"}, "de"), engine="terrier")
    retriever.index()  # starts Java
    for language in SNOWBALL_STEMMERS:
        found = found_by(bm25(collection_of({"d1": "xyz uvw", "d2": "abc"}, language), engine="terrier"), "xyz: (a)")
        assert found["xyz: (a)"] == ["d1"], language


def test_an_index_is_named_after_its_analysis(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    ja, de = (bm25(collection_of(TEXTS, language)).index() for language in ("ja", "de"))
    assert ja != de
    identity = json.loads((ja / "bm25.json").read_text())
    assert identity["analyser"].startswith("sudachi ")
    assert "sudachidict_core 20" in identity["analyser"]
    monkeypatch.setattr(Japanese, "settings", lambda self: {"analyser": "another version"})
    assert bm25(collection_of(TEXTS)).index() not in (ja, de)


@both
def test_a_corpus_of_signs_is_refused(engine):
    with pytest.raises(ValueError, match="no document of small has a term"):
        bm25(collection_of({"d1": "、。", "d2": ""}), engine=engine).index()


@pytest.mark.parametrize("package", ["sudachipy", "sudachidict_core"])
def test_a_missing_extra_is_said_at_the_door(monkeypatch, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(
        ModuleNotFoundError, match=rf"{package} is not installed; pip install 'pyterrier-merge\[japanese\]'"
    ):
        BM25(collection_of(TEXTS))
    BM25(collection_of(TEXTS, "en"))
