"""A retrieval model with domain models blended in, as a PyTerrier transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyterrier_merge.encoding.encoders import LOADING, E5Encoder
from pyterrier_merge.encoding.text_model import TextModel
from pyterrier_merge.merging.blending import TensorMerge
from pyterrier_merge.merging.identity import merge_fingerprint
from pyterrier_merge.merging.merger import Merger
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.models import ModelParts, fingerprint_model, locate_model, short_name
from pyterrier_merge.recipe import MergeRecipe, check_alpha
from pyterrier_merge.signatures import takes_options_of
from pyterrier_merge.storage import cache_folder


class MergedE5Encoder(E5Encoder):
    """A retrieval model with a domain language model's weights blended in, in memory, without labelled data.

    The lower half of the layers is ``alpha_lower * source + (1 - alpha_lower) * domain``, the upper half the same with
    ``alpha_upper`` (arXiv 2509.21966). Tokenizer, token embeddings, prompts and pooling are the source's. For any other
    recipe use :meth:`from_recipe`. Both alphas and the whole :attr:`recipe` can be set at any time, also by
    ``pt.GridScan``: the next text is encoded with a new merge of the unchanged parents.
    """

    @takes_options_of(E5Encoder)
    def __init__(
        self,
        source: str | Path,
        domain: str | Path | Sequence[str | Path],
        *,
        alpha_lower: float | None,
        alpha_upper: float | None,
        method: str = "linear",
        parameters: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Describe the merge; nothing is loaded yet.

        Args:
            source: The retrieval model: a folder, ``package:NAME/FOLDER``, or a hub id; ``ID@REVISION`` pins one.
            domain: The plain language model of the domain, of the same architecture and depth, named in the same way;
                or several, which share ``1 - alpha``.
            alpha_lower: Weight of the source in the lower half of the layers, in [0, 1]; None is for methods that
                take no weights.
            alpha_upper: The same of the upper half and the final norm.
            method: mergekit's name: ``linear``, ``slerp``, ``task_arithmetic``, ``ties`` …
            parameters: The method's parameters besides weights, such as ``{"density": 0.5}``.
            **settings: Those of :class:`E5Encoder`, from ``task`` on. Settings left out are the source's own. Merging
                is done in float32 and rounded once, for every ``dtype``.

        Raises:
            ValueError: An alpha outside [0, 1], an unknown method or parameter; at the first text, models that cannot
                be merged, or a merge that changed nothing.
        """
        self._recipe = MergeRecipe.halves(
            source, domain, alpha_lower, alpha_upper, method=method, parameters=parameters or {}
        )
        super().__init__(source, **settings)
        self._merger: Merger | None = None
        self._merger_of: tuple[Any, ...] = ()
        self._merged: MergeRecipe | None = None
        self._tensor_merges: tuple[TensorMerge, ...] = ()

    @classmethod
    def from_recipe(cls, recipe: MergeRecipe, **settings: Any) -> MergedE5Encoder:
        """Return the encoder of any recipe; ``settings`` are the constructor's, from ``task`` on."""
        encoder = cls(recipe.source, recipe.domains, alpha_lower=1, alpha_upper=1, **settings)
        encoder.recipe = recipe
        return encoder

    @property
    def recipe(self) -> MergeRecipe:
        """The merge as pure data."""
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: MergeRecipe) -> None:
        self._recipe = recipe

    @property
    def model(self) -> str:
        """The retrieval model, as the recipe names it."""
        return self._recipe.source

    @model.setter
    def model(self, model: str | Path) -> None:
        self._recipe = replace(self._recipe, source=str(model))

    source = model

    @property
    def domain(self) -> str | tuple[str, ...]:
        """The domain model, or all of them if there are several."""
        domains = self._recipe.domains
        return domains[0] if len(domains) == 1 else domains

    @domain.setter
    def domain(self, domain: str | Path | Sequence[str | Path]) -> None:
        self._recipe = replace(self._recipe, domains=domain)  # type: ignore[arg-type]  # the recipe makes a tuple of it

    @property
    def alpha_lower(self) -> float | None:
        """Weight of the source in the lower half of the layers (in the lowest segment of another recipe)."""
        return self._recipe.segments[0].alpha

    @alpha_lower.setter
    def alpha_lower(self, alpha: float | None) -> None:
        self._set_half(0, "alpha_lower", alpha)

    @property
    def alpha_upper(self) -> float | None:
        """Weight of the source in the upper half of the layers and in the final norm (in the highest segment)."""
        return self._recipe.segments[-1].alpha

    @alpha_upper.setter
    def alpha_upper(self, alpha: float | None) -> None:
        self._set_half(1, "alpha_upper", alpha)

    @property
    def method(self) -> str:
        """How weights are blended: mergekit's name."""
        return self._recipe.method

    @method.setter
    def method(self, method: str) -> None:
        self._recipe = replace(self._recipe, method=method)

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's own parameters that were given."""
        return dict(self._recipe.parameters)

    @parameters.setter
    def parameters(self, parameters: Mapping[str, Any]) -> None:
        self._recipe = replace(self._recipe, parameters=parameters)  # type: ignore[arg-type]  # made pairs of

    @property
    def tensor_merges(self) -> tuple[TensorMerge, ...]:
        """What the merge did to each tensor: its weights, and how far it moved. Merges now if it has not yet."""
        self._ready()
        return self._tensor_merges

    def save(
        self, folder: str | Path, *, dtype: str = "auto", overwrite: bool = False, verbose: bool | None = None
    ) -> Path:
        """Write the merge as a model folder that sentence-transformers and :class:`E5Encoder` load, without parents.

        The folder has the source's modules, tokenizer and configuration, this encoder's prompts and length, and a model
        card. Weights are read from the parents' files again, so this takes the memory of a shard (1 GB).

        Args:
            folder: The new folder; it appears only when it is complete.
            dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: the source's stored type, independent of this
                encoder's ``dtype``. Weights are computed in float32 and rounded once.
            overwrite: Replace an existing model.
            verbose: Show a progress bar; the encoder's setting when None.

        Returns:
            The folder.

        Raises:
            FileExistsError: The folder exists.
            ValueError: The models cannot be merged, a parent is in the folder, or the dtype cannot hold the weights.
            OSError: The disk has no room.
        """
        return self._save(folder, dtype=dtype, overwrite=overwrite, verbose=verbose)

    def push_to_hub(self, repo_id: str, *, private: bool = True, dtype: str = "auto", token: str | None = None) -> str:
        """Save the merge into a temporary folder of the cache and upload it to the Hugging Face hub.

        Args:
            repo_id: ``USER/NAME``; created if it does not exist.
            private: Whether only its owner can see a new repository.
            dtype: As in :meth:`save`.
            token: An access token with write permission; that of ``hf auth login`` or ``HF_TOKEN`` when None.

        Returns:
            The repository's address.

        Raises:
            RuntimeError: There is no token, or the hub refused.
            ValueError: The models cannot be merged.
            OSError: The disk has no room.
        """
        from pyterrier_merge.encoding.saving.publishing import require_token, upload

        api = require_token(repo_id, token)
        with TemporaryDirectory(dir=cache_folder("uploads")) as temporary:
            folder = self._save(Path(temporary, "model"), dtype=dtype, title=repo_id)
            return upload(api, folder, repo_id, private=private)

    def _save(self, folder: str | Path, *, verbose: bool | None = None, **settings: Any) -> Path:
        from pyterrier_merge.encoding.saving.folder import save_merge

        [device, *_], shown = self._devices(), self.verbose if verbose is None else verbose
        return save_merge(self.recipe, folder, device=device, verbose=shown, **self.contract_settings(), **settings)

    def _set_half(self, position: int, name: str, alpha: float | None) -> None:
        segments = list(self._recipe.segments)
        if len(segments) != 2:
            raise ValueError(f"{name} is one of two segments; the recipe has {len(segments)}: set the whole recipe")
        if segments[position].domain_weights is not None:
            raise ValueError(f"{name} belongs to a segment with a weight for each domain model: set the whole recipe")
        segments[position] = replace(segments[position], alpha=None if alpha is None else check_alpha(name, alpha))
        self._recipe = replace(self._recipe, segments=tuple(segments))

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "recipe": self.recipe}

    def _weights_fingerprint(self) -> str:
        return merge_fingerprint(self.recipe)

    def _parts(self) -> ModelParts:
        return ModelParts(locate_model(self.model))  # the merger reads files, which include an adapter's change

    def open(self) -> tuple[TextModel, Merger]:
        """Return the live model and its merger; both are loaded now if they are not yet."""
        recipe = self.recipe
        contents = tuple(fingerprint_model(locate_model(name)) for name in recipe.models)
        content = (recipe.source, recipe.domains, recipe.base, contents)
        with LOADING:
            if self._merger is not None and self._merger_of != content:
                self._unload()  # other models are merged into the source, not into the last merge
            text_model = self._text_model()
            if self._merger is None:
                self._merger = Merger(text_model.body, Parents(recipe), text_model.projection)
                self._merger_of = content
            return text_model, self._merger

    def merged(self) -> TextModel:
        """Return the live model with the recipe's weights; merges now if it has not yet."""
        recipe = self.recipe
        with LOADING:
            text_model, merger = self.open()
            if self._merged != recipe:
                self._merged = None  # if the merge fails half-way, the next text merges again
                self._tensor_merges = merger.merge(recipe)
                self._merged = recipe
            return text_model

    def _ready(self) -> TextModel:
        return self.merged()

    def _unload(self) -> None:
        super()._unload()
        self._merger = self._merged = None

    def __str__(self) -> str:
        models = "+".join(map(short_name, self.recipe.models))
        return f"merged({models}; {self.recipe.alphas}{'' if self.method == 'linear' else f'; {self.method}'})"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_merger": None, "_merged": None, "_tensor_merges": ()}
