"""The description of the user's own collection, for reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ir_measures.measures import Measure

DEFAULT_TASK = "Given a query, retrieve relevant documents that answer the query"


def described(
    *,
    language: str = "en",
    task: str = DEFAULT_TASK,
    measures: Sequence[Measure] | None = None,
    title: str = "a collection of the user's own",
    domain: str = "unknown",
    licence: str = "unknown",
    citation: str = "",
    default_domain_model: str | None = None,
    ignore_identical_ids: bool = False,
) -> dict[str, Any]:
    """Return a collection's description, as fields of ``TestCollection``.

    Args:
        language: ISO 639-1 code.
        task: The instruction for a retrieval model that follows one.
        measures: ``ir_measures`` measures, the official one first. nDCG@10, R@100 and AP by default.
        title: One line that says what it is.
        domain: The field, in one or two words.
        licence: Licence of the data.
        citation: The work to cite.
        default_domain_model: Hub name of a suitable domain language model.
        ignore_identical_ids: Leave a query's own document (docno equal to qid) out of its results, everywhere: for
            ArguAna and Quora. If False, topics that share id and text with documents are logged as a warning after
            the first whole pass over the documents.

    Raises:
        ValueError: The measures are not a list of ``ir_measures`` objects, but names or a single measure.
    """
    return {**locals(), "measures": _checked_measures(measures)}


def _checked_measures(measures: Sequence[Measure] | None) -> tuple[Measure, ...]:
    from ir_measures import AP, R, nDCG
    from ir_measures.measures import Measure

    if isinstance(measures, Measure) or not all(isinstance(measure, Measure) for measure in measures or ()):
        raise ValueError(f"measures are objects of ir_measures in a list, such as [nDCG @ 10]; found {measures!r}")
    return tuple(measures or (nDCG @ 10, R @ 100, AP))
