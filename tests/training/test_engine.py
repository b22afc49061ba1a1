"""The engine with a model of six weights, whose training can be done by hand."""

import errno
import json
import logging
import math
import random
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

from pyterrier_merge.training.checkpoints import Checkpoints, DivergedError
from pyterrier_merge.training.engine import Dev, Loop, fit

LOOP = Loop(steps=10, learning_rate=0.05, warmup=0.2, weight_decay=0.1, seed=3)


class Model(nn.Module):
    def __init__(self, dropout=0.3):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(5, 1)
        self.frozen = nn.Linear(5, 1).requires_grad_(False)

    def forward(self, x):
        return self.linear(self.dropout(x)) + self.frozen(x)


@dataclass(frozen=True)
class Numbers:
    """Batches of four points of a line in five dimensions."""

    count: int

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        draw = torch.Generator().manual_seed(number)
        x = torch.randn(4, 5, generator=draw)
        return {"x": x, "y": x.sum(dim=1), "texts": {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}}


def squares(model, batch):
    return ((model(batch["x"])[:, 0] - batch["y"]) ** 2).mean()


def made(**options):
    torch.manual_seed(0)
    return Model(**options)


def distance(model):
    """A measure that rises while the model learns."""
    return lambda: -(model.linear.weight - 1).norm().item()


class Training:
    """One training, which may be begun again."""

    def __init__(self, folder, *, loop=LOOP, measure=None, every=3, patience=None, dropout=0.3, save_every=2):
        self.folder = folder / "progress"
        self.loop, self.measure, self.every, self.patience, self.dropout = loop, measure, every, patience, dropout
        self.save_every, self.made = save_every, None

    def __call__(self, loss=squares):
        self.model = self.made or made(dropout=self.dropout)
        checkpoints = Checkpoints(folder=self.folder, identity="one", every=self.save_every)
        dev = None if self.measure is None else Dev(self.measure(self.model), self.every, self.patience)
        batches = Numbers((self.loop.stop_at or self.loop.steps) * self.loop.accumulation)
        with checkpoints.alone():
            return fit(self.model, loss, batches, self.loop, checkpoints, dev=dev)

    @property
    def weights(self):
        return torch.cat([self.model.linear.weight[0], self.model.linear.bias]).detach().clone()


def by_hand(loop, *, stop_at=None):
    """AdamW with a linear warm-up and decay, gradients clipped to norm 1, without dropout."""
    model = made(dropout=0.0)
    groups = [
        {"params": [model.linear.weight], "weight_decay": loop.weight_decay},
        {"params": [model.linear.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=loop.learning_rate)
    warmup = loop.warmup if loop.warmup >= 1 else math.ceil(loop.warmup * loop.steps)
    batches, losses = Numbers(1000), []
    for step in range(stop_at or loop.steps):
        rate = step / warmup if step < warmup else (loop.steps - step) / (loop.steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate * rate
        parts = range(step * loop.accumulation, (step + 1) * loop.accumulation)
        loss = torch.stack([squares(model, batches[part]) for part in parts]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.linear.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return torch.cat([model.linear.weight[0], model.linear.bias]).detach(), losses


@pytest.mark.parametrize("changes", [{}, {"accumulation": 3}, {"warmup": 4}, {"stop_at": 6}])
def test_a_training_is_the_one_by_hand(changes, tmp_path):
    loop = replace(LOOP, **changes)
    training = Training(tmp_path, loop=loop, dropout=0.0)
    course = training()
    weights, losses = by_hand(loop, stop_at=changes.get("stop_at"))
    torch.testing.assert_close(training.weights, weights)
    assert course.curve["loss"].tolist() == pytest.approx(losses)
    assert course.curve["step"].tolist() == list(range(1, len(losses) + 1))
    assert course.curve["tokens"].tolist() == [3 * loop.accumulation] * len(losses)
    assert (course.curve["seconds"] > 0).all()
    assert (course.best_step, course.diverged_at) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_frozen_weights_stay_and_so_do_the_callers_generators(tmp_path):
    training, frozen = Training(tmp_path), made().frozen.weight

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()

    training.made = made()  # which draws
    before = states()
    training()
    assert states() == before
    assert torch.equal(training.model.frozen.weight, frozen)


@pytest.mark.parametrize("measure", [None, distance])
@pytest.mark.parametrize("killed_at", [1, 4, 8])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, measure, killed_at):
    whole = Training(tmp_path / "whole", measure=measure)
    course = whole()
    again = Training(tmp_path / "killed", measure=measure)
    taken = []

    def counting(model, batch):
        taken.append(1)
        if len(taken) == killed_at + 1:
            raise KeyboardInterrupt
        return squares(model, batch)

    with pytest.raises(KeyboardInterrupt):
        again(counting)
    every = 3 if measure else 2
    kept = killed_at // every * every
    assert again.folder.exists() == (kept > 0)  # nothing stays that nothing can go on from
    resumed = again(counting)
    assert len(taken) == killed_at + 1 + 10 - kept
    assert torch.equal(again.weights, whole.weights)
    columns = ["step", "loss", "tokens", *(["dev"] if measure else [])]
    assert resumed.curve[columns].equals(course.curve[columns])
    assert resumed.best_step == course.best_step
    assert not again.folder.exists()


def kill_when(monkeypatch, method, step):
    """End the process at a call of a method of the trainer at a step."""
    from pyterrier_merge.training.engine import _Trainer

    real = getattr(_Trainer, method)

    def dying(self, *arguments, **options):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(_Trainer, method, dying)


@pytest.mark.parametrize(
    ("method", "step"),
    [("_save_checkpoint", 3), ("_save_checkpoint", 6), ("_save_rng_state", 6), ("evaluate", 6), ("course", 10)],
)
def test_a_kill_between_measurement_and_checkpoint(tmp_path, monkeypatch, method, step):
    whole = Training(tmp_path / "whole", measure=distance)
    course = whole()
    again = Training(tmp_path / "killed", measure=distance)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_when(patch, method, step)
        again()
    resumed = again()
    assert torch.equal(again.weights, whole.weights)
    assert resumed.curve[["step", "loss", "dev"]].equals(course.curve[["step", "loss", "dev"]])


def scripted(*values):
    """A measure that gives these values one after the other."""
    return lambda _model: iter(values).__next__


def test_the_best_step_is_kept_the_first_of_equal_ones(tmp_path):
    training = Training(tmp_path, measure=scripted(0.1, 0.5, 0.5, 0.2, 0.3), dropout=0.0)
    course = training()
    assert course.best_step == 3
    assert course.curve.set_index("step")["dev"].dropna().to_dict() == {0: 0.1, 3: 0.5, 6: 0.5, 9: 0.2, 10: 0.3}
    torch.testing.assert_close(training.weights, by_hand(LOOP, stop_at=3)[0])


def test_no_step_may_be_better_than_none(tmp_path):
    training = Training(tmp_path, measure=scripted(0.5, 0.5, 0.4, 0.3, 0.2))
    assert training().best_step == 0
    model = made()
    assert torch.equal(training.weights, torch.cat([model.linear.weight[0], model.linear.bias]))


def test_patience_stops(tmp_path):
    training = Training(tmp_path, measure=scripted(0.1, 0.5, 0.4, 0.45, 0.9), patience=2)
    course = training()
    assert (course.best_step, course.curve["step"].max()) == (3, 9)


def test_patience_that_is_over_is_over_after_a_kill_too(tmp_path, monkeypatch):
    """The measure is of the weights: what is measured again has the same value."""

    def falling(model):
        start = made().linear.weight.clone()
        return lambda: -(model.linear.weight - start).norm().item()

    whole = Training(tmp_path / "whole", measure=falling, patience=2)
    course = whole()
    assert (course.best_step, course.curve["step"].max()) == (0, 6)
    again = Training(tmp_path / "killed", measure=falling, patience=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_when(patch, "course", 6)
        again()
    resumed = again()
    assert resumed.best_step == 0
    assert resumed.curve[["step", "loss", "dev"]].equals(course.curve[["step", "loss", "dev"]])


def test_measuring_does_not_change_the_weights(tmp_path):
    def drawing(_model):
        values = iter(range(100))

        def measure():
            torch.rand(5), np.random.rand(), random.random()
            return float(next(values))  # the last one is the best

        return measure

    often, seldom = (Training(tmp_path, measure=drawing, every=every) for every in (2, 5))
    plain = Training(tmp_path)
    assert (often().best_step, seldom().best_step, plain().best_step) == (10, 10, None)
    assert torch.equal(often.weights, seldom.weights)
    assert torch.equal(often.weights, plain.weights)


def breaking(at, number=math.nan):
    taken = []

    def loss(model, batch):
        taken.append(1)
        return squares(model, batch) * (number if len(taken) == at else 1)

    return loss


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_training_that_diverges_keeps_its_best_state(tmp_path, caplog, number):
    training = Training(tmp_path, measure=distance, dropout=0.0)
    course = training(breaking(8, number))
    assert (course.best_step, course.diverged_at, course.curve["step"].max()) == (6, 8, 8)
    torch.testing.assert_close(training.weights, by_hand(LOOP, stop_at=6)[0])
    assert "the training diverged at step 8: it stops there, and step 6 is kept" in caplog.text


def test_a_measure_that_is_no_number_counts_as_diverged(tmp_path):
    training = Training(tmp_path, measure=scripted(0.1, 0.5, math.nan))
    course = training()
    assert (course.best_step, course.diverged_at, course.curve["step"].max()) == (3, 6, 6)
    with pytest.raises(DivergedError, match="diverged at step 0"):
        Training(tmp_path, measure=scripted(math.nan))()


def test_without_a_measure_a_training_that_diverges_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"diverged at step 8.*lower learning_rate"):
        Training(tmp_path)(breaking(8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "said"),
    [("optimizer.pt", "optimizer.pt"), ("scheduler.pt", "scheduler.pt"), ("rng_state.pth", "rng_state*.pth")],
)
def test_a_checkpoint_without_its_state_is_not_resumed_silently(tmp_path, monkeypatch, caplog, file, said):
    whole = Training(tmp_path / "whole", measure=distance)
    whole()
    again = Training(tmp_path / "killed", measure=distance)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_when(patch, "evaluate", 9)
        again()
    assert sorted(path.name for path in again.folder.iterdir()) == [
        "best-6.safetensors", "checkpoint-3", "checkpoint-6", "identity"
    ]  # fmt: skip
    (again.folder / "checkpoint-6" / file).unlink()
    again()
    assert f"checkpoint-6 lacks a complete {said}: it is skipped" in caplog.text
    assert "checkpoint-3 lacks a complete best-3.safetensors" in caplog.text  # step 6 was better, so it is gone
    assert torch.equal(again.weights, whole.weights)


def test_the_best_state_is_needed_too(tmp_path, monkeypatch, caplog):
    again = Training(tmp_path, measure=distance)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_when(patch, "evaluate", 9)
        again()
    (again.folder / "best-6.safetensors").write_bytes(b"")
    course = again()
    assert "checkpoint-6 lacks a complete best-6.safetensors" in caplog.text
    assert course.best_step == 10


@pytest.mark.parametrize("broken", ["torch.save", "pyterrier_merge.training.engine.save_file"])
def test_a_full_disk_says_so_and_the_training_goes_on_later(tmp_path, monkeypatch, caplog, broken):
    whole = Training(tmp_path / "whole")
    whole()
    again = Training(tmp_path / "full")
    module, _, name = broken.rpartition(".")
    real, calls = getattr(import_module(module), name), []
    before = 2 * (3 if name == "save" else 1)  # files of two checkpoints: state of optimizer, rate and generators

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) > before:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(broken, full)
        with pytest.raises(OSError, match=r"checkpoint of step 6 could not be written.*is the disk full.*make room"):
            again()
    assert sorted(path.name for path in again.folder.iterdir()) == ["checkpoint-2", "checkpoint-4", "identity"]
    caplog.set_level(logging.INFO)
    again()
    assert "checkpoint-4" in caplog.text
    assert torch.equal(again.weights, whole.weights)


def test_a_disk_that_is_really_full(disk, tmp_path):
    whole = Training(tmp_path)
    whole()
    again = Training(disk.folder)
    disk.resize(96 * 1024)
    with pytest.raises(OSError, match="is the disk full"):
        again()
    disk.resize(4 * 2**20)
    again()
    assert torch.equal(again.weights, whole.weights)


def test_checkpoints_hold_what_is_trained_and_no_more(tmp_path, monkeypatch):
    training = Training(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_when(patch, "log", 9)
        training()
    from safetensors.torch import load_file

    checkpoint = training.folder / "checkpoint-8"
    assert set(load_file(checkpoint / "trained.safetensors")) == {"linear.weight", "linear.bias"}
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 8
    assert [path.name for path in sorted(training.folder.glob("checkpoint-*"))] == ["checkpoint-6", "checkpoint-8"]
