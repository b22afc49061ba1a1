import warnings
from functools import cache
from urllib.request import urlopen

import pandas as pd
import pyterrier as pt
import pyterrier_dr

from pyterrier_merge import E5Encoder, bm25, dense_retriever, schematic
from pyterrier_merge.collections import from_frames


def test_a_pipeline_is_drawn_without_a_network(bert_retriever, monkeypatch, tmp_path):
    topics = pd.DataFrame({"qid": ["1"], "query": ["kidney"]})
    qrels = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})
    collection = from_frames("one", [{"docno": "d1", "text": "kidney failure"}], topics, qrels)
    encoder = E5Encoder(bert_retriever, device="cpu")
    monkeypatch.setattr(pt.documentation, "objects_inv", cache(schematic._pages.__wrapped__))
    monkeypatch.setattr(schematic, "_objects_inv", lambda: urlopen("http://nowhere.invalid"))
    dense = dense_retriever(encoder, collection, root=tmp_path)
    loaded = bm25(collection) >> collection.text_loader() >> encoder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "FaissRetriever" in dense._repr_html_()
        assert "TextLoader" in loaded._repr_html_()
        assert "VectorPrf" in (dense >> pyterrier_dr.VectorPrf())._repr_html_()  # a stage of others
    assert str(tmp_path) not in str(encoder.query_encoder() >> dense)
