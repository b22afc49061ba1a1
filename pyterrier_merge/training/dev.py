"""A retrieval measure of a model under training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.text_model import NotFiniteError, TextModel
from pyterrier_merge.evaluation import check_measure, judged, measure_runs, require_attainable
from pyterrier_merge.fingerprint import fingerprint_frame
from pyterrier_merge.retrieval.dense.pipeline import dense_retriever
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.training.folder import one_device

if TYPE_CHECKING:
    from ir_measures.measures import Measure
    from sentence_transformers import SentenceTransformer

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.contract import RetrieverContract

NUM_RESULTS = 100


def dev_identity(collection: TestCollection, split: str, metric: Measure) -> list[str]:
    """Return everything that decides a measure's value for given vectors: documents, topics, judgements, the metric."""
    data = [fingerprint_frame(read(split)) for read in (collection.topics, collection.qrels)]
    return [collection.fingerprint, split, str(metric), *data]


@dataclass
class DevMeasure:
    """The mean of a measure over the judged queries of a split, with this package's own retrieval.

    Attributes:
        model: Live model, measured with its current weights.
        source: Encoder of the model before training; gives its settings.
        contract: Prompts, maximum length and added tokens of the texts.
        collection: Documents and queries. All documents are encoded at each measurement: give a pool if there are many.
        split: The split of the queries.
        metric: The measure.
    """

    model: SentenceTransformer
    source: E5Encoder
    contract: RetrieverContract
    collection: TestCollection
    split: str
    metric: Measure
    _taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        topics = self.collection.topics(self.split)
        self._topics, self._qrels = judged(topics, self.collection.qrels(self.split))
        check_measure(self.metric, NUM_RESULTS)
        require_attainable(self.metric, self._qrels)

    def __call__(self) -> float:
        """Encode documents and queries, search, and return the mean; NaN if a vector is not finite."""
        self._taken += 1
        encoder = _LiveEncoder(self.source, self.model, self.contract, self._taken)
        with TemporaryDirectory(dir=cache_folder("indexes"), prefix="dev-") as root:
            try:
                retriever = dense_retriever(encoder, self.collection, num_results=NUM_RESULTS, root=root)
                results = retriever.transform(self._topics)
            except NotFiniteError:
                return math.nan
        return float(measure_runs({"run": results}, self._qrels, [self.metric])["value"].mean())


class _LiveEncoder(E5Encoder):
    """An encoder of a model in memory with changing weights."""

    def __init__(self, source: E5Encoder, model: Any, contract: RetrieverContract, number: int) -> None:
        super().__init__(source.model, **source.settings())
        self._live = TextModel.of(model, contract, device=one_device(source.device))
        self._number = number

    def _text_model(self) -> TextModel:
        return self._live

    def _weights_fingerprint(self) -> str:
        return f"{id(self._live)}, {self._number}"
