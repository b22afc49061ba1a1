"""Batches of training pairs, by number, with the same token ids as in the model's encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyterrier_merge.encoding.contract import RetrieverContract
from pyterrier_merge.encoding.tokens import tokenise

if TYPE_CHECKING:
    from pyterrier_merge.training.pairs import TrainingPairs
    from pyterrier_merge.training.settings import ContrastiveTraining

MULTIPLE = 8  # batch lengths are rounded up to a multiple of it
_ORDER = 2  # stream of random numbers
PAPER_LINE_BREAK, PAPER_QUERY = "\\n", "Query:"


@dataclass(frozen=True)
class Texts:
    """Conversion of texts to token ids, as in the encoder.

    Attributes:
        tokenizer: The model's tokenizer.
        contract: Prompts, maximum length, and tokens around a text.
        paper: Write prompts and ends of texts as the training scripts of arXiv 2509.21966.
    """

    tokenizer: Any
    contract: RetrieverContract
    paper: bool = False

    def queries(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return ``input_ids`` and ``attention_mask`` of queries, ``(n, length)``."""
        prompt = self.contract.query_prompt
        if self.paper:
            prompt = prompt.replace("\n", PAPER_LINE_BREAK).replace(f"{PAPER_QUERY} ", PAPER_QUERY)
        return self._padded(texts, prompt)

    def documents(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return ``input_ids`` and ``attention_mask`` of documents, ``(n, length)``."""
        return self._padded(texts, self.contract.document_prompt)

    def _padded(self, texts: Sequence[str], prompt: str) -> dict[str, torch.Tensor]:
        contract = self.contract
        if self.paper and self.tokenizer.eos_token_id is not None:
            contract = replace(contract, appended=(*contract.appended, self.tokenizer.eos_token_id))
        ids, _ = tokenise(self.tokenizer, list(texts), prompt, contract)
        longest = -(-max(map(len, ids)) // MULTIPLE) * MULTIPLE
        longest = min(longest, max(contract.max_length, max(map(len, ids))))
        filler = self.tokenizer.pad_token_id or 0
        return {
            "input_ids": torch.tensor([row + [filler] * (longest - len(row)) for row in ids]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
        }


class PairBatches:
    """The batches of a contrastive training, by number. No text in a batch is relevant to another row's query.

    Copies of a text count as one text, and copies of a query as one query.

    Attributes:
        pairs: The training pairs.
        texts: Converts texts to token ids.
        batches: The rows of each batch: qid, docno of the positive, docnos of negatives.
    """

    def __init__(self, pairs: TrainingPairs, texts: Texts, settings: ContrastiveTraining, batches: int) -> None:
        """Plan the rows of this number of batches.

        Raises:
            ValueError: Each batch has one query and no negatives, so there is nothing to contrast.
        """
        self.pairs, self.texts = pairs, texts
        self._query = dict(zip(pairs.queries["qid"], pairs.queries["query"], strict=True))
        known = pairs.positives if pairs.relevant is None else pairs.relevant
        self._relevant: dict[str, set[str]] = {query: set() for query in self._query.values()}
        for frame in (pairs.positives, known):
            for qid, docno in zip(frame["qid"], frame["docno"], strict=True):
                self._relevant[self._query[qid]].add(self._text(docno))
        drawn = self._drawn(settings)
        self.batches = [next(drawn) for _ in range(batches)]
        if not settings.negatives and all(len(batch) == 1 for batch in self.batches):
            raise ValueError(
                f"{pairs.name}: no two queries can share a batch of {settings.batch_size}, and there are no negatives: "
                "there is nothing to contrast a text with"
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, dict[str, torch.Tensor]]:
        """Return token ids and masks of the queries, of their positives, and of each column of negatives.

        All documents are padded to one length.
        """
        qids, *columns = zip(*self.batches[number], strict=True)
        names = ["positive", *(f"negative_{count}" for count in range(1, len(columns)))]
        documents = self.texts.documents([self.pairs.texts[docno] for column in columns for docno in column])
        split = {name: tensor.chunk(len(columns)) for name, tensor in documents.items()}
        return {"query": self.texts.queries([self._query[qid] for qid in qids])} | {
            column: {name: tensors[place] for name, tensors in split.items()} for place, column in enumerate(names)
        }

    def _drawn(self, settings: ContrastiveTraining) -> Iterator[list[tuple[str, ...]]]:
        """Yield batches of rows without end, epoch after epoch; each epoch has its own order."""
        epoch, waiting = 0, list[tuple[str, ...]]()
        while True:
            batch, left = self._taken(waiting, settings.batch_size)
            if len(batch) < settings.batch_size:
                rows = self.pairs.rows(epoch, negatives=settings.negatives, seed=settings.seed)
                order = np.random.default_rng([settings.seed, _ORDER, epoch]).permutation(len(rows))
                waiting += [tuple(row) for row in rows.iloc[order].itertuples(index=False)]
                batch, left = self._taken(waiting, settings.batch_size)
                epoch += 1
            yield batch
            waiting = left[-len(self.pairs) :]  # rows that can share few batches would pile up

    def _taken(self, waiting: list[tuple[str, ...]], size: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """Return the first rows that can share a batch, and the rows left for later batches."""
        batch: list[tuple[str, ...]] = []
        left: list[tuple[str, ...]] = []
        held = set[str]()  # texts in the batch
        refused = set[str]()  # texts that are relevant to a query in the batch
        for place, row in enumerate(waiting):
            if len(batch) == size:
                left += waiting[place:]
                break
            relevant, texts = self._relevant[self._query[row[0]]], [self._text(docno) for docno in row[1:]]
            if relevant & held or refused.intersection(texts):
                left.append(row)
                continue
            batch.append(row)
            held.update(texts)
            refused |= relevant
        return batch, left

    def _text(self, docno: str) -> str:
        """Return a document's text, so that copies count as one; its docno if it is relevant but has no text here."""
        return self.pairs.texts.get(docno, docno)
