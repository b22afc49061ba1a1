"""A retrieval model in memory: sentence-transformers modules, their contract, and the loop that runs texts through."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import more_itertools
import numpy as np

from pyterrier_merge.encoding.batching import token_batches
from pyterrier_merge.encoding.contract import RetrieverContract
from pyterrier_merge.encoding.self_test import TEXTS, require_sound
from pyterrier_merge.merging.places import PROJECTION
from pyterrier_merge.models import quiet_loading
from pyterrier_merge.precision import resolve_dtype

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

WINDOW = 4096  # texts sorted by length at a time: bounds memory, and costs 1 % of padding at most on short texts


class TextModel:
    """A loaded sentence-transformers model whose transformer runs in ``dtype`` and whose pooling runs in float32.

    Attributes:
        contract: Prompts, length, pooling and special tokens, read from the model.
        body: The live transformer, whose weights a merge writes to.
        dtype: What the transformer computes in.
        dim: Length of a vector.
    """

    def __init__(self, folder: Path, name: str, *, dtype: str, device: str, **contract: Any) -> None:
        """Load the model.

        Args:
            folder: A folder in sentence-transformers layout.
            name: What the user called it, for messages.
            dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
            device: A torch device.
            **contract: What :meth:`RetrieverContract.read` takes.

        Raises:
            ValueError: The folder holds no sentence-transformers model, or not one that begins with a transformer.
            RuntimeError: The self-test failed; the message says in what.
        """
        if not (folder / "modules.json").is_file():
            raise ValueError(
                f"{name!r} is no retrieval model: {folder} has no modules.json, so its pooling is unknown; "
                "give a model that sentence-transformers saved (a plain language model goes in as the domain model)"
            )
        self._model = _load(folder, device)
        self.contract = RetrieverContract.read(self._model, name, **contract)
        self.body: torch.nn.Module = self._model.transformers_model
        self.dtype = resolve_dtype(dtype, device)
        self.body.to(self.dtype)
        for module in list(self._model)[1:]:
            module.float()  # pooling, dense layers and normalisation
        self._device = device
        self._room: int = sys.maxsize  # tokens of a batch that fit into memory, as far as it is known
        self.dim = int(self._model.get_embedding_dimension())
        self._require_sound(name)

    @property
    def projection(self) -> dict[str, torch.nn.Parameter]:
        """Parameters of the dense modules after the pooling, by canonical name (``head.0.linear.weight`` …)."""
        dense = [module for module in list(self._model)[1:] if type(module).__name__ == "Dense"]
        return {
            f"{PROJECTION}{number}.{name}": parameter
            for number, module in enumerate(dense)
            for name, parameter in module.named_parameters()
        }

    def encode(self, texts: Iterable[str], *, prompt: str, budget: int) -> np.ndarray:
        """Encode texts, in windows sorted by length.

        Args:
            texts: Read once; a progress bar around it advances window by window.
            prompt: Put before each text.
            budget: Tokens of a batch, padding included.

        Returns:
            ``(n_texts, dim)`` float32, in the order of the input.

        Raises:
            ValueError: A text is not a string, or a vector came out as NaN.
        """
        import torch

        with torch.inference_mode():
            windows = [
                self.forward(window, prompt=prompt, budget=budget, first_row=number * WINDOW).cpu().numpy()
                for number, window in enumerate(more_itertools.chunked(texts, WINDOW))
            ]
        vectors = np.concatenate(windows) if windows else np.empty((0, self.dim), dtype=np.float32)
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise ValueError(
                f"the vector of text {row} holds NaN or infinity; try dtype='float32', and check the weights"
            )
        return vectors

    def forward(self, texts: list[str], *, prompt: str, budget: int, first_row: int = 0) -> torch.Tensor:
        """Encode one window of texts, with gradients unless the caller turned them off: ``(n_texts, dim)`` float32.

        ``first_row`` is the window's place in the stream, for messages.
        """
        import torch

        for row, text in enumerate(texts, first_row):
            if not isinstance(text, str):
                raise ValueError(f"text {row} is {text!r}, expected a string")  # noqa: TRY004 (data, not a call)
        if not texts:
            return torch.empty((0, self.dim), device=self._device)
        ids = self._tokenise(texts, prompt)
        order: list[int] = []
        batches = []
        for batch in token_batches([len(row) for row in ids], min(budget, self._room)):
            order.extend(batch)
            batches.extend(self._run_in_memory([ids[index] for index in batch]))
        return torch.cat(batches)[torch.tensor(order, device=batches[0].device).argsort()]

    def _require_sound(self, name: str) -> None:
        """The self-test: the same vector alone and in any batch; texts end alike where the last token is the vector."""
        ids = self._tokenise([*TEXTS, "pain " * self.contract.max_length], self.contract.document_prompt)
        ends = {row[-1] for row in ids}
        if self.contract.pooling == "lasttoken" and self._model.tokenizer.eos_token_id is not None and len(ends) > 1:
            raise RuntimeError(f"{name}: the last token is the vector, and texts end with different tokens: {ends}")
        require_sound(self._run, ids[:-1], dtype=self.dtype, name=name)

    def _tokenise(self, texts: list[str], prompt: str) -> list[list[int]]:
        appended = list(self.contract.appended)
        encoded = self._model.tokenizer(
            [prompt + text.encode(errors="replace").decode() for text in texts],  # a lone surrogate becomes "?"
            truncation=True,
            max_length=self.contract.max_length - len(appended),  # cut first, then append: the end must survive
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [row + appended for row in encoded["input_ids"]]

    def _run_in_memory(self, ids: list[list[int]]) -> list[torch.Tensor]:
        """Run a batch; where a GPU has too little memory for it, in halves, as are those that come later."""
        import torch

        try:
            return [self._run(ids)]
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
        self._room = len(ids) * max(map(len, ids)) // 2
        logger.warning(
            "%d texts do not fit into memory: batches of %d tokens at most from now on", len(ids), self._room
        )
        torch.cuda.empty_cache()
        half = len(ids) // 2
        return [*self._run_in_memory(ids[:half]), *self._run_in_memory(ids[half:])]

    def _run(self, ids: list[list[int]]) -> torch.Tensor:
        import torch

        longest = max(len(row) for row in ids)
        padding = self._model.tokenizer.pad_token_id or 0
        features: dict[str, Any] = {
            "input_ids": torch.tensor([row + [padding] * (longest - len(row)) for row in ids], device=self._device),
            "attention_mask": torch.tensor(
                [[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=self._device
            ),
        }
        first, *rest = self._model
        features = first(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in rest:
            features = module(features)
        return features["sentence_embedding"].float()


def _load(folder: Path, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    with quiet_loading():
        model = SentenceTransformer(str(folder), device=device).eval()
    if getattr(model, "transformers_model", None) is None:
        raise ValueError(
            f"{folder} does not begin with a transformer (found {type(model[0]).__name__}): nothing to merge or to run"
        )
    return model
