import warnings

import pandas as pd
import pyterrier as pt

from pyterrier_merge import E5Encoder, bm25, dense_retriever
from pyterrier_merge.collections import from_frames


def test_a_pipeline_is_drawn_without_a_network(bert_retriever, monkeypatch, tmp_path):
    topics = pd.DataFrame({"qid": ["1"], "query": ["kidney"]})
    qrels = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})
    collection = from_frames("one", [{"docno": "d1", "text": "kidney failure"}], topics, qrels)
    encoder = E5Encoder(bert_retriever, device="cpu")
    monkeypatch.setattr(pt.documentation, "objects_inv", lambda: (_ for _ in ()).throw(OSError("no network")))
    dense = dense_retriever(encoder, collection, root=tmp_path)
    loaded = bm25(collection) >> collection.text_loader() >> encoder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "FaissRetriever" in dense._repr_html_()
        assert "TextLoader" in loaded._repr_html_()
