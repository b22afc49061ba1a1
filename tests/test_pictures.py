"""What pictures share: notebooks show them, and names of any script are drawn."""

import warnings

import matplotlib as mpl
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from pyterrier_merge import compare, from_frames, pictures


@pytest.fixture
def only_dejavu(monkeypatch):
    """Just the font that comes with matplotlib is installed; it has neither 統 nor 合."""
    entries = [entry for entry in pictures.fontManager.ttflist if entry.name == "DejaVu Sans"]
    monkeypatch.setattr(pictures.fontManager, "ttflist", entries)
    pictures._fallbacks.cache_clear()
    yield
    pictures._fallbacks.cache_clear()


def font_with(folder, name, characters):
    """A font of squares."""
    glyphs = [".notdef", *(f"uni{ord(character):04X}" for character in characters)]
    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 800), (800, 800), (800, 0)):
        (pen.lineTo if point != (0, 0) else pen.moveTo)(point)
    pen.closePath()
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(glyphs)
    made.setupCharacterMap({ord(character): glyph for character, glyph in zip(characters, glyphs[1:], strict=True)})
    made.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    made.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": name, "styleName": "Regular"})
    made.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    made.setupPost()
    made.save(folder / f"{name}.ttf")
    pictures.fontManager.addfont(folder / f"{name}.ttf")


@pytest.fixture
def comparison():
    docs = [{"docno": f"d{number}", "text": "heart"} for number in range(3)]
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["a", "b"]})
    qrels = pd.DataFrame({"qid": ["1", "2"], "docno": ["d0", "d1"], "label": 1})
    runs = {
        name: pd.DataFrame([(qid, docno, score) for qid in "12" for score, docno in enumerate(order)],
                           columns=["qid", "docno", "score"])
        for name, order in {"統合 (0.5, 1)": ["d0", "d1"], "BM25": ["d1", "d0"]}.items()
    }  # fmt: skip
    return compare(runs, from_frames("mine", docs, topics, qrels))


def labels(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_notebook_shows_a_picture_without_pyplot(comparison):
    """Jupyter asks for ``_repr_png_`` where pyplot has not told it what a figure is."""
    data, size = comparison.plot()._repr_png_()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
    assert (width, height) == pytest.approx((1.5 * size["width"], 1.5 * size["height"]), abs=2)
    assert size["width"] < 1000


def test_characters_that_no_font_has_are_boxes_and_one_warning(comparison, only_dejavu, tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("one.png", "two.svg"):
            assert labels(comparison.plot(tmp_path / name)) == ["□□ (0.5, 1)", "BM25"]
    [record] = caplog.records
    assert "pictures show □ in place of 合統: no installed font has these characters; install one" in record.message


def test_characters_are_taken_from_the_fonts_that_have_them(comparison, only_dejavu, tmp_path, caplog):
    font_with(tmp_path, "Half", "合x")
    font_with(tmp_path, "Whole Gothic", "統合")
    before = list(mpl.rcParams["font.family"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = comparison.plot(tmp_path / "means.png")
    assert labels(figure) == ["統合 (0.5, 1)", "BM25"]
    assert figure.axes[0].get_yticklabels()[0].get_fontfamily() == [*before, "Whole Gothic"]
    assert mpl.rcParams["font.family"] == before
    assert not caplog.records


def test_plain_text_keeps_the_reader_s_font():
    with mpl.rc_context({"font.family": ["DejaVu Serif"]}):
        assert pictures.drawable("BM25 (0.5, 1)\nsource") == (["BM25 (0.5, 1)\nsource"], ["DejaVu Serif"])
