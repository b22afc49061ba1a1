"""Journal and lookup of docnos, read back with npids itself."""

from __future__ import annotations

import npids
import numpy as np
import pytest

from pyterrier_merge.retrieval.dense.docnos import (
    JOURNAL,
    LOOKUP,
    encode_journal,
    journal_entries,
    read_lookup,
    write_lookup,
)

NAMES = ["a", "d1%p0", "文書", "a longer name, with, commas", 'q"uote', "line\nbreak", "007", "7"]


def test_the_journal_gives_entries_back(tmp_path):
    entries = {name: f"{place:016x}" for place, name in enumerate(NAMES)}
    (tmp_path / JOURNAL).write_bytes(encode_journal(entries) + b'["torn')
    assert list(journal_entries(tmp_path, len(NAMES))) == list(entries.items())
    assert list(journal_entries(tmp_path, 2)) == list(entries.items())[:2]


@pytest.mark.parametrize("count", [1, 2, len(NAMES)])
def test_the_lookup_gives_names_back(tmp_path, count):
    longest = max(len(name.encode()) for name in NAMES[:count])
    for _ in range(2):  # what stands there is replaced
        write_lookup(tmp_path, iter(NAMES[:count]), count=count, longest=longest)
    assert [name.decode() for name in read_lookup(tmp_path)] == NAMES[:count]
    theirs = npids.Lookup(tmp_path / LOOKUP)
    assert list(theirs) == NAMES[:count]
    assert theirs.fwd[np.arange(count)].tolist() == NAMES[:count]
    if count > 1:
        assert theirs.inv[np.array(NAMES[:count])].tolist() == list(range(count))


@pytest.mark.parametrize("names", [NAMES, [f"doc{number}" for number in range(600)], ["x", *"0123456789" * 40]])
def test_reads_what_npids_chose(tmp_path, names):
    npids.Lookup.build(names, tmp_path / LOOKUP, build_inv=False)
    expected = [name.encode() for name in npids.Lookup(tmp_path / LOOKUP)]
    assert read_lookup(tmp_path).tolist() == expected
