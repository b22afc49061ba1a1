"""A retrieval model as a PyTerrier transformer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import more_itertools
import numpy as np
import pyterrier as pt
import pyterrier_dr

from pyterrier_merge.encoding.batching import suitable_budget
from pyterrier_merge.encoding.contract import RetrieverContract, require_pooling
from pyterrier_merge.encoding.encoded_vector import Encoded
from pyterrier_merge.encoding.stages import DocEncoder, QueryEncoder, TextScorer
from pyterrier_merge.encoding.text_model import Batch, TextModel
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models import ModelParts, locate_parts, short_name
from pyterrier_merge.precision import DTYPES, default_device, multiplies_bfloat16
from pyterrier_merge.schematic import labelled

if TYPE_CHECKING:
    import pandas as pd
    import torch


LOADING = RLock()  # one model is loaded at a time, over all encoders and threads
_COUNTING = Lock()


class E5Encoder(pyterrier_dr.BiEncoder):
    """A dense encoder over a retrieval model, such as ``intfloat/e5-mistral-7b-instruct``.

    Pooling, prompts, maximum length and normalisation are read from the model's sentence-transformers files. What they
    do not set, and everything for a plain checkpoint, comes from a table of well-known models or from the caller. The
    model is loaded at the first text, or when :attr:`fingerprint` or :attr:`contract` is read.

    Encoders are equal if everything that changes a vector is equal. Any setting can be changed later, also by
    ``pt.GridScan``: the model is loaded again if necessary, also after its files were rewritten. Several threads may
    encode with one encoder, as long as no thread changes a setting at the same time.

    Attributes:
        truncated: Number of encoded texts so far that were longer than the maximum length and cut.
    """

    schematic: ClassVar = labelled()

    def __init__(
        self,
        model: str | Path,
        *,
        task: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        pooling: str | None = None,
        normalize: bool | None = None,
        dtype: str = "auto",
        device: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        text_field: str = "text",
        verbose: bool | None = None,
    ) -> None:
        r"""Describe the encoder; nothing is loaded yet.

        Args:
            model: A folder, ``package:NAME/FOLDER``, a hub id, ``ID@REVISION`` or ``BASE+ADAPTER``.
            task: The instruction of models that follow one: queries begin with ``Instruct:``, the task and ``Query:``.
            query_prompt: Put before each query, instead of the model's own.
            document_prompt: Put before each document, instead of the model's own.
            max_length: Maximum number of tokens of a text; the model's own when None.
            pooling: How token vectors become one: ``mean``, ``cls``, ``max``, ``lasttoken``, ``weightedmean`` or
                ``mean_sqrt_len_tokens``; the model's own when None. A plain checkpoint of no known family needs it.
            normalize: Whether vectors get length 1; when None the model's own setting, and True for a plain
                checkpoint of no known family.
            dtype: The type that the transformer computes in; ``auto`` is bfloat16 if the hardware multiplies in it,
                else float32. Pooling and normalisation are always float32.
            device: A torch device; when None, a GPU if there is one. Several, such as ``["cuda:0", "cuda:1"]``, share
                the texts among them.
            batch_size: Number of texts of the maximum length in a batch; shorter texts share the same token budget.
                When None, it is chosen for the device.
            text_field: Column with a document's text.
            verbose: Show progress bars; in terminals and notebooks when None.

        Raises:
            ValueError: An unknown dtype or pooling, or sizes below 1.
        """
        super().__init__(batch_size=batch_size, text_field=text_field, verbose=verbose)
        self.model = model
        self.task = task
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.max_length = max_length
        self.pooling = pooling
        self.normalize = normalize
        self.dtype = dtype
        self.device = device
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
        require_pooling(pooling)
        _require_size("batch_size", batch_size)
        _require_size("max_length", max_length)
        if device is not None:
            self._devices()
        self.truncated = 0
        self._loaded: TextModel | None = None
        self._loaded_as: tuple[Any, ...] = ()

    @property
    def model(self) -> str:
        """The name of the retrieval model, as it was given."""
        return self._model

    @model.setter
    def model(self, model: str | Path) -> None:
        self._model = str(model).rstrip("/") or "/"

    @property
    def device(self) -> str | tuple[str, ...] | None:
        """The torch device, or several; None for a GPU if there is one."""
        return self._device

    @device.setter
    def device(self, device: Any) -> None:
        several = isinstance(device, Sequence) and not isinstance(device, str)
        self._device = tuple(map(str, device)) if several else None if device is None else str(device)

    @property
    def model_name(self) -> str:
        """Everything that changes a vector, in one string; pyterrier_dr compares encoders by it."""
        return ", ".join(f"{name}={value!r}" for name, value in self._identity().items() if value is not None)

    @property
    def contract(self) -> RetrieverContract:
        """Prompts, length, pooling and special tokens, as read from the model."""
        return self._text_model().contract

    @property
    def computed_in(self) -> str:
        """Name of the type that the transformer computes in, with ``auto`` resolved."""
        return str(self._text_model().dtype).removeprefix("torch.")

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the vectors change. Models count by content, not by name."""
        text_model = self._text_model()
        return fingerprint(
            {
                "weights": self._weights_fingerprint(),
                "contract": asdict(text_model.contract),
                "dtype": str(text_model.dtype),
            }
        )

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``query_vec``, ``doc_vec`` or ``score``, depending on the columns (see ``pyterrier_dr.BiEncoder``).

        Vectors carry the encoder's fingerprint (:class:`~pyterrier_merge.encoding.encoded_vector.EncodedVector`), which
        an index compares with its own. The ``attrs`` of a frame hold the number of its texts that were cut
        (``truncated``; each distinct query counts once).

        Raises:
            pt.validate.InputValidationError: Results to re-rank (``docno`` and ``score``) lack ``query`` or the text,
                or the vectors instead.
            ValueError: A query or a text is not a string; the message names its ``qid`` or ``docno``. Or an existing
                vector that would be scored comes from another encoder.
        """
        self._require_text(inp)
        result: pd.DataFrame = super().transform(inp)
        return result

    def _require_text(self, inp: pd.DataFrame) -> None:
        """Reject results that cannot be scored: with only one side encoded, they would keep their old scores."""
        if not {"docno", "score"} <= set(inp.columns):
            return
        try:
            with pt.validate.any(inp, context=self) as v:
                for query, text in itertools.product(("query", "query_vec"), (self.text_field, "doc_vec")):
                    v.columns(includes=[query, text], mode="scorer")
                v.document_frame(extra_columns=[self.text_field], mode="doc_encoder")
        except pt.validate.InputValidationError as error:
            error.args = (
                f"{error.args[0]} Nothing would be re-ranked: put collection.text_loader() before the encoder, as in "
                "bm25(collection) >> collection.text_loader() >> encoder, or index.vec_loader(); "
                "encoder.query_encoder() and encoder.doc_encoder() encode one side of results alone.",
            )
            raise

    def query_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> QueryEncoder:
        """Return the part that encodes queries, independent of a frame's other columns."""
        return QueryEncoder(self, verbose=verbose, batch_size=batch_size)

    def doc_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> DocEncoder:
        """Return the part that encodes documents, independent of a frame's other columns."""
        return DocEncoder(self, verbose=verbose, batch_size=batch_size)

    def text_scorer(
        self, verbose: bool | None = None, batch_size: int | None = None, sim_fn: pyterrier_dr.SimFn | None = None
    ) -> TextScorer:
        """Return the transformer that scores texts for queries, only by vectors of this encoder."""
        return TextScorer(self, verbose=verbose, batch_size=batch_size, sim_fn=sim_fn)

    def __rshift__(self, right: Any) -> Any:
        """Compose; with an indexer the pipeline is compiled, so that the index holds its encoder.

        ``Compose.index`` encodes all documents before an indexer sees any. An index that holds the encoder encodes only
        documents that are not indexed yet, so ``(encoder >> index).index(...)`` can resume.
        """
        pipeline = super().__rshift__(right)
        return pipeline.compile() if isinstance(right, pt.Indexer) else pipeline

    def encode_queries_torch(self, texts: Sequence[str], batch_size: int | None = None) -> torch.Tensor:
        """Encode queries with gradients: ``(n_queries, dim)`` float32 on the model's device."""
        _require_many(texts)
        text_model = self._ready()
        budget = self._token_budget(text_model.contract, batch_size)
        vectors, cut = text_model.forward(list(texts), prompt=text_model.contract.query_prompt, budget=budget)
        self._count(cut)
        return vectors

    def encode_queries(self, texts: Iterable[str], batch_size: int | None = None) -> np.ndarray:
        """Encode queries: ``(n_queries, dim)`` float32."""
        return self.encode(texts, kind="query", batch_size=batch_size).vectors

    def encode_docs(self, texts: Iterable[str], batch_size: int | None = None) -> np.ndarray:
        """Encode documents: ``(n_docs, dim)`` float32."""
        return self.encode(texts, kind="document", batch_size=batch_size).vectors

    def encode(
        self, texts: Iterable[str], *, kind: Literal["query", "document"], batch_size: int | None = None
    ) -> Encoded:
        """Encode texts with the prompt of queries or of documents, and count those that were cut."""
        _require_many(texts)
        first, texts = more_itertools.spy(texts)
        if not first:  # PyTerrier inspects pipelines with empty frames: that must not load 14 GB
            return Encoded(np.empty((0, self._loaded.dim if self._loaded else 0), dtype=np.float32), 0)
        text_model = self._ready()
        encoded = text_model.encode(texts, **self._manner(text_model.contract, kind, batch_size))
        self._count(encoded.truncated)
        return encoded

    def batches(self, texts: Iterable[str], *, kind: Literal["query", "document"]) -> Iterator[Batch]:
        """Yield the batches of token ids in which :meth:`encode` runs these texts, without running them."""
        text_model = self._text_model()
        return text_model.batches(texts, **self._manner(text_model.contract, kind, None))

    def _manner(self, contract: RetrieverContract, kind: str, batch_size: int | None) -> dict[str, Any]:
        """The prompt for texts of a kind, and the tokens of a batch."""
        prompt = contract.query_prompt if kind == "query" else contract.document_prompt
        return {"prompt": prompt, "budget": self._token_budget(contract, batch_size)}

    def _count(self, cut: int) -> None:
        with _COUNTING:
            self.truncated += cut

    def _identity(self) -> dict[str, Any]:
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if multiplies_bfloat16(self._devices()[0]) else "float32"
        return {"model": self.model, **self.contract_settings(), "dtype": dtype, "text_field": self.text_field}

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments to make another encoder like this one, of the same or other models."""
        further = ("dtype", "device", "batch_size", "text_field", "verbose")
        return self.contract_settings() | {name: getattr(self, name) for name in further}

    def contract_settings(self) -> dict[str, Any]:
        """The caller's settings of the contract; None for the model's own."""
        settings = ("task", "query_prompt", "document_prompt", "max_length", "pooling", "normalize")
        return {name: getattr(self, name) for name in settings}

    def _weights_fingerprint(self) -> str:
        return self._parts().fingerprint

    def _name(self) -> str:
        """The user's name for the model, for messages and to recognise its family."""
        return self.model

    def _parts(self) -> ModelParts:
        """The folder to load, and an adapter that is merged into its weights."""
        return locate_parts(self.model)

    def _ready(self) -> TextModel:
        """The model, with its current weights."""
        return self._text_model()

    def _text_model(self) -> TextModel:
        """The model, loaded again if a setting or its files have changed."""
        import torch

        parts, name = self._parts(), self._name()
        devices, contract = self._devices(), self.contract_settings()
        wanted = (parts.fingerprint, name, self.dtype, devices, *contract.values())
        with LOADING:
            if self._loaded is None or self._loaded_as != wanted:
                self._unload()
                with torch.inference_mode(False):  # merges write to the weights, also in the caller's inference mode
                    self._loaded = TextModel(
                        parts.folder, name, adapter=parts.adapter, dtype=self.dtype, devices=devices, **contract
                    )
                self._loaded_as = wanted
            return self._loaded

    def _unload(self) -> None:
        """Release the model before another one is loaded: memory may hold only one."""
        self._loaded = None

    def _token_budget(self, contract: RetrieverContract, batch_size: int | None) -> int:
        size = self.batch_size if batch_size is None else batch_size
        _require_size("batch_size", size)
        return suitable_budget(self._devices()[0]) if size is None else size * contract.max_length

    def _devices(self) -> tuple[str, ...]:
        chosen = default_device() if self.device is None else self.device
        devices = (chosen,) if isinstance(chosen, str) else chosen
        if not devices or not all(devices) or len({device.partition(":")[0] for device in devices}) > 1:
            raise ValueError(f"device is one device or several of one kind, found {self.device!r}")
        return devices

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy or another process: the settings only; it loads the models itself."""
        return {**self.__dict__, "_loaded": None}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, E5Encoder):
            return NotImplemented
        return type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), *self._identity().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name})"

    def __str__(self) -> str:  # what PyTerrier's tables call it
        return short_name(self.model)


def _require_size(name: str, value: Any) -> None:
    """Raise unless a size is None or a whole number of at least 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        raise ValueError(f"{name} is a whole number of at least 1, found {value!r}")


def _require_many(texts: Any) -> None:
    if isinstance(texts, str):
        raise ValueError("expected many texts, found a single string; put it in a list")  # noqa: TRY004 (data)
