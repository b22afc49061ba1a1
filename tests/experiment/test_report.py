import pandas as pd

from pyterrier_merge.experiment.report import marked_table


def test_marks_name_the_baseline_and_the_direction():
    results = pd.DataFrame(
        {"name": ["bm25", "source", "merged"], "nDCG@10": [0.38, 0.42, 0.4], "R@100": [0.7, 0.9, 0.9]}
    )
    comparisons = pd.DataFrame(
        [
            ("source", "bm25", "nDCG@10", 0.04, True),
            ("merged", "bm25", "nDCG@10", 0.02, True),
            ("merged", "source", "nDCG@10", -0.02, True),
            ("merged", "source", "R@100", 0.0, False),
        ],
        columns=["system", "baseline", "measure", "difference", "significant"],
    )
    table = marked_table(results, comparisons, ["bm25", "source"])
    assert list(table["system"]) == ["bm25 (a)", "source (b)", "merged"]
    assert list(table["nDCG@10"]) == ["0.3800", "0.4200 a+", "0.4000 a+ b-"]
    assert list(table["R@100"]) == ["0.7000", "0.9000", "0.9000"]
