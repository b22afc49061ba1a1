"""Docnos that came before, against a set."""

from __future__ import annotations

import random

from pyterrier_merge.retrieval.dense.duplicate_docnos import SeenDocnos


def test_agrees_with_a_set():
    generator, seen, names = random.Random(0), SeenDocnos(), set()
    for _ in range(200):
        shard = [f"d{generator.randrange(5_000)}" for _ in range(generator.randrange(1, 40))]
        assert seen.suspects(shard) == [docno for docno in shard if docno in names]
        fresh = sorted(set(shard) - names)
        seen.add(fresh)
        names.update(fresh)
        assert seen.count == len(names)
    lengths = [len(run) for run in seen._runs]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) <= 12  # a logarithm of 4,000


def test_nothing_was_seen():
    assert SeenDocnos().suspects(["a", "a"]) == []
    assert SeenDocnos().count == 0


def test_a_clash_of_hashes_is_only_suspected(monkeypatch):
    seen = SeenDocnos()
    monkeypatch.setattr("pyterrier_merge.retrieval.dense.duplicate_docnos.hash", lambda _: 7, raising=False)
    seen.add(["a"])
    assert seen.suspects(["b"]) == ["b"]
