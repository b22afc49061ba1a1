"""A search of a space by Optuna's TPE (Bergstra et al., 2011): seeded, resumable. Only this module imports optuna."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pyterrier_merge.extras import import_extra
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.progress import progress
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.tuning.points import Value
from pyterrier_merge.tuning.space import Space

if TYPE_CHECKING:
    import optuna

    from pyterrier_merge.tuning.measured import Measured, Measuring

logger = logging.getLogger(__name__)


class Search(BaseModel):
    """The settings of a search: a budget of merges, of time, or of both, whichever ends first.

    The search covers the range between the lowest and the highest value of each parameter; text and booleans are chosen
    among the values. The source and the domain model are also measured.

    Attributes:
        trials: Merges to measure.
        seconds: Time for measuring, in all runs of the same search together; a merge that was begun is finished. How
            many merges this allows depends on the machine, and on interruptions.
        seed: Random seed of the search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _has_a_budget(self) -> Search:
        if self.trials is None and self.seconds is None:
            raise ValueError("a search needs a budget: give 'trials' or 'seconds'")
        return self


def searched(measuring: Measuring, search: Search) -> Measured:
    """Search a space for the highest mean and return all points that were measured, in order.

    The study is stored in a file under the task's root, named after models, space, task and seed. A killed search
    resumes from it and finds the same points as an uninterrupted one. A smaller budget returns its first points.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
        ValueError: The space has nothing to search, or the file holds the study of another space.
    """
    require_searchable(measuring.space)
    require_optuna()
    study = _study(measuring, search)
    with progress(total=search.trials, desc="search", unit="merge", verbose=measuring.verbose) as bar:
        bar.update(len(_covered(study, search)[0]))
        while _covered(study, search)[1]:
            _try_one(study, measuring, search)
            bar.set_postfix_str(f"best {study.best_value:.4f}", refresh=False)
            bar.update()
    return measuring.of([trial.user_attrs["point"] for trial in _covered(study, search)[0]], ends=True)


def require_searchable(space: Space) -> None:
    """Raise ``ValueError`` if a space leaves nothing to search."""
    if space.given is not None:
        raise ValueError("the space has fixed points, which a search cannot use: give values for each alpha")
    if all(len(values) == 1 for values in space.values.values()):
        raise ValueError("every parameter of the space has a single value: there is nothing to search")


def require_optuna() -> None:
    """Raise ``ModuleNotFoundError`` if Optuna is not installed; its message names the extra."""
    import_extra("optuna", "search", "a search needs Optuna")


def _try_one(study: optuna.Study, measuring: Measuring, search: Search) -> None:
    import optuna

    done, started = len(_finished(study)), time.monotonic()
    # Each trial has its own sampler, so that a resumed search draws the same points as an uninterrupted one.
    seed = int(fingerprint([search.seed, done])[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=False)
    trial = study.ask()
    try:
        point = _suggest(measuring.space, trial)
        value = float(replace(measuring, verbose=False).of([point], ends=False).values[0].mean())
    except BaseException:  # also Ctrl-C: the next run draws this trial again
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    trial.set_user_attr("point", point)
    trial.set_user_attr("seconds", time.monotonic() - started)
    study.tell(trial, value)
    logger.info("trial %d: %s %s %.4f", done + 1, point, measuring.task.metric, value)


def _suggest(space: Space, trial: optuna.Trial) -> dict[str, Value]:
    """A point of the space, without parameters that its method does not have."""
    values, chosen = space.values, dict[str, Value]()
    if space.methods:
        chosen["method"] = trial.suggest_categorical("method", space.methods)
    left, shares = 1.0, {name for name, _ in space.shares}
    for name in space.active(chosen.get("method")):
        if name in chosen:
            continue
        if name in shares:
            high = min(float(max(values[name])), left)
            chosen[name] = _between(trial, name, (min(float(min(values[name])), high), high))
            left -= float(chosen[name])
        else:
            chosen[name] = _between(trial, name, values[name])
    return space.point(chosen)


def _between(trial: optuna.Trial, name: str, values: Sequence[Value]) -> Value:
    """A number between the lowest and the highest value, with two digits of that range; else one of the values."""
    if any(isinstance(value, (str, bool)) for value in values):
        return cast("Value", trial.suggest_categorical(name, values))
    low, high = min(map(float, values)), max(map(float, values))
    if all(isinstance(value, int) for value in values):
        return trial.suggest_int(name, int(low), int(high))
    drawn = trial.suggest_float(name, low, high)
    digits = 2 - math.floor(math.log10(high - low)) if high > low else 12
    return min(max(round(drawn, digits), low), high)


def _study(measuring: Measuring, search: Search) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    task, space, given = measuring.task, measuring.space, measuring.models
    domain = task.encoder(space.recipe(given, space.ends[1]))
    fixed: list[Any] = [[segment.size, str(segment.parts)] for segment in given.segments]
    fixed += [given.method, str(given.parameters), str(given.base), given.seed]
    fixed += [str(place) for place in (given.embeddings, given.final_norm, given.head)]
    key = fingerprint([repr(space), domain.fingerprint, fixed, task.conditions(domain), search.seed])
    file = Path(task.root or cache_folder("indexes")) / "studies" / f"{key}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # progress is shown here
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    study = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
    if study.user_attrs.setdefault("space", repr(space)) != repr(space):
        raise ValueError(f"{file} is the study of another space ({study.user_attrs['space']}): delete it")
    study.set_user_attr("space", repr(space))
    return study


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def _covered(study: optuna.Study, search: Search) -> tuple[list[optuna.trial.FrozenTrial], bool]:
    """Return the finished trials that the budget covers, and whether some of the budget is left."""
    covered: list[optuna.trial.FrozenTrial] = []
    spent = 0.0
    for trial in [*_finished(study), None]:
        left = len(covered) < (search.trials or math.inf) and spent < (search.seconds or math.inf)
        if trial is None or not left:
            return covered, left
        covered.append(trial)
        spent += trial.user_attrs["seconds"]
    raise AssertionError("the list ends with None")
