"""English BM25 and letters beyond ASCII: words reach both engines whole, and text without them stays as it is."""

# ruff: noqa: RUF001 (letters that look like others are what is tested)

from __future__ import annotations

import json
import shutil
import string
import time
import unicodedata

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge.collections import from_frames, get_collection
from pyterrier_merge.retrieval.lexical import bm25 as room
from pyterrier_merge.retrieval.lexical.bm25 import bm25
from pyterrier_merge.retrieval.lexical.letters import LettersBeyondAscii

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="engine='terrier' needs Java")
both = pytest.mark.parametrize("engine", ["pisa", pytest.param("terrier", marks=needs_java)])

QRELS = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})
TEXTS = {
    "catenin": "β-catenin signalling",
    "naïve": "naïve T cells",
    "na-ve": "na ve",
    "tnf-α": "TNF-α inhibitors",
    "tnf-β": "TNF-β inhibitors",
    "ifnγ": "IFNγ release",
    "il": "IL-1β and β2-microglobulin",
    "sjögren": "Primary Sjögren's syndrome",
    "decomposed": "Me\u0301nie\u0300re's disease",
    "micro": "5 µm of tissue",
    "ligature": "cystic ﬁbrosis",
    "long": "hæmoglobinopathies here",
    "russian": "рак лёгкого",
    "japanese": "腎臓の病気",
    "signs": "37 °C ≥ 5 – “acute” m² 10⁶ nº",
}


def queries(*texts):
    return pd.DataFrame({"qid": [str(number) for number in range(1, len(texts) + 1)], "query": list(texts)})


def collection_of(texts, **options):
    docs = [{"docno": docno, "text": text} for docno, text in texts.items()]
    return from_frames("letters", docs, queries("x"), QRELS, **options)


def found_by(retriever, *texts):
    found = retriever(queries(*texts))
    return {text: found[found["query"] == text]["docno"].tolist() for text in texts}


@both
def test_words_are_found_whole(engine):
    expected = {
        "naïve": {"naïve"},
        "NAÏVE": {"naïve"},
        "nai\u0308ve": {"naïve"},  # decomposed
        "naïvely": {"naïve"},  # stemmed
        "na": {"na-ve"},
        "ve": {"na-ve"},
        "β": {"catenin", "tnf-β", "il"},
        "Β": {"catenin", "tnf-β", "il"},  # capital beta
        "β2": {"catenin", "tnf-β", "il"},
        "TNF": {"tnf-α", "tnf-β"},
        "IFN": {"ifnγ"},
        "IFN-γ": {"ifnγ"},
        "γ": {"ifnγ"},
        "Sjögren": {"sjögren"},
        "SJÖGREN'S": {"sjögren"},
        "Sjögrens": {"sjögren"},
        "Sj": set(),
        "Ménière": {"decomposed"},
        "μm": {"micro"},  # the Greek letter
        "fibrosis": {"ligature"},
        "HÆMOGLOBINOPATHIES": {"long"},
        "Лёгкого": {"russian"},
        "腎臓の病気": {"japanese"},
        "腎臓": set(),  # English has no analyser of Japanese
        "acute": {"signs"},
        "37": {"signs"},
        "10": {"signs"},
        "° ≥ – “ ² ⁶ º": set(),
    }
    retriever = bm25(collection_of(TEXTS), engine=engine)
    assert {query: set(docnos) for query, docnos in found_by(retriever, *expected).items()} == expected
    scores = retriever(queries("TNF-α")).set_index("docno")["score"]
    assert scores["tnf-α"] > scores["tnf-β"] > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Plain TEXT, U.S.A. x_y's 1.5", None),
        ("37 °C ≥5 – “a”—b’s a\u00adb • ® ∞ 🙂", None),
        ("m² CO₂ ½ 10⁶ nº wordᵃ", "m  CO    10  n  word "),
        ("x\u0304 \u2212 p\u0302", "x \u2212 p"),  # marks without a letter of their own
        ("ﬁnding Ｔｙｐｅ １ ﬂow Weiß İstanbul", "finding type 1 flow weiss istanbul"),
    ],
)
def test_text_without_such_letters_stays(text, expected):
    encoded = LettersBeyondAscii().encoded(text).replace("Weiss", "weiss")
    assert encoded == (text if expected is None else expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Äpfel", "ä\u0070fel"),
        ("Ä", "a\u0308"),
        ("µ", "μ"),
        ("Ω", "Ω"),  # the sign of the unit
        ("Å", "Å"),
        ("ΣΑΣ", "σας"),
        ("𝛼", "α"),
        ("Ǆ", "ǆ"),
        ("ﬁancée", "fiancée"),
    ],
)
def test_forms_of_a_letter_are_one(one, other):
    encoded = LettersBeyondAscii().encoded
    assert encoded(one) == encoded(other)
    assert encoded(one).isascii()


def test_words_with_different_letters_are_different():
    words = ["naïve", "naive", "nave", "naîve", "naïv", "nïave", "naïveé", "é", "è", "α", "β", "αβ", "а", "a"]
    encoded = [LettersBeyondAscii().encoded(word) for word in words]
    assert len(set(encoded)) == len(words)


@both
def test_neither_tokeniser_nor_stemmer_changes_an_encoded_word(engine):
    """Words that end in a letter beyond ASCII, and words of other scripts: each finds itself and nothing else."""
    letters = [chr(number) for number in range(0xE0, 0x250) if chr(number).islower()]
    letters = [letter for letter in letters if not unicodedata.normalize("NFKC", letter).isascii()]
    latin = {unicodedata.normalize("NFKC", f"k{one}{other}") for one in letters[::9] for other in letters[::2]}
    greek = {f"{one}{other}{one}" for one in "αβγδεζηθικλμν" for other in "αβγδεζηθικλμνξοπρτυφχψω"}
    words = sorted({word for word in latin | greek if not word.isascii()})
    assert len(words) > 1_000
    retriever = bm25(collection_of({f"d{place}": word for place, word in enumerate(words)}), engine=engine)
    found = retriever(queries(*words))
    assert found["docno"].tolist() == [f"d{place}" for place in range(len(words))]


@both
@pytest.mark.parametrize("ending", ["", "s", "e", "ing", "ers", "ationally", "ment", "ness", "12345", "bcdfghjklmnpq"])
def test_what_follows_is_stemmed_and_never_lost(engine, ending):
    texts = {"d1": f"zé{ending}", "d2": "z", "d3": "word"}
    retriever = bm25(collection_of(texts), engine=engine)
    assert found_by(retriever, f"zé{ending}", f"ZÉ{ending.upper()}") == {
        f"zé{ending}": ["d1"],
        f"ZÉ{ending.upper()}": ["d1"],
    }


def test_a_long_run_of_ascii_takes_no_time():
    runs = string.ascii_letters * 20_000
    start = time.perf_counter()
    LettersBeyondAscii().encoded(f"é {runs} {runs}é é{runs}")
    assert time.perf_counter() - start < 5  # of seconds; days where each letter starts a search of the rest


def test_an_index_of_the_time_before_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    collection = collection_of(TEXTS)
    monkeypatch.setattr(room, "BEFORE_ENGINE", {})
    before = bm25(collection)
    bm25(collection, index_path=tmp_path / "index").index()
    path, fingerprint = before.index(), before.fingerprint
    assert found_by(before, "β")["β"] == []
    monkeypatch.undo()
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    now = bm25(collection)
    assert now.index() != path
    assert now.fingerprint != fingerprint
    assert found_by(now, "β")["β"] != []
    with pytest.raises(ValueError, match=r"index holds .*expected .*beyond ASCII.*choose another index_path"):
        bm25(collection, index_path=tmp_path / "index")(queries("β"))


def test_other_languages_are_as_they_were():
    assert set(room.BEFORE_ENGINE) == {"en"}
    de = bm25(collection_of(TEXTS, language="de"))
    assert "beyond ASCII" not in json.loads((de.index() / "bm25.json").read_text())["terms"]


@pytest.mark.parametrize(
    ("engine", "k1", "b", "expected"),
    [("pisa", 0.9, 0.4, 0.67761), pytest.param("terrier", 1.2, 0.75, 0.68390, marks=needs_java)],
)
def test_plain_text_keeps_its_figure(scifact_home, engine, k1, b, expected):
    """SciFact with a space for each letter beyond ASCII: what the engines' tokenisers make of it by themselves."""

    def plain(text):
        return "".join(sign if sign.isascii() or not sign.isalpha() else " " for sign in text)

    scifact = get_collection("scifact")
    docs = [{"docno": doc["docno"], "text": plain(doc["text"])} for doc in scifact.corpus_iter(verbose=False)]
    topics = scifact.topics("test").assign(query=lambda frame: frame["query"].map(plain).str.strip())
    found = bm25(from_frames("plain", docs, topics, scifact.qrels("test")), engine=engine, k1=k1, b=b)(topics)
    figure = pt.Evaluate(found, scifact.qrels("test"), [nDCG @ 10])["nDCG@10"]
    assert figure == pytest.approx(expected, abs=0.000005)
