"""Which documents a model was trained on as known items: these never choose its alphas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.models.files import TRAINING, read_training
from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.training.training_pairs import TrainingPairs

KNOWN_ITEMS = "known-items"


@dataclass(frozen=True)
class TrainedDocuments:
    """Documents whose items a model was trained on.

    Attributes:
        collection: Name of the collection that they belong to.
        fingerprint: Its fingerprint.
        docnos: Their names.
    """

    collection: str
    fingerprint: str
    docnos: frozenset[str]

    def among(self, collection: TestCollection, docnos: Iterable[str]) -> list[str]:
        """Return those of a collection's documents that are among these: of one that has the same name or content."""
        name, fingerprint = collection.origin
        same = name == self.collection or fingerprint == self.fingerprint
        return sorted(self.docnos.intersection(docnos)) if same else []


def describe(pairs: TrainingPairs) -> dict[str, Any]:
    """Return what ``training.json`` says of pairs that a model was trained on, beside its other fields.

    Returns:
        ``objective``; for known items, and others that cost no label, also ``items``: ``collection`` and
        ``fingerprint`` of the collection that their documents belong to, and the sorted ``docnos``.
    """
    if pairs.labels or not pairs.documents or pairs.origin is None:
        return {"objective": "judgements" if pairs.labels else KNOWN_ITEMS}
    name, fingerprint = pairs.origin
    return {
        "objective": KNOWN_ITEMS,
        "items": {"collection": name, "fingerprint": fingerprint, "docnos": sorted(pairs.documents)},
    }


def trained_documents(folder: str | Path) -> TrainedDocuments | None:
    """Return the documents whose items the model in a folder was trained on; None where its report names none.

    A model that learned to fill in masked words of documents has seen no query: its report names none.

    Raises:
        ValueError: ``training.json`` cannot be read.
    """
    folder = user_path(folder)
    try:
        items = read_training(folder).get("items")
        if items is None:
            return None
        return TrainedDocuments(items["collection"], items["fingerprint"], frozenset(items["docnos"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / TRAINING} is damaged ({type(error).__name__}: {error}): train the model again"
        ) from error


def require_untrained(models: Iterable[str | Path], collection: TestCollection, split: str) -> None:
    """Refuse to choose on known items of documents that a model was trained on: it would look better than it is.

    Where the judgements are labels, nothing is refused.

    Args:
        models: Names of models; folders among them are looked into.
        collection: What is chosen on.
        split: Whose queries.

    Raises:
        ValueError: A model was trained on documents that the split's queries look for.
    """
    if collection.labelled:
        return
    asked = collection.qrels(split)["docno"]
    for model in models:
        trained = trained_documents(model)
        shared = trained.among(collection, asked) if trained else []
        if shared:
            raise ValueError(
                f"{len(shared)} of the {len(asked)} {split} items of {collection.name} are documents that {model} was "
                f"trained on (such as {shared[0]!r}), so nothing can be chosen on them: train on the split 'train' of "
                "known_items(collection) and choose on 'dev', or choose on labelled queries"
            )
