"""The documents that a model was trained on as known items. Its alphas must not be chosen on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.models import training_reports

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.training.training_pairs import TrainingPairs

KNOWN_ITEMS = "known-items"


@dataclass(frozen=True)
class TrainedDocuments:
    """Documents that a model was trained on as known items.

    Attributes:
        collection: Name of the documents' collection.
        fingerprint: Fingerprint of the collection.
        docnos: Docnos of the documents.
    """

    collection: str
    fingerprint: str
    docnos: frozenset[str]

    def among(self, collection: TestCollection, docnos: Iterable[str]) -> list[str]:
        """Return which of a collection's documents are among these, if it has the same name or content."""
        name, fingerprint = collection.origin
        same = name == self.collection or fingerprint == self.fingerprint
        return sorted(self.docnos.intersection(docnos)) if same else []


def describe(pairs: TrainingPairs) -> dict[str, Any]:
    """Return the fields of ``training.json`` about the pairs that a model was trained on.

    Returns:
        ``objective``; for known items and other pairs without labels also ``items``: ``collection`` and
        ``fingerprint`` of the collection that their documents belong to, the kind of ``query``, and the sorted
        ``docnos``.
    """
    if pairs.labels or not pairs.documents or pairs.origin is None:
        return {"objective": "judgements" if pairs.labels else KNOWN_ITEMS}
    name, fingerprint = pairs.origin
    return {
        "objective": KNOWN_ITEMS,
        "items": {
            "collection": name,
            "fingerprint": fingerprint,
            "query": pairs.kind,
            "docnos": sorted(pairs.documents),
        },
    }


def trained_documents(model: str | Path) -> list[TrainedDocuments]:
    """Return the documents that a model, its adapter, or a model merged into it was trained on as known items.

    A model trained to predict masked words of documents has seen no query: its report lists no documents.

    Raises:
        ValueError: ``training.json`` or ``merge.json`` cannot be read.
    """
    try:
        found = [report["items"] for report in training_reports(model) if report.get("items") is not None]
        return [TrainedDocuments(own["collection"], own["fingerprint"], frozenset(own["docnos"])) for own in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the training report in {model} is damaged ({type(error).__name__}: {error}): train the model again"
        ) from error


def trained_queries(model: str | Path) -> list[str]:
    """Return the kinds of known items (``drawn``, ``head`` ...) that a model, or a part of it, was trained on."""
    found = []
    for report in training_reports(model):
        items = report.get("items") or {}
        if items or report.get("objective") == KNOWN_ITEMS:
            found.append(str(items.get("query") or report.get("settings", {}).get("query", "drawn")))
    return found


def require_untrained(models: Iterable[str | Path], collection: TestCollection, split: str) -> None:
    """Refuse to choose on known items of documents that a model was trained on: it would look better than it is.

    If the judgements are labels, nothing is refused.

    Args:
        models: Names of models; only those on this disk are checked.
        collection: The collection to choose on.
        split: The split of the queries.

    Raises:
        ValueError: A model was trained on documents that the split's queries look for.
    """
    if collection.labelled:
        return
    asked = collection.qrels(split)["docno"]
    for model in models:
        shared = [docno for trained in trained_documents(model) for docno in trained.among(collection, asked)]
        if shared:
            raise ValueError(
                f"{len(shared)} of the {len(asked)} {split} items of {collection.name} are documents that {model} was "
                f"trained on (such as {shared[0]!r}), so nothing can be chosen on them: train on the split 'train' of "
                "known_items(collection) and choose on 'dev', or choose on labelled queries"
            )
