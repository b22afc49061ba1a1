"""Inspecting live transformers models, and loading them without their log output."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def count_positions(body: Any) -> int | None:
    """Return how many tokens a live transformer has positions for; None if the number is not limited (XLNet's -1).

    RoBERTa's family counts from the padding token's position, so that some rows of its table are unused.
    """
    table = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    reserved = getattr(table, "padding_idx", None)
    positions: int | None = getattr(body.config, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    return positions if reserved is None else positions - reserved - 1


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the loading reports of transformers and sentence-transformers; callers do their own checks."""
    log: Any = importlib.import_module("transformers.utils.logging")
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    others = logging.getLogger("sentence_transformers")
    level = others.level
    log.set_verbosity_error()
    others.setLevel(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        others.setLevel(level)
        if bars:
            log.enable_progress_bar()
