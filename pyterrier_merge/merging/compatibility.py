"""Can two checkpoints be merged? What agrees, what differs, and how far apart the weights are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.distances import Distance, measure_distances
from pyterrier_merge.merging.obstacles import find_problems
from pyterrier_merge.merging.places import is_embedding, is_final_norm, layer_of
from pyterrier_merge.merging.settings import Setting, compare_settings
from pyterrier_merge.merging.verdict import Verdict, judge
from pyterrier_merge.merging.vocabulary import VocabularyComparison, compare_vocabularies
from pyterrier_merge.models import locate_model
from pyterrier_merge.models.weights import stored_tensors

_WIDEST = 40  # characters of a setting in the table


@dataclass(frozen=True, eq=False, repr=False)
class Compatibility:
    """A source and a domain model side by side; ``print`` it.

    Tokenizers and weights are read on first use (``vocabulary``, ``distances`` and everything that shows them).

    Attributes:
        source: The retrieval model.
        domain: The domain model.
        settings: Both configurations, setting by setting.
        merged: Canonical names of the tensors that a merge blends: those of the layers and the final norm.
        kept: Names that stay the source's: embeddings, heads of the retriever, everything else outside the layers.
        dropped: Names of the domain model that are not used: its heads, and tensors that the source does not have.
        problems: Why the pair cannot be merged, by headers and configurations; empty if it can.
        notes: Descriptions of differences that do not prevent a merge.
        verbose: Show a progress bar while weights are read.
    """

    source: Checkpoint
    domain: Checkpoint
    settings: tuple[Setting, ...]
    merged: tuple[str, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    verbose: bool | None = None

    @cached_property
    def vocabulary(self) -> VocabularyComparison:
        """Both tokenizers, token by token."""
        return compare_vocabularies(self.source, self.domain)

    @property
    def distances(self) -> tuple[Distance, ...]:
        """How far the domain model is from the source, place by place; embeddings only if both have the same rows.

        Empty for a pair that cannot be merged.
        """
        return self._measured[0]

    def verdict(self, *, distances: bool = True) -> Verdict:
        """Return whether the pair can be merged, and why or why not.

        Args:
            distances: Compare the weights too. Only they show whether the models have a common origin.
        """
        measured, damage = self._measured if distances else ((), ())
        return judge((*self.problems, *damage), measured)

    def require(self) -> None:
        """Raise ``ValueError`` with every problem that headers and configurations show."""
        if self.problems:
            raise ValueError(f"these models cannot be merged:\n{_bullets(self.problems)}")

    def require_vocabulary(self) -> None:
        """Raise ``ValueError`` unless embeddings can be merged: the same ids for the same tokens, in one shape."""
        problems = list(self._unlike_embeddings)
        if not self.vocabulary.agree:
            problems.append(f"vocabulary: {self.vocabulary}")
        if problems:
            raise ValueError(
                f"the embeddings of {self.source.folder} and {self.domain.folder} cannot be merged:\n"
                f"{_bullets(problems)}\nleave `embeddings` at 1: the body is merged all the same"
            )

    def text(self, *, distances: bool = True) -> str:
        """Return the report as text.

        Args:
            distances: Read the weights and show how far apart they are.
        """
        verdict = self.verdict(distances=distances)
        special = [
            (role, *("-" if token is None else f"{token[0]} {token[1]}" for token in pair))
            for role, pair in (self.vocabulary.special or {}).items()
        ]
        shown = [(setting.name, *map(_short, (setting.source, setting.domain))) for setting in self.settings]
        places = [
            (d.place, f"{d.relative:.4f}", "-" if d.cosine is None else f"{d.cosine:.4f}")
            for d in (self.distances if distances else ())
        ]
        sections = [
            f"source: {_model(self.source)}\ndomain: {_model(self.domain)}",
            "\n".join([verdict.summary + ("" if distances else " (weights not looked at)"), _bullets(verdict.reasons)]),
            "\n".join(["notes", _bullets(self._all_notes)]),
            _table(
                ["tensors", "number", "parameters"],
                [(what, number, f"{size:,}") for what, number, size in self._counts()],
            ),
            _table(["setting", "source", "domain"], shown),
            f"vocabulary: {self.vocabulary}",
            _table(["special token", "source", "domain"], special),
            _table(["place", "|domain - source| / |source|", "cosine"], places),
        ]
        return "\n\n".join(section.strip() for section in sections if section.strip() not in ("", "notes")) + "\n"

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Compatibility({self.source!r}, {self.domain!r})"

    def to_dict(self, *, distances: bool = True) -> dict[str, Any]:
        """Return the report for JSON.

        Args:
            distances: Read the weights; if False, ``distances`` is None and the verdict does not use them.
        """
        verdict = self.verdict(distances=distances)
        return {
            "source": _description(self.source),
            "domain": _description(self.domain),
            "verdict": {"summary": verdict.summary, "reasons": list(verdict.reasons)},
            "notes": list(self._all_notes),
            "settings": [{**asdict(setting), "differs": setting.differs} for setting in self.settings],
            "tensors": {what: {"number": number, "parameters": size} for what, number, size in self._counts()},
            "vocabulary": self.vocabulary.to_dict(),
            "distances": [asdict(distance) for distance in self.distances] if distances else None,
        }

    @cached_property
    def _measured(self) -> tuple[tuple[Distance, ...], tuple[str, ...]]:
        """The distances, and the damage that prevented measuring them."""
        if self.problems:
            return (), ()
        comparable = not self._unlike_embeddings and self.vocabulary.agree is not False
        embeddings = [name for name in self.kept if is_embedding(name)] if comparable else []
        try:
            return measure_distances(self.source, self.domain, [*embeddings, *self.merged], verbose=self.verbose), ()
        except ValueError as error:
            return (), (str(error),)

    @cached_property
    def _unlike_embeddings(self) -> tuple[str, ...]:
        own, other = self.source.body, self.domain.body
        return tuple(
            f"{name!r} is {own[name].shape} in the source, {other[name].shape if name in other else 'absent'} in the "
            "domain model"
            for name in self.kept
            if is_embedding(name) and (name not in other or other[name].shape != own[name].shape)
        )

    @property
    def _all_notes(self) -> tuple[str, ...]:
        if self.vocabulary.agree:
            return self.notes
        known = "differ" if self.vocabulary.agree is False else "could not be compared"
        return (*self.notes, f"the vocabularies {known}: the body alone is merged; leave `embeddings` at 1")

    def _counts(self) -> list[tuple[str, int, int]]:
        """Number of tensors in each group, and of their parameters as far as headers state them."""
        return [
            ("merged", len(self.merged), _parameters(self.source, self.merged)),
            ("kept from the source", len(self.kept), _parameters(self.source, self.kept)),
            ("left out of the domain", len(self.dropped), _parameters(self.domain, self.dropped)),
        ]


def check_compatible(
    source: Checkpoint | str | Path, domain: Checkpoint | str | Path, *, verbose: bool | None = None
) -> Compatibility:
    """Compare two checkpoints. Headers and configurations are read now, tokenizers and weights on first use.

    The domain model must have every tensor of the source's layers and final norm, in the same shape and in floating
    point, and no other tensor in its layers. Vocabularies may differ: token embeddings are the source's unless a recipe
    says otherwise.

    Args:
        source: The retrieval model, by name or opened.
        domain: The model to merge into it.
        verbose: Show a progress bar while weights are read.

    Raises:
        FileNotFoundError: No such model.
        ValueError: A checkpoint is damaged, quantised, or of an architecture without one stack of layers.
    """
    source, domain = (
        model if isinstance(model, Checkpoint) else Checkpoint(locate_model(model)) for model in (source, domain)
    )
    merged = tuple(name for name in source.body if layer_of(name) is not None or is_final_norm(name))
    among = set(merged)
    settings = compare_settings(source.config, domain.config)
    notes = [setting.note for setting in settings if setting.note]
    if any(setting.name == "model_type" and setting.mend for setting in settings):
        notes = []  # other settings of another architecture are not comparable
    if domain.heads:
        notes.append(
            f"left out of the domain model: its head ({', '.join(domain.heads[:3])}{', ...' * (len(domain.heads) > 3)})"
        )
    return Compatibility(
        source=source,
        domain=domain,
        settings=settings,
        merged=merged,
        kept=tuple(name for name in source.body if name not in among),
        dropped=(*domain.heads, *(name for name in domain.body if name not in source.body)),
        problems=find_problems(source, domain, merged, settings),
        notes=tuple(notes),
        verbose=verbose,
    )


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "folder": str(checkpoint.folder),
        "architectures": list(checkpoint.config.get("architectures") or []),
        "layers": checkpoint.num_layers,
        "parameters": _parameters(checkpoint, checkpoint.body),
        "dtypes": dict(Counter(stored.dtype for stored in checkpoint.body.values())),
    }


def _model(checkpoint: Checkpoint) -> str:
    known = _description(checkpoint)
    types = [f"{dtype} {number / len(checkpoint.body):.0%}" for dtype, number in known["dtypes"].items()]
    parts = [*known["architectures"], f"{known['layers']} layers", f"{known['parameters']:,} parameters", *types]
    return f"{known['folder']}\n        {', '.join(parts)}"


def _parameters(checkpoint: Checkpoint, names: Iterable[str]) -> int:
    wanted = set(names)
    found = {name: stored for name, stored in checkpoint.body.items() if name in wanted}
    if found.keys() != wanted:  # heads, under their names in the file
        found |= {name: stored for name, stored in stored_tensors(checkpoint.folder).items() if name in wanted}
    return sum(math.prod(stored.shape) for stored in found.values())


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    table: str = pd.DataFrame(list(rows), columns=list(columns)).to_markdown(
        index=False, disable_numparse=True, tablefmt="simple"
    )
    return table
