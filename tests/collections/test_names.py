from __future__ import annotations

import pytest

from pyterrier_merge.collections.names import clean_text, name_fault, squeezed


@pytest.mark.parametrize("name", ["1", "HP:0001", "d 1", "d1%p0", "a\nb", "腎臓", "\U0001f600", "nan"])
def test_names_that_come_back_as_they_were(name):
    assert name_fault(name, {"others"}) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (None, "is a NoneType, no string"),
        (1.0, "is a float, no string"),
        ([], "is a list, no string"),
        ("", "is empty"),
        ("taken", "occurs twice"),
        ("r\n", "has white space around it"),
        ("\u3000r", "has white space around it"),
        ("a\0b", "has a NUL or half a surrogate pair in it"),
        ("q\ud800", "has a NUL or half a surrogate pair in it"),
    ],
)
def test_faults_are_said(name, fault):
    assert name_fault(name, {"taken"}) == fault


def test_clean_text_keeps_all_but_halves_of_pairs():
    assert clean_text("a\0 腎臓 \U0001f600 \ud83d b") == "a\0 腎臓 \U0001f600 ? b"


def test_squeezed_leaves_single_spaces():
    assert squeezed(" a\n\tb\u3000c  d\u00a0") == "a b c d"
    assert squeezed(None) == squeezed("\n") == ""
