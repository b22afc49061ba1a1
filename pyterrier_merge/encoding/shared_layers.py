"""Many merges of the same models over the same texts: layers that several have in common are computed once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyterrier_merge.encoding.self_test import TEXTS
from pyterrier_merge.encoding.text_model import Batch
from pyterrier_merge.merging.places import LAYER

if TYPE_CHECKING:
    from pyterrier_merge.encoding.merged import MergedE5Encoder
    from pyterrier_merge.recipe import MergeRecipe

logger = logging.getLogger(__name__)

Key = tuple[tuple[int, ...], ...]  # the token ids of a batch, which with the weights determine its states
Encoded = list[tuple[list[int], np.ndarray]]  # the rows of each batch, and their vectors


class _UnfitError(Exception):
    """This model's layers cannot be started in the middle; the message says why."""


@dataclass(frozen=True)
class Step:
    """One recipe of a walk.

    Attributes:
        place: The index of the recipe.
        kept: Numbers of layers after which states are kept while it runs, because later steps begin there.
        shared: How many layers the next step has in common with it.
    """

    place: int
    kept: frozenset[int]
    shared: int


def plan_walk(levels: Sequence[Sequence[Hashable]]) -> list[Step]:
    """Order recipes depth first, so that each shares as many first layers as possible with the one before.

    Args:
        levels: For each recipe, what decides its weights below the layers, and in each layer, lowest first (see
            :meth:`~pyterrier_merge.merging.merger.Merger.levels`).
    """
    numbers: dict[tuple[int, Hashable], int] = {}  # keeps the order of appearance
    keys = [[numbers.setdefault(level, len(numbers)) for level in enumerate(own)] for own in levels]
    order = sorted(range(len(levels)), key=keys.__getitem__)
    shared = [_in_common(keys[one], keys[other]) for one, other in pairwise(order)] + [0]
    kept: list[set[int]] = [set() for _ in order]
    for place, depth in enumerate(shared):
        first = place  # the first step that passes this layer: a later one may begin above it
        while first and shared[first - 1] >= depth:
            first -= 1
        if depth:
            kept[first].add(depth)
    return [Step(*found) for found in zip(order, map(frozenset, kept), shared, strict=True)]


def most_kept(steps: Sequence[Step]) -> int:
    """Return the largest number of places at which states are kept at the same time."""
    most, held = 0, frozenset[int]()
    for step in steps:
        held |= step.kept
        most = max(most, len(held))
        held = frozenset(depth for depth in held if depth <= step.shared)
    return most


def _in_common(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Number of first layers that have the same weights, including everything below them."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True)))
    return max(0, same - 1)


class SharedLayers:
    """Encodes batches with one recipe after the other, and keeps the states between layers that recipes share.

    To begin in the middle, the layers below return their input and the last of them returns the kept states; the model
    itself still computes embeddings, masks, positions and the final norm. No code here depends on a family of models.
    A trial on a few texts checks that a model can be run in this way: vectors must be bit-identical. If they are not,
    every recipe is run from the first layer, and a warning says why.

    Attributes:
        reason: Why nothing is shared; empty if layers are shared, or if the recipes have no layers in common.
    """

    def __init__(self, encoder: MergedE5Encoder, recipes: Sequence[MergeRecipe]) -> None:
        """Load the models and try whether the recipes can share layers.

        Args:
            encoder: An encoder that is not used elsewhere: its recipe changes with every step of a walk.
            recipes: All recipes that will be run, of the encoder's models.
        """
        self._encoder = encoder
        self._model, merger = encoder.open()
        self._levels = {recipe: merger.levels(recipe) for recipe in recipes}
        self._kept: dict[int, dict[Key, Any]] = {}  # by number of layers: the states of each batch
        self._running = _Running()
        self._token_bytes = 0
        self.reason = ""
        depths = sorted(frozenset[int]().union(*(step.kept for step in self._steps(recipes))))
        if depths:
            try:
                self._layers = _layers_of(self._model.body)
                self._try(depths)
            except _UnfitError as error:
                self.reason = str(error)
                logger.warning(
                    "%s: every merge is run from its first layer, for %s", encoder.recipe.source, self.reason
                )

    def token_bytes(self, recipes: Sequence[MergeRecipe]) -> int:
        """Return the maximum bytes of the kept states of a token (or of padding) in a walk over recipes."""
        return 0 if self.reason else self._token_bytes * most_kept(self._steps(recipes))

    def run(
        self,
        recipes: Sequence[MergeRecipe],
        batches: Sequence[Batch],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[MergeRecipe, Encoded]]:
        """Yield each recipe, in the order of the walk, with the rows and vectors of every batch.

        Args:
            recipes: Some of the recipes given to the constructor.
            batches: From the encoder's ``batches``.
            progress: Called with the index of each finished batch.

        Raises:
            ValueError: A merge changed nothing, or a vector holds NaN or infinity.
        """
        try:
            for step in self._steps(recipes):
                self._encoder.recipe = recipes[step.place]
                if self._encoder.merged() is not self._model:
                    raise RuntimeError("the merges of a walk are of different models, so a model was loaded again")
                self._kept.update({depth: {} for depth in step.kept if not self.reason})
                with self._patched():
                    found = []
                    for place, rows_and_vectors in enumerate(self._model.run(batches)):
                        found.append(rows_and_vectors)
                        progress(place)
                self._drop_above(step.shared)
                yield recipes[step.place], found
        finally:
            self._drop_above(0)

    def _steps(self, recipes: Sequence[MergeRecipe]) -> list[Step]:
        return plan_walk([self._levels[recipe] for recipe in recipes])

    def _drop_above(self, depth: int) -> None:
        for higher in [kept for kept in self._kept if kept > depth]:
            del self._kept[higher]

    def _try(self, depths: Sequence[int]) -> None:
        """Begin after each of these numbers of layers and compare; measure the bytes of a token's states."""
        if self._model.one_device is None:
            raise _UnfitError("several devices share the texts")
        batches = list(self._encoder.batches(TEXTS, kind="document"))
        plain = self._vectors(batches)
        try:
            self._kept = {depth: {} for depth in depths}
            found = [self._patched_vectors(batches)]
            for depth in reversed(depths):
                self._drop_above(depth)
                found += [self._patched_vectors(batches) for _ in range(2)]  # twice: use must not change states
                states = list(self._kept[depth].values())
                self._token_bytes = max(self._token_bytes, _bytes(states) // sum(batch.tokens for batch in batches))
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise _UnfitError(f"its layers cannot be run alone ({type(error).__name__}: {error})") from error
        finally:
            self._drop_above(0)
        if not all(np.array_equal(*pair) for vectors in found for pair in zip(plain, vectors, strict=True)):
            raise _UnfitError("its layers need more from those below them than the states of the tokens")

    def _vectors(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        return [vectors for _, vectors in self._model.run(batches)]

    def _patched_vectors(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        with self._patched():
            return self._vectors(batches)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Let batches begin with the kept states, and keep the requested ones."""
        if not self._kept:
            yield
            return
        for place, layer in enumerate(self._layers):
            layer.forward = partial(self._forward, place, layer.forward)
        try:
            with self._model.around_batches(self._within):
                yield
        finally:
            for layer in self._layers:
                del layer.forward  # restores the class's own

    @contextmanager
    def _within(self, ids: list[list[int]]) -> Iterator[None]:
        running = self._running
        running.key = tuple(map(tuple, ids))
        found = [(depth, states[running.key]) for depth, states in self._kept.items() if running.key in states]
        running.start, running.states = max(found, key=lambda begun: begun[0], default=(0, None))
        try:
            yield
        finally:
            running.key, running.start, running.states = (), 0, None

    def _forward(self, place: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The replacement for a layer's forward."""
        running = self._running
        if place < running.start:
            if place == running.start - 1:
                return running.states
            given = args[0] if args else kwargs["hidden_states"]
            return (given, *running.states[1:]) if isinstance(running.states, tuple) else given
        states = forward(*args, **kwargs)
        if (kept := self._kept.get(place + 1)) is not None:
            kept[running.key] = _states_alone(states)
        return states


class _Running(threading.local):
    """The batch that this thread runs: its ids, after how many layers it begins, and with which states."""

    key: Key = ()
    start: int = 0
    states: Any = None


def _layers_of(body: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """Return a transformer's layers, lowest first."""
    matches = filter(None, (LAYER.match(name) for name, _ in body.named_parameters()))
    stacks = {match["prefix"] + match["stack"] for match in matches}
    if len(stacks) != 1:
        raise _UnfitError(f"its layers are not one list, but {', '.join(sorted(stacks)) or 'none'}")
    layers: Any = body.get_submodule(stacks.pop())
    if any("forward" in vars(layer) for layer in layers):
        raise _UnfitError("another library has replaced what its layers compute")
    return list(layers)


def _states_alone(found: Any) -> Any:
    """The states that a layer returned, without extra output such as attention weights."""
    if not isinstance(found, tuple):
        return found
    first, *others = found
    return (first, *[None] * len(others))


def _bytes(states: Sequence[Any]) -> int:
    tensors = [state[0] if isinstance(state, tuple) else state for state in states]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
