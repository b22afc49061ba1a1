from pyterrier_merge.merging.compatibility import check_compatible
from pyterrier_merge.merging.distance_plot import distance_plot


def test_a_name_with_dollars_is_not_mathematics(tmp_path, bert_retriever, bert_language_model):
    for link, folder in (("$src_$", bert_retriever), ("$dom_$", bert_language_model)):
        (tmp_path / link).symlink_to(folder)
    distance_plot(check_compatible(tmp_path / "$src_$", tmp_path / "$dom_$"), tmp_path / "distances.svg")
    assert (tmp_path / "distances.svg").stat().st_size
