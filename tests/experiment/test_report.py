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


def test_thirty_baselines_have_letters_of_their_own():
    names = [f"baseline {number}" for number in range(30)]
    results = pd.DataFrame({"name": [*names, "merged"], "nDCG@10": [0.4] * 31})
    worse = {"baseline 29", "baseline 1", "baseline 26"}
    comparisons = pd.DataFrame(
        [("merged", name, "nDCG@10", 0.1, name in worse) for name in reversed(names)],
        columns=["system", "baseline", "measure", "difference", "significant"],
    )
    table = marked_table(results, comparisons, names)
    shown = list(table["system"])
    assert [shown[place] for place in (0, 25, 26, 27, 29, 30)] == [
        "baseline 0 (a)",
        "baseline 25 (z)",
        "baseline 26 (aa)",
        "baseline 27 (ab)",
        "baseline 29 (ad)",
        "merged",
    ]
    assert table["nDCG@10"].iloc[-1] == "0.4000 b+ aa+ ad+"  # in the order of the baselines
