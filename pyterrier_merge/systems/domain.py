"""A domain model that is trained on the documents of a collection, as part of a merge's section."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from pyterrier_merge.collections.pseudo_queries import known_items
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models import fingerprint_model, locate_model
from pyterrier_merge.models.files import TRAINING
from pyterrier_merge.precision import resolve_dtype
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.systems.base import Bench, Section
from pyterrier_merge.systems.settings import Positive
from pyterrier_merge.training.settings import CausalTraining, DomainSettings, KnownItemTraining, MaskedTraining

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection

Settings = MaskedTraining | CausalTraining | KnownItemTraining


class TrainedDomain(Section):
    """A domain model that is trained on the documents of a collection, without labels.

    Attributes:
        train: The settings of the training; ``{}`` uses the defaults of masked training.
        documents: Maximum number of documents to train on instead of all (those with the smallest SHA-256 of their
            docnos); their texts are held in memory. For known items, use ``items`` of ``train``.
        seeds: Train one model for each seed; figures are averaged per query over the models.
        collection: Train on the documents of another collection of the experiment, by its label.
    """

    train: DomainSettings = Field(default_factory=MaskedTraining)
    documents: Positive | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    collection: str | None = None

    @model_validator(mode="after")
    def _one_meaning(self) -> TrainedDomain:
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ValueError(f"seeds: expected at least one, each once; found {list(self.seeds)}")
        named = self.train.seed != type(self.train)().seed  # by value: a stored spec names all fields
        if self.seeds is not None and named:
            raise ValueError("give either 'seeds' or 'seed' in 'train', not both")
        if self.documents is not None and isinstance(self.train, KnownItemTraining):
            raise ValueError("'documents' is for masked and causal training; for known items, use 'items' in 'train'")
        if isinstance(self.train, KnownItemTraining) and self.train.negatives:
            raise ValueError("known items have no hard negatives: leave 'negatives' of 'train' out")
        return self

    def check(self, bench: Bench) -> None:
        """Raise ``ValueError`` if there is no such collection, or no known items can be made of it."""
        self._data(bench, self.train)

    def settings(self) -> list[Settings]:
        """Return the settings of each seed's training."""
        if self.seeds is None:
            return [self.train]
        return [self.train.model_copy(update={"seed": seed}) for seed in self.seeds]

    def models(self, bench: Bench, base: str, settings_of_encoder: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the folder of each seed's model, trained if it is not cached, and a description of its origin.

        The folder's name has fingerprints of the collection, the base and the settings, so that a cached model is found
        without a pass over the documents. They are read once for all seeds.

        Args:
            bench: The bench with the collection.
            base: Name of the model that the training starts from.
            settings_of_encoder: Settings of the merge's encoder; the training reads texts in the same way, and runs on
                the CPU if the encoder does.
        """
        from pyterrier_merge.encoding.encoders import E5Encoder
        from pyterrier_merge.training.domain import train_domain_model

        collection, located = bench.on(self.collection).collection, locate_model(base)
        texts = cache(lambda: collection if isinstance(self.train, KnownItemTraining) else self._texts(bench))
        found = []
        for settings, (folder, kept) in self.kept(bench, base, settings_of_encoder).items():
            if not kept:
                contract = E5Encoder(base, **settings_of_encoder).contract
                train_domain_model(
                    texts(), located, folder, settings=settings, contract=contract,
                    device=_device(settings_of_encoder), verbose=bench.verbose,
                )  # fmt: skip
            found.append((str(folder), self._described(settings, collection.name)))
        return found

    def kept(
        self, bench: Bench, base: str, settings_of_encoder: Mapping[str, Any]
    ) -> dict[Settings, tuple[Path, bool]]:
        """Return the folder of each seed's model, and whether it is already trained; see :meth:`models`."""
        from pyterrier_merge.training.domain import PROCEDURE
        from pyterrier_merge.training.folder import one_device

        collection = bench.on(self.collection).collection
        read = {name: settings_of_encoder.get(name) for name in self._decisive}
        base_content = fingerprint_model(locate_model(base))
        made_from = [self.documents, base_content, read, PROCEDURE]
        found = {}
        for settings in self.settings():
            dtype = str(resolve_dtype(settings.dtype, one_device(_device(settings_of_encoder))))
            data = self._data(bench, settings).fingerprint
            identity = fingerprint([data, made_from, settings.model_dump(), dtype])
            folder = cache_folder("domain-models") / f"{collection.name}-{identity}"
            found[settings] = (folder, (folder / TRAINING).is_file())
        return found

    @property
    def _decisive(self) -> tuple[str, ...]:
        """The settings of an encoder that affect the input of the training."""
        if isinstance(self.train, KnownItemTraining):
            return ("task", "query_prompt", "document_prompt", "max_length", "pooling", "normalize")
        return ("document_prompt", "max_length", "pooling")

    def _data(self, bench: Bench, settings: Settings) -> TestCollection:
        """Return the collection, or for that training its known items; no document is read."""
        collection = bench.on(self.collection).collection
        if isinstance(settings, KnownItemTraining) and collection.labelled:
            return known_items(collection, settings.items, seed=settings.seed, query=settings.query)
        return collection

    def _texts(self, bench: Bench) -> list[str]:
        documents = bench.on(self.collection).collection.corpus_iter()
        if self.documents is None:
            return [doc["text"] for doc in documents]
        return [doc["text"] for doc in heapq.nsmallest(self.documents, documents, key=_order)]

    def _described(self, settings: Settings, collection: str) -> str:
        chosen = {name: value for name, value in settings.model_dump().items() if value is not None}
        said = ", ".join(f"{name} {value}" for name, value in chosen.items())
        documents = "the documents" if self.documents is None else f"{self.documents:,} documents"
        if isinstance(settings, KnownItemTraining):
            documents = "known items"
        return f"trained on {documents} of {collection}, unlabelled ({said})"


def _device(settings_of_encoder: Mapping[str, Any]) -> str | None:
    """The device of the training; an encoder may use several GPUs, and a training chooses its own."""
    return "cpu" if settings_of_encoder.get("device") == "cpu" else None


def _order(doc: dict[str, str]) -> bytes:
    return hashlib.sha256(doc["docno"].encode()).digest()
