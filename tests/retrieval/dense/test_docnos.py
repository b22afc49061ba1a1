"""Journal and lookup of docnos, read back with npids itself."""

from __future__ import annotations

import npids
import numpy as np
import pytest

from pyterrier_merge.retrieval.dense import docnos
from pyterrier_merge.retrieval.dense.docnos import (
    JOURNAL,
    LOOKUP,
    encode_journal,
    journal_entries,
    longest_names,
    lookup_width,
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
        write_lookup(tmp_path, iter(NAMES[:count]), count=count, width=longest)
    assert [name.decode() for name in read_lookup(tmp_path)] == NAMES[:count]
    theirs = npids.Lookup(tmp_path / LOOKUP)
    assert list(theirs) == NAMES[:count]
    assert theirs.fwd[np.arange(count)].tolist() == NAMES[:count]
    if count > 1:
        assert theirs.inv[np.array(NAMES[:count])].tolist() == list(range(count))


LONG = "n" * 3_000


@pytest.mark.parametrize(
    "names",
    [[LONG, "a", "bc"], ["a", LONG, LONG[:-1] + "m", "文書", LONG + "n", "bc"], ["a", "bc", LONG], [LONG], ["a", LONG]],
)
def test_names_that_are_much_longer_have_blocks_of_their_own(tmp_path, monkeypatch, names):
    monkeypatch.setattr(docnos, "SPACIOUS", 1_000)
    write_lookup(tmp_path, iter(names), count=len(names), width=6)
    assert (tmp_path / LOOKUP).stat().st_size < 3_001 * sum(len(name) >= 2_999 for name in names) + 1_000
    assert read_lookup(tmp_path).tolist() == [name.encode() for name in names]
    theirs = npids.Lookup(tmp_path / LOOKUP)
    assert theirs.fwd[np.arange(len(names))].tolist() == list(theirs) == names
    if len(names) > 1:
        assert theirs.inv[np.array(names)].tolist() == list(range(len(names)))


@pytest.mark.parametrize(
    ("lengths", "count", "width"),
    [
        ([10_000, *[9] * 1_000], 10_486, 9),  # one name would make it 100 MiB and more
        ([10_000, *[9] * 1_000], 10_485, 10_000),  # less than that
        ([10_000] * 1_001, 10**6, 10_000),  # not a few
        ([100, *[10] * 1_000], 10**7, 100),  # ten times as much at most
        ([7], 1, 7),
    ],
)
def test_a_few_names_widen_the_lookup_as_long_as_it_costs_little(lengths, count, width):
    assert lookup_width(lengths, count) == width


def test_the_longest_names_are_counted_in_bytes_over_all_calls():
    lengths = longest_names([], [*"ab", "文書"])
    assert lengths == [6, 1, 1]
    assert longest_names(lengths, ["x" * 5] * 1_000) == [6, *[5] * 1_000]


@pytest.mark.parametrize("names", [NAMES, [f"doc{number}" for number in range(600)], ["x", *"0123456789" * 40]])
def test_reads_what_npids_chose(tmp_path, names):
    npids.Lookup.build(names, tmp_path / LOOKUP, build_inv=False)
    expected = [name.encode() for name in npids.Lookup(tmp_path / LOOKUP)]
    assert read_lookup(tmp_path).tolist() == expected
