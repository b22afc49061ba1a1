import pytest

from pyterrier_merge.spelling import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("sorce", ["source", "domain"], "source"),
        ("bm25", ["BM25", "source"], "BM25"),
        (" NDGC", ["AP", "nDCG"], "nDCG"),
        ("lucene", ["pisa", "terrier"], None),
        (7, ["seven"], None),
        ("x", [], None),
    ],
)
def test_the_nearest_name_is_found_whatever_its_case(name, known, expected):
    assert nearest(name, known) == expected


def test_all_names_are_listed_behind_the_question():
    assert did_you_mean("b", ["a", "bb"], "it has") == "did you mean 'bb'? it has a, bb"
    assert did_you_mean("nothing", iter(["a"])) == "there are a"
    assert did_you_mean("nothing", {}) == "there are none"
