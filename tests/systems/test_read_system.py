"""``read_system``: a section of a file becomes a system."""

import pytest
from pydantic import ValidationError

from pyterrier_merge.systems import KINDS, System, read_system, system_class


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_its_own_name(kind):
    cls = system_class(kind)
    assert issubclass(cls, System)
    assert cls.model_fields["kind"].default == kind
    assert cls.__doc__


def test_a_section_is_read_by_its_kind():
    system = read_system({"kind": "bm25", "k1": 0.9})
    assert (type(system).__name__, system.k1, system.b) == ("BM25System", 0.9, 0.75)
    assert read_system(system) is system


def test_a_section_is_written_as_it_was_read():
    section = {"kind": "rerank", "first": "BM25", "by": {"kind": "encoder", "model": "m"}, "depth": 5}
    system = read_system(section)
    assert read_system(system.model_dump()) == system
    assert system.model_dump()["by"]["model"] == "m"


def test_a_system_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        read_system({"kind": "bm25"}).k1 = 2


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "BM25"}, r"unknown kind 'BM25': did you mean 'bm25'\? kinds are bm25, encoder"),
        ({"kind": "encodr"}, "unknown kind 'encodr': did you mean 'encoder'"),
        ({"kind": None}, "unknown kind None"),
        ({}, r"expected a section with 'kind' \(one of bm25, encoder"),
        ("bm25", "expected a section with 'kind'"),
        (None, "expected a section with 'kind'"),
        ({"kind": "bm25", "k": 1}, "k: Extra inputs are not permitted"),
        ({"kind": "encoder"}, "model: Field required"),
        ({"kind": "rerank", "first": "a", "by": {"kind": "encodr"}}, "did you mean 'encoder'"),
        ({"kind": "rerank", "first": "a", "by": 7}, "expected a section with 'kind'"),
    ],
)
def test_wrong_sections_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        read_system(section)
