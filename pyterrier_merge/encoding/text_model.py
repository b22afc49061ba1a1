"""A retrieval model in memory: sentence-transformers modules, their contract, and the loop that encodes texts."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import more_itertools
import numpy as np

from pyterrier_merge.encoding.adapted import load_adapted
from pyterrier_merge.encoding.batching import token_batches
from pyterrier_merge.encoding.contract import RetrieverContract
from pyterrier_merge.encoding.encoded_vector import Encoded
from pyterrier_merge.encoding.loading import load_retriever
from pyterrier_merge.encoding.self_test import TEXTS, may_be_padded_left, require_sound
from pyterrier_merge.encoding.tokens import tokenise
from pyterrier_merge.merging.places import PROJECTION
from pyterrier_merge.precision import resolve_dtype

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

WINDOW = 4096  # texts sorted by length at a time: bounds memory; costs at most 1 % of padding on short texts
CHUNK = 256  # minimum number of texts tokenised at a time, while the model runs others
SHORT = 8  # tokens: texts of this length fill a batch from one chunk, for every budget

Item = TypeVar("Item")
Made = TypeVar("Made")


class NotFiniteError(ValueError):
    """A vector holds NaN or infinity."""


class Batch(NamedTuple):
    """Texts that a model runs together.

    Attributes:
        rows: Their positions among the given texts.
        ids: Their token ids.
        cut: Number of texts that were too long, among those tokenised since the previous batch.
    """

    rows: list[int]
    ids: list[list[int]]
    cut: int

    @property
    def tokens(self) -> int:
        """Tokens with padding."""
        return len(self.ids) * max(map(len, self.ids))


class TextModel:
    """A loaded sentence-transformers model whose transformer runs in ``dtype`` and whose pooling runs in float32.

    Attributes:
        contract: Prompts, length, pooling and special tokens, read from the model.
        body: The live transformer, whose weights a merge writes to.
        dtype: The type that the transformer computes in.
        dim: Length of a vector.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        dtype: str,
        devices: Sequence[str],
        adapter: Path | None = None,
        **contract: Any,
    ) -> None:
        """Load the model.

        Args:
            folder: A folder in sentence-transformers layout, or a plain transformers checkpoint.
            name: The user's name for it, for messages.
            dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
            devices: Torch devices; merges are computed on the first, and texts are shared among all.
            adapter: Folder of a LoRA adapter that is merged into the weights.
            **contract: Arguments of :func:`load_retriever`.

        Raises:
            ValueError: The folder holds no retrieval model, the contract cannot be kept, or the adapter does not fit.
            RuntimeError: The self-test failed; the message says how.
        """
        from pyterrier_merge.encoding.attention import use_fast_kernels
        from pyterrier_merge.encoding.causality import looks_back
        from pyterrier_merge.encoding.fast_layers import use_fast_layers
        from pyterrier_merge.encoding.forward_pass import ForwardPass, Workers

        self._model: Any
        self.contract: RetrieverContract
        self.dtype = resolve_dtype(dtype, devices[0])
        load = load_retriever if adapter is None else partial(load_adapted, adapter=adapter)
        self._model, self.contract = load(folder, name=name, device=devices[0], dtype=self.dtype, **contract)
        self._model.model_card_data.model = None  # a reference cycle would hold 14 GB until garbage collection
        self.body: torch.nn.Module = self._model.transformers_model
        cast(self.body, self.dtype)
        for module in list(self._model)[1:]:
            module.float()  # pooling, dense layers and normalisation
        on_cpu = devices[0].startswith("cpu")
        (use_fast_kernels if on_cpu else use_fast_layers)(self.body)
        unmasked = not on_cpu and looks_back(self.body)  # on a CPU it makes no kernel faster
        self._forward_pass = ForwardPass(self._model, devices[0], looks_back=unmasked)
        self.dim = self._require_sound(name)  # measured: files may state another (EmbeddingGemma 2 projects)
        self._workers = Workers(self._forward_pass, devices[1:])

    @classmethod
    def of(cls, model: SentenceTransformer, contract: RetrieverContract, *, device: str) -> TextModel:
        """Wrap a live model, such as one in training: nothing is loaded, cast or tested.

        Args:
            model: The model, in evaluation mode, on the device.
            contract: Its contract.
            device: A torch device.
        """
        from pyterrier_merge.encoding.forward_pass import ForwardPass, Workers

        made = cls.__new__(cls)
        made._model, made.contract = model, contract
        body: Any = model.transformers_model
        made.body = body
        made.dtype = next(made.body.parameters()).dtype
        made._forward_pass = ForwardPass(model, device)
        made.dim = made._forward_pass(made._tokenise(["text"], "")[0]).shape[1]
        made._workers = Workers(made._forward_pass, ())
        return made

    @property
    def projection(self) -> dict[str, torch.nn.Parameter]:
        """Parameters of the dense modules after the pooling, by canonical name (``head.0.linear.weight`` …)."""
        dense = [module for module in list(self._model)[1:] if type(module).__name__ == "Dense"]
        return {
            f"{PROJECTION}{number}.{name}": parameter
            for number, module in enumerate(dense)
            for name, parameter in module.named_parameters()
        }

    def encode(self, texts: Iterable[str], *, prompt: str, budget: int) -> Encoded:
        """Encode texts, in windows sorted by length; the next texts are tokenised while the model runs.

        Args:
            texts: Read once; a progress bar around it advances window by window.
            prompt: Put before each text.
            budget: Tokens of a batch, padding included.

        Raises:
            ValueError: A text is not a string, or a vector came out as NaN.
        """
        cut = 0

        def counted() -> Iterator[Batch]:
            nonlocal cut
            for batch in self.batches(texts, prompt=prompt, budget=budget):
                cut += batch.cut
                yield batch

        parts = list(self.run(counted()))
        matrix = np.empty((sum(len(rows) for rows, _ in parts), self.dim), dtype=np.float32)
        for rows, vectors in parts:
            matrix[rows] = vectors
        return Encoded(matrix, cut)

    def batches(self, texts: Iterable[str], *, prompt: str, budget: int) -> Iterator[Batch]:
        """Yield the batches in which :meth:`encode` runs these texts; the next are tokenised while the caller works."""
        size = max(CHUNK, budget // SHORT)
        chunks = _one_ahead(lambda chunk: (chunk[0], *self._tokenise(chunk[1], prompt)), _chunks(texts, size))
        for rows, ids, cut in chunks:
            lengths = [len(row) for row in ids]
            few = len(ids) < size
            for batch in token_batches(lengths, self._workers.budget(sum(lengths), budget) if few else budget):
                yield Batch([rows[index] for index in batch], [ids[index] for index in batch], cut)
                cut = 0

    def run(self, batches: Iterable[Batch]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Run batches with the current weights.

        Returns:
            The rows of each batch and their vectors, ``(n_texts, dim)`` float32, in the order of the batches.

        Raises:
            ValueError: A vector came out as NaN or infinity.
        """
        for rows, vectors in self._workers.run((batch.rows, batch.ids) for batch in batches):
            if not np.isfinite(vectors).all():
                row = rows[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
                raise NotFiniteError(
                    f"the vector of text {row} holds NaN or infinity; try dtype='float32', and check the weights"
                )
            yield rows, vectors

    @property
    def one_device(self) -> str | None:
        """The device that texts run on; None if several share them."""
        return None if self._workers.several else self._forward_pass.device

    @contextmanager
    def around_batches(self, around: Callable[[list[list[int]]], AbstractContextManager[None]]) -> Iterator[None]:
        """Run each batch, in its thread, inside the context that ``around`` returns for its token ids."""
        before, self._forward_pass.around = self._forward_pass.around, around
        try:
            yield
        finally:
            self._forward_pass.around = before

    def forward(self, texts: list[str], *, prompt: str, budget: int) -> tuple[torch.Tensor, int]:
        """Encode texts with gradients, unless the caller disabled them.

        Returns:
            ``(n_texts, dim)`` float32 on the device, and the number of texts that were too long and cut.
        """
        import torch

        if not texts:
            return torch.empty((0, self.dim), device=self._forward_pass.device), 0
        _require_strings(enumerate(texts))
        ids, cut = self._tokenise(texts, prompt)
        batches = list(token_batches([len(row) for row in ids], budget))
        vectors = torch.cat([self._forward_pass.in_memory([ids[index] for index in batch]) for batch in batches])
        order = [index for batch in batches for index in batch]
        return vectors[torch.tensor(order, device=vectors.device).argsort()], cut

    def _require_sound(self, name: str) -> int:
        """The self-test: a text has the same vector alone and in any batch; with last-token pooling, texts end alike.

        Returns the length of a vector.
        """
        ids, _ = self._tokenise([*TEXTS, "pain " * self.contract.max_length], self.contract.document_prompt)
        ends = {row[-1] for row in ids}
        if (
            "lasttoken" in self.contract.pooling.split("+")
            and self._model.tokenizer.eos_token_id is not None
            and len(ends) > 1
        ):
            raise RuntimeError(f"{name}: the last token is the vector, and texts end with different tokens: {ends}")
        body: Any = self.body
        config = body.config.get_text_config()
        return require_sound(
            self._forward_pass,
            ids[:-1],
            dtype=self.dtype,
            name=name,
            layers=getattr(config, "num_hidden_layers", None),
            padded_left=may_be_padded_left(config),
        )

    def _tokenise(self, texts: list[str], prompt: str) -> tuple[list[list[int]], int]:
        return tokenise(self._model.tokenizer, texts, prompt, self.contract)


def cast(body: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast a transformer to the result of loading it in ``dtype`` with transformers.

    Numbers that it computes from its configuration get the type that transformers gives them: frequencies of rotary
    positions stay in float32 (in bfloat16, positions of some hundreds would be off by several), but a table of
    sinusoidal positions does not, because it is added to the embeddings.
    """
    import torch

    model: Any = body
    with torch.device("meta"):
        alike = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    types = {name: buffer.dtype for name, buffer in alike.named_buffers()}
    buffers = dict(body.named_buffers())
    body.to(dtype)
    for name, buffer in buffers.items():
        if buffer.is_floating_point():
            place, _, own = name.rpartition(".")
            body.get_submodule(place)._buffers[own] = buffer.to(types.get(name, dtype))


def _chunks(texts: Iterable[str], size: int) -> Iterator[tuple[list[int], list[str]]]:
    """Yield rows and texts, ``size`` at a time: window by window, those with most characters first."""
    for window in more_itertools.chunked(enumerate(texts), WINDOW):
        _require_strings(window)
        window.sort(key=lambda numbered: -len(numbered[1]))
        for chunk in more_itertools.chunked(window, size):
            yield [row for row, _ in chunk], [text for _, text in chunk]


def _require_strings(numbered: Iterable[tuple[int, Any]]) -> None:
    for row, text in numbered:
        if not isinstance(text, str):
            raise ValueError(f"text {row} is {text!r}, expected a string")  # noqa: TRY004 (data, not a call)


def _one_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield ``make(item)`` for each item; a thread computes the next one while the caller uses this one."""
    with ThreadPoolExecutor(1) as thread:
        ready = None
        for item in items:
            following = thread.submit(make, item)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()
