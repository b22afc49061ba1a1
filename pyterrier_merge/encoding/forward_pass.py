"""From token ids to vectors, on one device or on several."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Ids = list[list[int]]


class ForwardPass:
    """A model on its device: the transformer in its own type, pooling and what follows in float32."""

    def __init__(self, model: SentenceTransformer, device: str) -> None:
        """Take a model whose transformer has its type already.

        Args:
            model: The model, on ``device``.
            device: A torch device.
        """
        self.model = model
        self.device = device
        self._room: int = sys.maxsize  # tokens of a batch that fit into memory, as far as it is known

    def __call__(self, ids: Ids, *, padding_side: str = "right") -> torch.Tensor:
        """Run the token ids of a batch: ``(n_texts, dim)`` float32 on the device."""
        longest = max(map(len, ids))
        filler = self.model.tokenizer.pad_token_id or 0

        def padded(row: list[int], filler: int) -> list[int]:
            gap = [filler] * (longest - len(row))
            return gap + row if padding_side == "left" else row + gap

        features: dict[str, Any] = {
            "input_ids": torch.tensor([padded(row, filler) for row in ids], device=self.device),
            "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in ids], device=self.device),
        }
        first, *rest = self.model
        features = first(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in rest:
            features = module(features)
        return features["sentence_embedding"].float()

    def in_memory(self, ids: Ids) -> torch.Tensor:
        """Run a batch; where a GPU has too little memory for it, in halves, as are those that come later."""
        if len(ids) == 1 or _tokens(ids) <= self._room:
            try:
                return self(ids)
            except torch.OutOfMemoryError:
                if len(ids) == 1:
                    raise
            self._room = _tokens(ids) // 2
            logger.warning(
                "%d texts do not fit into the memory of %s: batches of %d tokens at most from now on",
                len(ids),
                self.device,
                self._room,
            )
            torch.cuda.empty_cache()
        half = len(ids) // 2
        return torch.cat([self.in_memory(ids[:half]), self.in_memory(ids[half:])])


class Replicas:
    """The same model on several devices, which take batches as they get free.

    The first is the model that was given, whose weights a merge may write to; the others follow it.
    """

    def __init__(self, first: ForwardPass, devices: Sequence[str]) -> None:
        """Copy a model to further devices.

        Args:
            first: The model on the first device.
            devices: The others; none for a single device.
        """
        self.first = first
        self._others = [ForwardPass(copy.deepcopy(first.model).to(device), device) for device in devices]
        self._followed = self._versions()

    def run(self, batches: Sequence[Ids]) -> list[torch.Tensor]:
        """Run batches without gradients: their vectors, in their order, on the first device."""
        if not self._others:
            return [self.first.in_memory(ids) for ids in batches]
        self._follow()
        vectors: list[torch.Tensor] = [torch.empty(0)] * len(batches)
        waiting = iter(range(len(batches)))  # threads take the next one: the interpreter's lock makes that safe

        def work(device: ForwardPass) -> None:
            with torch.inference_mode():  # which holds for a thread
                for place in waiting:
                    vectors[place] = device.in_memory(batches[place]).to(self.first.device)

        in_threads(work, [self.first, *self._others])
        return vectors

    def _follow(self) -> None:
        """Copy the first model's weights to the others, where a merge has written to them since."""
        if self._followed == (versions := self._versions()):
            return
        with torch.no_grad():
            for other in self._others:
                for mine, its in zip(self.first.model.parameters(), other.model.parameters(), strict=True):
                    its.copy_(mine)
        self._followed = versions

    def _versions(self) -> list[int]:
        return [parameter._version for parameter in self.first.model.parameters()]


def in_threads(work: Callable[[ForwardPass], None], devices: Sequence[ForwardPass]) -> None:
    """Do the same work for each device in a thread of its own; the first error is raised."""
    with ThreadPoolExecutor(len(devices)) as threads:
        for done in [threads.submit(work, device) for device in devices]:
            done.result()


def _tokens(ids: Ids) -> int:
    return len(ids) * max(map(len, ids))
