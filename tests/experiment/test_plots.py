import pandas as pd

from pyterrier_merge.alpha_search import Sweep
from pyterrier_merge.experiment.plots import alpha_heatmap, distance_plot
from pyterrier_merge.merging.compatibility import check_compatible


def test_a_name_with_dollars_is_no_mathematics(tmp_path, bert_retriever, bert_language_model):
    table = pd.DataFrame([(0.5, 1.0, 0.2)], columns=["alpha_lower", "alpha_upper", "AP"])
    alpha_heatmap(Sweep(table, "AP", "9 dev queries of a$b_$c", 0.5, 1.0, None), tmp_path / "sweep.png")
    for link, folder in (("$src_$", bert_retriever), ("$dom_$", bert_language_model)):
        (tmp_path / link).symlink_to(folder)
    distance_plot(check_compatible(tmp_path / "$src_$", tmp_path / "$dom_$"), tmp_path / "distances.svg")
    assert (tmp_path / "sweep.png").stat().st_size
    assert (tmp_path / "distances.svg").stat().st_size
