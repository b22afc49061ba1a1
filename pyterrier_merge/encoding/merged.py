"""A retrieval model with a domain model blended in, as a PyTerrier transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.text_model import TextModel
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.merger import Merger, TensorMerge
from pyterrier_merge.models import fingerprint_model, locate_model, transformer_folder
from pyterrier_merge.recipe import MergeRecipe, check_alpha


class MergedE5Encoder(E5Encoder):
    """A retrieval model with a domain language model's weights blended in, in memory, without labelled data.

    The lower half of the layers is ``alpha_lower * source + (1 - alpha_lower) * domain``, the upper half likewise with
    ``alpha_upper`` (arXiv 2509.21966). Tokenizer, token embeddings, prompts and pooling are the source's. Both alphas
    can be set at any time, by ``pt.GridScan`` too: the next text is encoded with a new merge of the untouched parents.
    """

    def __init__(
        self,
        source: str | Path,
        domain: str | Path,
        *,
        alpha_lower: float,
        alpha_upper: float,
        method: str = "linear",
        task: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        source_revision: str | None = None,
        domain_revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int = 32,
        text_field: str = "text",
        verbose: bool = False,
    ) -> None:
        """Describe the merge; nothing is loaded yet.

        Args:
            source: The retrieval model: a folder, ``package:NAME/FOLDER``, or a hub id.
            domain: The plain language model of the domain, of the same architecture and depth, named likewise.
            alpha_lower: Weight of the source in the lower half of the layers, in [0, 1].
            alpha_upper: The same of the upper half and the final norm.
            method: ``linear``, ``slerp`` or ``nuslerp`` (mergekit's names).
            source_revision: Branch, tag or commit, where the source is a hub id.
            domain_revision: The same of the domain model.
            task: The instruction of models that follow one.
            query_prompt: Put before each query, instead of the source's own.
            document_prompt: Put before each document, instead of the source's own.
            max_length: Tokens of a text at most; the source's own when None.
            dtype: What the transformer computes in; merging itself is done in float32 and rounded once.
            device: A torch device; a GPU where there is one when None.
            batch_size: How many texts of the maximum length a batch holds.
            text_field: Column with a document's text.
            verbose: Show progress bars.

        Raises:
            ValueError: An alpha outside [0, 1], or an unknown method; at the first text, two models that cannot be
                merged, or a merge that changed nothing.
        """
        super().__init__(
            source,
            task=task,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_length=max_length,
            revision=source_revision,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            text_field=text_field,
            verbose=verbose,
        )
        self.domain = str(domain).rstrip("/")
        self.method = method
        self.domain_revision = domain_revision
        self._alpha_lower = check_alpha("alpha_lower", alpha_lower)
        self._alpha_upper = check_alpha("alpha_upper", alpha_upper)
        self._merger: Merger | None = None
        self._domain_content = ""
        self._merged: MergeRecipe | None = None
        self._tensor_merges: tuple[TensorMerge, ...] = ()
        _ = self.recipe  # an unknown method shows now

    @property
    def source(self) -> str:
        """The retrieval model: another name of ``model``."""
        return self.model

    @source.setter
    def source(self, source: str | Path) -> None:
        self.model = str(source).rstrip("/")

    @property
    def source_revision(self) -> str | None:
        """Its revision: another name of ``revision``."""
        return self.revision

    @source_revision.setter
    def source_revision(self, revision: str | None) -> None:
        self.revision = revision

    @property
    def alpha_lower(self) -> float:
        """Weight of the source in the lower half of the layers."""
        return self._alpha_lower

    @alpha_lower.setter
    def alpha_lower(self, alpha: float) -> None:
        self._alpha_lower = check_alpha("alpha_lower", alpha)

    @property
    def alpha_upper(self) -> float:
        """Weight of the source in the upper half of the layers and in the final norm."""
        return self._alpha_upper

    @alpha_upper.setter
    def alpha_upper(self, alpha: float) -> None:
        self._alpha_upper = check_alpha("alpha_upper", alpha)

    @property
    def recipe(self) -> MergeRecipe:
        """The merge as pure data."""
        return MergeRecipe.halves(
            self.source,
            self.domain,
            self.alpha_lower,
            self.alpha_upper,
            method=self.method,
            source_revision=self.source_revision,
            domain_revision=self.domain_revision,
        )

    @property
    def tensor_merges(self) -> tuple[TensorMerge, ...]:
        """What the merge did to each tensor: its weight, and how far it moved. Merges now if that is yet to be done."""
        self._ready()
        return self._tensor_merges

    def _identity(self) -> dict[str, Any]:
        own = ("domain", "domain_revision", "alpha_lower", "alpha_upper", "method")
        return {**super()._identity(), **{name: getattr(self, name) for name in own}}

    def _weights_fingerprint(self) -> str:
        return self.recipe.fingerprint

    def _ready(self) -> TextModel:
        text_model = self._text_model()
        source = locate_model(self.source, revision=self.source_revision)
        domain = locate_model(self.domain, revision=self.domain_revision)
        content = fingerprint_model(domain)
        if self._merger is None or self._merger.model is not text_model.body or self._domain_content != content:
            self._merged = None
            self._merger = Merger(
                text_model.body, Checkpoint(transformer_folder(source)), Checkpoint(transformer_folder(domain))
            )
            self._domain_content = content
        recipe = self.recipe
        if self._merged != recipe:
            self._merged = None  # should the merge fail half-way, the next text merges anew
            self._tensor_merges = self._merger.merge(recipe)
            self._merged = recipe
        return text_model

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_merger": None, "_merged": None, "_tensor_merges": ()}
