"""The training loop of all trainings: transformers' Trainer with exact resuming, stopped if the training diverges."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from pyterrier_merge.progress import progress
from pyterrier_merge.training.checkpoints import WEIGHTS, Checkpoints, DivergedError, best_of, step_of
from pyterrier_merge.training.kept import kept_generators, kept_memory
from pyterrier_merge.training.processes import agreed, count_processes, is_main, meet

if TYPE_CHECKING:
    from pyterrier_merge.training.settings import TrainingSettings

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """The batches of a training, by number. Each is a pure function of its number, so that it can be recomputed."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Settings of a training loop.

    Attributes:
        steps: Optimizer steps that the learning-rate schedule is planned for.
        stop_at: Steps to take, if fewer.
        learning_rate: Peak learning rate.
        warmup: Steps of the linear warm-up, or their share if below 1; then the rate decays linearly to 0.
        weight_decay: AdamW's weight decay of matrices.
        accumulation: Batches per step; several processes share them.
        seed: Random seed of dropout.
        dtype: Type to compute in; the model's weights keep their type.
        device: ``cpu`` or ``cuda``.
    """

    steps: int
    stop_at: int | None = None
    learning_rate: float
    warmup: float
    weight_decay: float
    accumulation: int = 1
    seed: int = 0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @classmethod
    def of(cls, settings: TrainingSettings, *, steps: int, dtype: torch.dtype, device: str, **further: Any) -> Loop:
        """Return the loop with the given settings.

        Args:
            settings: Learning rate, warm-up, decay and seed.
            steps: See :class:`Loop`, also for the other arguments.
            dtype: Type to compute in.
            device: ``cpu`` or ``cuda``.
            **further: ``stop_at`` and ``accumulation``.
        """
        told = {name: getattr(settings, name) for name in ("learning_rate", "warmup", "weight_decay", "seed")}
        return cls(steps=steps, dtype=dtype, device=device, **told, **further)


@dataclass(frozen=True)
class Dev:
    """A measure of the model under training, to keep its best state and to stop early.

    Attributes:
        measure: Returns the value of the model with its current weights; higher is better.
        every: Steps between measurements; the model is also measured before its first step.
        patience: Measurements without improvement after which the training stops; None for no limit.
    """

    measure: Callable[[], float]
    every: int
    patience: int | None = None


@dataclass(frozen=True)
class Course:
    """The result of a training loop.

    Attributes:
        curve: One row per step: ``step``, ``loss``, ``tokens`` and ``seconds`` (both of this step), and ``dev`` if it
            was measured. Step 0 is the model before training.
        best_step: The step of the model's final state; None if nothing was measured: then the last step.
        diverged_at: The step at which the training diverged, if the best state before it was kept.
    """

    curve: pd.DataFrame
    best_step: int | None = None
    diverged_at: int | None = None


def fit(
    model: Any,
    loss: Callable[[Any, dict[str, Any]], torch.Tensor],
    batches: Batches,
    loop: Loop,
    checkpoints: Checkpoints,
    *,
    dev: Dev | None = None,
    description: str = "training",
    verbose: bool | None = None,
) -> Course:
    """Train all weights that require gradients; resume from the last checkpoint if there is one.

    The random generators of Python, NumPy and torch are restored at the end.

    Args:
        model: Live model, on the device.
        loss: Returns the loss of the model and a batch, as a scalar.
        batches: ``loop.accumulation`` batches for each step to take.
        loop: Settings of the loop.
        checkpoints: The checkpoints; the caller must be inside :meth:`Checkpoints.alone`.
        dev: Measures the model, to keep its best state.
        description: Label of the progress bar.
        verbose: Show a progress bar; in terminals and notebooks when None.

    Raises:
        DivergedError: The loss or a weight is not finite, and there is no measured state to return to.
        OSError: A checkpoint could not be written.
        ValueError: The processes cannot share the batches of a step equally.
    """
    _require_shares(loop)
    resumed = checkpoints.last()
    with kept_generators(), kept_memory(loop.device):
        done = 0 if resumed is None else step_of(resumed)
        last = loop.stop_at or loop.steps
        watched = verbose if is_main() else False
        with progress(total=last, initial=done, desc=description, unit="step", verbose=watched) as bar:
            trainer = _Trainer(model, loss, batches, loop, checkpoints, dev, bar)
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    return trainer.course()


def recompute_activations(model: Any) -> None:
    """Let a transformer recompute its activations in the backward pass instead of storing them."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # newer name of the method
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


class _Trainer(Trainer):
    """transformers' Trainer over numbered batches. Its checkpoints have only those weights that are trained."""

    model: Any

    def __init__(
        self, model: Any, loss: Any, batches: Batches, loop: Loop, checkpoints: Checkpoints, dev: Dev | None, bar: Any
    ) -> None:
        self._loss, self._batches, self._dev, self._kept, self._bar = loss, batches, dev, checkpoints, bar
        self._tokens = 0
        self._diverged_at: int | None = None
        super().__init__(
            model=model,
            args=_arguments(loop, checkpoints, dev),
            train_dataset=batches,
            eval_dataset=[] if dev else None,  # see evaluate()
        )
        self.model_accepts_loss_kwargs = False  # the loss is a mean, so accumulated batches must be averaged
        self._stop_at = loop.stop_at
        self._since = time.perf_counter()

    def get_train_dataloader(self) -> DataLoader[Any]:
        numbered: Any = self._batches
        return self.accelerator.prepare(DataLoader(numbered, batch_size=1, shuffle=False, collate_fn=_first))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        self._tokens += sum(int(mask.sum()) for mask in _masks(inputs))
        return self._loss(model, inputs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record a step; stop if its loss or gradient is not finite."""
        if "loss" not in logs:
            return  # transformers' summary at the end
        now = time.perf_counter()
        tokens = torch.tensor([self._tokens], device=self.args.device)
        logs |= {"tokens": int(self.accelerator.gather(tokens).sum()), "seconds": now - self._since}
        self._since, self._tokens = now, 0
        super().log(logs, start_time)
        self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self._bar.update()
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm")):
            self._diverged()
        elif self.state.global_step >= (self._stop_at or self.state.max_steps):
            self.control.should_training_stop, self.control.should_save = True, False
            self.control.should_evaluate = self._dev is not None

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the model; save its state if it is the best so far."""
        step, history = self.state.global_step, self.state.log_history
        if self._dev is None or any(entry["step"] == step and "dev" in entry for entry in history):
            return {}  # measured before an interruption
        with kept_generators():
            self.model.eval()
            value = agreed(self._dev.measure())
            self.model.train()
        if not math.isfinite(value):
            self._diverged()
            return {}
        best_step, best = best_of(history)
        history.append({"step": step, "dev": value})
        if value > best:
            with self._kept.writing(step):
                self._save_weights(self._kept.best(step))
        elif self._dev.patience:
            measured = [entry for entry in history if "dev" in entry and entry["step"] > best_step]
            if len(measured) >= self._dev.patience:
                # no checkpoint here: a resumed training would take another step before it checks whether to stop
                self.control.should_training_stop, self.control.should_save = True, False
        self._since = time.perf_counter()
        return {}

    def course(self) -> Course:
        """Load the best measured state into the model, if any, and return the result."""
        if self._dev is None:
            self._require_finite()
            return Course(_curve(self.state.log_history))
        meet()  # until the main process has written the file
        step, _ = best_of(self.state.log_history)
        self._place(load_file(self._kept.best(step)))
        return Course(_curve(self.state.log_history), step, self._diverged_at)

    def _diverged(self) -> None:
        step, (best_step, _) = self.state.global_step, best_of(self.state.log_history)
        if best_step < 0:
            raise DivergedError(
                f"the training diverged at step {step}: its loss or gradient is not finite; lower learning_rate"
            )
        logger.warning("the training diverged at step %d: it stops there, and step %d is kept", step, best_step)
        self._diverged_at = step
        self.control.should_training_stop = True
        self.control.should_evaluate = self.control.should_save = False

    def _require_finite(self) -> None:
        for name, weight in self._trained().items():
            if not weight.isfinite().all():
                raise DivergedError(f"the training diverged: {name} holds NaN or infinity; lower learning_rate")

    def _trained(self) -> dict[str, torch.Tensor]:
        weights = self.model.named_parameters()
        return {name: weight.detach().cpu().contiguous() for name, weight in weights if weight.requires_grad}

    @torch.no_grad()
    def _place(self, trained: dict[str, torch.Tensor]) -> None:
        weights = dict(self.model.named_parameters())
        for name, tensor in trained.items():
            weights[name].copy_(tensor)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self._kept.writing(self.state.global_step):
            super()._save_checkpoint(model, trial)
        if is_main():  # the previous best state was needed until this checkpoint was complete
            self._kept.keep_best(best_of(self.state.log_history)[0])

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self._kept.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_weights(folder / WEIGHTS)

    def _save_weights(self, file: Path) -> None:
        if is_main():
            save_file(self._trained(), file)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        self._place(load_file(Path(resume_from_checkpoint, WEIGHTS)))


def _arguments(loop: Loop, checkpoints: Checkpoints, dev: Dev | None) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(checkpoints.folder),
        max_steps=loop.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=loop.accumulation // count_processes(),
        learning_rate=loop.learning_rate,
        warmup_steps=loop.warmup,
        lr_scheduler_type="linear",
        weight_decay=loop.weight_decay,
        max_grad_norm=1.0,
        bf16=loop.dtype == torch.bfloat16,
        use_cpu=loop.device == "cpu",
        seed=loop.seed,
        eval_strategy="steps" if dev else "no",
        eval_steps=dev.every if dev else None,
        eval_on_start=dev is not None,
        save_steps=dev.every if dev else checkpoints.every or min(200, math.ceil(loop.steps / 10)),
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # a loss may run the model several times
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # use several GPUs with accelerate, not with torch's DataParallel
    return arguments


def _require_shares(loop: Loop) -> None:
    processes = count_processes()
    if loop.accumulation % processes:
        raise ValueError(
            f"{processes} processes share the batches of a step, which has accumulation={loop.accumulation}: set it to "
            f"a multiple of {processes}, or start fewer processes"
        )


def _first(items: list[dict[str, Any]]) -> dict[str, Any]:
    return items[0]


def _masks(inputs: dict[str, Any]) -> Iterator[torch.Tensor]:
    for name, value in inputs.items():
        if isinstance(value, dict):
            yield from _masks(value)
        elif name == "attention_mask":
            yield value


def _curve(history: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(history).reindex(columns=["step", "loss", "tokens", "seconds", "dev"])
    return frame.groupby("step", as_index=False).first()
