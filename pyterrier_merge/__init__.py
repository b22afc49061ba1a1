"""Domain-specific retrieval without labelled data: merge a retriever with a domain language model, in PyTerrier."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyterrier_merge.openmp import prepare_openmp
from pyterrier_merge.version import __version__

if TYPE_CHECKING:
    from pyterrier_merge.collections import from_frames, get_collection, list_collections
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.collections.pseudo_queries import known_items
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.encoding.lora import LoRAE5Encoder
    from pyterrier_merge.encoding.merged import MergedE5Encoder
    from pyterrier_merge.experiment.compare import compare
    from pyterrier_merge.experiment.report.labels_plot import labels_plot
    from pyterrier_merge.experiment.trials import limited_data_trials
    from pyterrier_merge.mergekit_yaml import read_recipe, recipe_yaml
    from pyterrier_merge.merging.compatibility import check_compatible
    from pyterrier_merge.methods import list_methods
    from pyterrier_merge.recipe import MergeRecipe, Segment
    from pyterrier_merge.retrieval.dense.index import FaissIndex
    from pyterrier_merge.retrieval.dense.pipeline import dense_retriever
    from pyterrier_merge.retrieval.lexical.bm25 import bm25
    from pyterrier_merge.systems import read_system
    from pyterrier_merge.training.domain import train_domain_model
    from pyterrier_merge.training.lora import train_lora
    from pyterrier_merge.training.settings import CausalTraining, KnownItemTraining, LoRATraining, MaskedTraining
    from pyterrier_merge.tuning.folds import sweep_folds
    from pyterrier_merge.tuning.search import Search
    from pyterrier_merge.tuning.space import Space
    from pyterrier_merge.tuning.sweep import sweep
    from pyterrier_merge.tuning.unlabelled import choose_unlabelled

_ROOMS = {
    "E5Encoder": "encoding.encoders",
    "MergedE5Encoder": "encoding.merged",
    "LoRAE5Encoder": "encoding.lora",
    "MergeRecipe": "recipe",
    "Segment": "recipe",
    "list_methods": "methods",
    "read_recipe": "mergekit_yaml",
    "recipe_yaml": "mergekit_yaml",
    "check_compatible": "merging.compatibility",
    "FaissIndex": "retrieval.dense.index",
    "dense_retriever": "retrieval.dense.pipeline",
    "bm25": "retrieval.lexical.bm25",
    "TestCollection": "collections.base",
    "get_collection": "collections",
    "list_collections": "collections",
    "from_frames": "collections",
    "known_items": "collections.pseudo_queries",
    "choose_unlabelled": "tuning.unlabelled",
    "sweep": "tuning.sweep",
    "sweep_folds": "tuning.folds",
    "Search": "tuning.search",
    "Space": "tuning.space",
    "compare": "experiment.compare",
    "labels_plot": "experiment.report.labels_plot",
    "limited_data_trials": "experiment.trials",
    "read_system": "systems",
    "train_domain_model": "training.domain",
    "MaskedTraining": "training.settings",
    "CausalTraining": "training.settings",
    "KnownItemTraining": "training.settings",
    "train_lora": "training.lora",
    "LoRATraining": "training.settings",
}

__all__ = [
    "CausalTraining",
    "E5Encoder",
    "FaissIndex",
    "KnownItemTraining",
    "LoRAE5Encoder",
    "LoRATraining",
    "MaskedTraining",
    "MergeRecipe",
    "MergedE5Encoder",
    "Search",
    "Segment",
    "Space",
    "TestCollection",
    "__version__",
    "bm25",
    "check_compatible",
    "choose_unlabelled",
    "compare",
    "dense_retriever",
    "from_frames",
    "get_collection",
    "known_items",
    "labels_plot",
    "limited_data_trials",
    "list_collections",
    "list_methods",
    "read_recipe",
    "read_system",
    "recipe_yaml",
    "sweep",
    "sweep_folds",
    "train_domain_model",
    "train_lora",
]


prepare_openmp()  # before anything loads torch


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing the package loads neither torch nor transformers."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
