"""The training loop, and the snapshots that let a killed run go on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyterrier as pt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pyterrier_merge.training.masked_lm import MaskedLM
from pyterrier_merge.training.masking import MaskedCorpus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """Steps with one rise and fall of the learning rate.

    Attributes:
        steps: How many.
        peak: Highest learning rate.
        warmup: Steps to reach it; then it falls linearly to 0.
        head_only: Whether the body stands still.
    """

    steps: int
    peak: float
    warmup: int
    head_only: bool

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the stage's step, counted from 0."""
        return self.peak * min(1.0, (step + 1) / max(1, self.warmup)) * (1 - step / self.steps)


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        losses: Mean loss of each step taken (nats a predicted token).
        tokens: Tokens read, padding not counted.
        seconds: Time spent in steps, over all the runs that it took.
    """

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """A file from which a killed run goes on.

    Attributes:
        path: Where it is.
        identity: Fingerprint of the training; a snapshot of another one is passed over.
        every: Steps from one snapshot to the next.
    """

    path: Path
    identity: str
    every: int

    def save(self, progress: Progress, model: MaskedLM) -> None:
        """Write weights, optimizer and progress; the file holds either all of it or the snapshot before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        metadata = {"identity": self.identity, "progress": json.dumps(asdict(progress))}
        try:
            save_file(model.state(), beside, metadata=metadata)
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)

    def restore(self, model: MaskedLM) -> Progress:
        """Bring the model to where this very training had come, and return how far that was."""
        if not self.path.is_file():
            return Progress()
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                if metadata["identity"] != self.identity:
                    return Progress()
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            logger.warning("%s is damaged (%s): the training starts anew", self.path, error)
            return Progress()
        model.restore(state)
        progress = Progress(**json.loads(metadata["progress"]))
        logger.info("resuming at step %d from %s", len(progress.losses), self.path)
        return progress


def fit(model: MaskedLM, corpus: MaskedCorpus, stages: list[Stage], snapshot: Snapshot, *, verbose: bool) -> Progress:
    """Train through all stages, from the snapshot where there is one.

    All randomness of a step comes from the seed and the step's number, so a snapshot holds no state of generators.

    Raises:
        RuntimeError: The loss or a weight is no longer finite.
    """
    progress = snapshot.restore(model)
    plan = [(stage, step) for stage in stages for step in range(stage.steps)]
    first = len(progress.losses)
    batches = _batches(corpus, first)
    with pt.tqdm(total=len(plan), initial=first, desc="domain training", unit="step", disable=not verbose) as bar:
        for number, (stage, step) in enumerate(plan[first:], start=first):
            start = time.perf_counter()
            batch = corpus.mask(next(batches), number)
            torch.manual_seed(corpus.dropout_seed(number))
            loss = model.step(batch, learning_rate=stage.learning_rate(step), head_only=stage.head_only)
            if not math.isfinite(loss):
                raise RuntimeError(f"the training diverged: the loss is {loss} at step {number}; lower learning_rate")
            progress.losses.append(loss)
            progress.tokens += int(batch.attention_mask.sum())
            progress.seconds += time.perf_counter() - start
            if (number + 1) % snapshot.every == 0:
                snapshot.save(progress, model)
            bar.set_postfix(loss=f"{np.mean(progress.losses[-50:]):.3f}", refresh=False)
            bar.update()
    model.require_finite()
    return progress


def _batches(corpus: MaskedCorpus, first: int) -> Iterator[np.ndarray]:
    """Yield the batches of one epoch after another, beginning with the ``first``-th of them all."""
    number, skipped = divmod(first, corpus.epoch_steps)
    while True:
        yield from corpus.epoch(number)[skipped:]
        number, skipped = number + 1, 0
