"""The picture of a sweep: everything that it says is inside it."""

import pandas as pd
import pytest
from matplotlib.text import Text

from pyterrier_merge import compare
from pyterrier_merge.collections import from_frames
from pyterrier_merge.tuning.heatmap import alpha_heatmap
from pyterrier_merge.tuning.result import Sweep


@pytest.mark.parametrize("uppers", [[1], [0, 1], [0, 0.25, 0.5, 0.75, 1]])
@pytest.mark.parametrize("step", [0, 1e-9, 0.1])  # of scores: tiny ones made wide ticks of the colour bar
def test_no_text_is_cut_off(uppers, step):
    scores = [0.4423 + step * n for n in range(len(uppers))]
    table = pd.DataFrame({"alpha_lower": 0.5, "alpha_upper": uppers, "nDCG@10": scores})
    on = "1,544 dev queries of ntcir15-datasearch-en-known-items, 46,615 documents"
    figure = alpha_heatmap(table, (0.5, uppers[-1]), metric="nDCG@10", on=on)
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert " ".join(figure.get_suptitle().split()) == f"nDCG@10 on {on}"
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()


def test_a_sweep_is_no_system_and_the_error_says_what_is():
    docs = [{"docno": "d1", "text": "heart"}, {"docno": "d2", "text": "liver"}]
    topics = pd.DataFrame({"qid": ["1"], "query": ["heart"]})
    mine = from_frames("mine", docs, topics, pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]}))
    swept = Sweep.__new__(Sweep)
    with pytest.raises(TypeError, match=r"'merged' is a sweep; .* use dense_retriever\(sweep\.best, collection\)"):
        compare({"merged": swept}, mine)
