"""The value of a setting in mergekit's YAML for a part of a model: a number, a gradient over layers, or filters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from pyterrier_merge.mergekit_yaml.filters import lets_through
from pyterrier_merge.spelling import did_you_mean


def evaluate(setting: Any, where: str, place: str, t: float, *, number: bool) -> Any:
    """Return the value of a setting for a part of the model; None if no filter matches the part.

    Args:
        setting: A number or boolean, a list of numbers, or one or more conditions (``filter`` and ``value``); the
            first one that matches the part counts.
        where: Its place in the file, for messages.
        place: The part of the model: ``LAYERS``, ``EMBEDDINGS``, ``FINAL_NORM``, or a part of layers.
        t: Position from 0 for a slice's first layer to 1 for its last. A list of numbers is interpolated linearly
            between equally spaced points.
        number: Whether the value must be a number.

    Raises:
        ValueError: The setting is none of these.
    """
    from mergekit.config import evaluate_setting

    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return _scalar(setting, where, number=number)
    if any(isinstance(item, Mapping) for item in setting):
        for index, condition in enumerate(setting):
            inner = f"{where}[{index}]"
            check_keys(condition, ("filter", "value"), inner)
            value = condition.get("value")
            nested = any(isinstance(item, Mapping) for item in (value if isinstance(value, list) else [value]))
            if nested or value is None:
                raise ValueError(f"{inner}.value: expected a number or a list of numbers")
            if lets_through(condition.get("filter"), f"{inner}.filter", place):
                return evaluate(value, f"{inner}.value", place, t, number=number)
        return None
    values = [_scalar(item, f"{where}[{index}]", number=True) for index, item in enumerate(setting)]
    return evaluate_setting("", values, t, validate=float)


def is_gradient(setting: Any) -> bool:
    """Whether a setting, or the value of one of its filters, is a list of numbers."""
    if isinstance(setting, Mapping):
        return is_gradient(setting.get("value"))
    return isinstance(setting, list) and any(not isinstance(item, Mapping) or is_gradient(item) for item in setting)


def check_keys(item: Any, known: Collection[str], where: str, what: str = "fields") -> None:
    """Raise ``ValueError`` if ``item`` is not a mapping or has an unknown key."""
    if not isinstance(item, Mapping):
        names = ", ".join(known) or "none"
        raise ValueError(f"{where}: expected {what} ({names}), found {item!r}")  # noqa: TRY004 (the file's fault)
    for key in item:
        if key not in known:
            advice = did_you_mean(key, known, f"{what} here:")
            raise ValueError(f"{f'{where}.{key}'.lstrip('.')}: unknown key {key!r}; {advice}")


def _scalar(value: Any, where: str, *, number: bool) -> Any:
    """A number or a boolean; YAML 1.1 reads 1e-1, which has no decimal point, as a string."""
    if isinstance(value, bool) and not number:
        return value
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            if math.isfinite(float(value)):
                return float(value) if isinstance(value, str) else value
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"{where}: expected a {'finite number' if number else 'number or boolean'}, found {value!r}")
