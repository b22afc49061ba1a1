"""``read_system``: a section of a file becomes a system."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from pyterrier_merge.systems import KINDS, System, read_system, system_class


def test_reading_a_file_loads_no_library_of_models():
    """Every kind is imported; torch and transformers alone would take seconds."""
    script = (
        "import sys; from pyterrier_merge.systems import KINDS, system_class; [system_class(kind) for kind in KINDS]; "
        "print([name for name in ('torch', 'transformers', 'mergekit', 'ray') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


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


MERGE = {"kind": "merged", "source": "m", "domain": {"train": {"steps": 2}}, "sweep": {"grid": [0.5, 1]}}


@pytest.mark.parametrize("by", [{"kind": "encoder", "model": "m"}, MERGE, "source"], ids=["encoder", "merged", "name"])
@pytest.mark.filterwarnings("error")
def test_a_section_is_written_as_it_was_read(by):
    system = read_system({"kind": "rerank", "first": "BM25", "by": by, "depth": 5})
    for mode in ("python", "json"):
        assert read_system(system.model_dump(mode=mode)) == system
    written = system.model_dump(mode="json")["by"]
    assert written == by or written["kind"] == by["kind"]


def test_a_system_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        read_system({"kind": "bm25"}).k1 = 2


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "BM25"}, r"unknown kind 'BM25': did you mean 'bm25'\? kinds are bm25, encoder"),
        ({"kind": "encodr"}, "unknown kind 'encodr': did you mean 'encoder'"),
        ({"kind": None}, "unknown kind None"),
        ({"kind": ["bm25"]}, r"unknown kind \['bm25'\]: did you mean 'bm25'"),
        ({"kind": "encoder", "model": "m", "device": [0]}, r"^device\.0: expected a valid string; found 0$"),
        ({}, r"expected a section with 'kind' \(one of bm25, encoder"),
        ("bm25", "expected a section with 'kind'"),
        (None, "expected a section with 'kind'"),
        ({"kind": "bm25", "k": 1}, r"^k: unknown field; did you mean 'k1'\? there are kind, engine, k1, b"),
        ({"kind": "encoder"}, "^model: this field is missing$"),
        ({"kind": "merged", "source": "m", "domain": "d", "sweep": {"gird": [1]}}, r"^sweep\.gird: .*mean 'grid'"),
        ({"kind": "merged", "source": "m", "domain": "d"}, "^linear needs 'alpha_lower'"),
        ({"kind": "rerank", "first": "a", "by": {"kind": "encodr"}}, "did you mean 'encoder'"),
        ({"kind": "rerank", "first": "a", "by": 7}, "expected a section with 'kind'"),
    ],
)
def test_wrong_sections_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        read_system(section)
