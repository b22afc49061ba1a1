"""Clear messages about wrong fields in an experiment's file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.systems import KINDS, System, system_class

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Loc = tuple[int | str, ...]
_LONGEST = 80  # characters of a value in a message


def described(error: ValidationError, spec: type[BaseModel], content: Mapping[Any, Any]) -> str:
    """Return one line for one wrong field, else a line with a dash for each; fields are named by their path.

    Args:
        error: Pydantic's error.
        spec: The class of the file, or of one section.
        content: The file, which gives the kind of each system; or the section.
    """
    lines = [
        ": ".join(filter(None, [".".join(_path(problem, content)), _described(problem, spec, content)]))
        for problem in _reported(error.errors(), content)
    ]
    return lines[0] if len(lines) == 1 else "".join(f"\n- {line}" for line in lines)


def _reported(problems: Sequence[ErrorDetails], content: Mapping[Any, Any]) -> list[ErrorDetails]:
    """Leave out problems that follow from others.

    A list without its wrong items may be too short. If a field may have several forms, pydantic reports the problems of
    all of them; the form that fits the value best is the one whose problems are deepest.
    """
    nearest: dict[Loc, Loc] = {}
    for problem in problems:
        if (form := _form(problem, content)) is not None:
            nearest[form[:-1]] = max(nearest.get(form[:-1], ()), problem["loc"], key=len)
    return [
        problem
        for problem in problems
        if ((form := _form(problem, content)) is None or nearest[form[:-1]][: len(form)] == form)
        and not (problem["type"] == "too_short" and any(_below(problem["loc"], other["loc"]) for other in problems))
    ]


def _below(loc: Loc, other: Loc) -> bool:
    return len(other) > len(loc) and other[: len(loc)] == loc


def _form(problem: ErrorDetails, content: Any) -> Loc | None:
    """Pydantic's path up to the first part that is not in the file: the type of a form, or the kind of a training."""
    loc = problem["loc"][:-1] if problem["type"] == "missing" else problem["loc"]
    for position, name in enumerate(loc):
        entry = _entry(content, name)
        if entry is None and isinstance(name, str):
            return loc[: position + 1]
        content = content if entry is None else entry[1]
    return None


def _path(problem: ErrorDetails, content: Any) -> list[str]:
    """The path of a field in the file: pydantic's path without the parts that it added."""
    names = []
    for name in problem["loc"]:
        if (entry := _entry(content, name)) is not None:
            names.append(entry[0])
            content = entry[1]
    return [*names, str(problem["loc"][-1])] if problem["type"] == "missing" else names


def _entry(content: Any, name: int | str) -> tuple[str, Any] | None:
    """Name and value of an entry of the file; None if the name is a part that pydantic added.

    Such parts are types, kinds of training, and a list position if the file has one collection and no list.
    """
    if isinstance(content, (list, tuple)):
        return (str(name), content[name]) if isinstance(name, int) else None
    if isinstance(content, Mapping):  # names may be numbers, which pydantic may write as text
        return next(((str(key), value) for key, value in content.items() if key == name or str(key) == name), None)
    return None


def _described(problem: ErrorDetails, spec: type[BaseModel], content: Mapping[Any, Any]) -> str:
    *sections, field = problem["loc"] or ("",)
    found = repr(problem["input"])
    shown = found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}…"
    if field == "[key]":
        return "a name must be text: write it in quotes"
    match problem["type"]:
        case "missing":
            return "this field is missing"
        case "extra_forbidden":
            return f"unknown field; {did_you_mean(field, _fields(spec, sections, content))}"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "model_type":
            return f"expected fields ({', '.join(_fields(spec, [*sections, field], content))}), found {shown}"
        case "tuple_type":
            return f"expected a list, found {shown}"
        case "dict_type":
            return f"expected fields, found {shown}"
        case "literal_error":
            known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
            return f"found {shown}; {did_you_mean(problem['input'], known, 'expected one of')}"
    expected = re.sub(r"^Input should be (?=greater|less)", "expected a number ", problem["msg"])
    return f"{expected.replace('Input should be', 'expected')}; found {shown}"


def _fields(spec: type[BaseModel], path: Sequence[int | str], content: Mapping[Any, Any]) -> list[str]:
    """The fields of the section at a path; if several sections are possible, the fields of all of them."""
    found: list[type[BaseModel]] = [spec]
    given: Any = content
    for name in path:
        if (entry := _entry(given, name)) is not None:
            given = entry[1]
        if inner := [one for section in found if name in section.model_fields for one in _sections(section, str(name))]:
            on = isinstance(given, Mapping) and "on" in given
            found = [one for one in inner if ("on" in one.model_fields) == on] or inner
        else:  # a system's name, or the kind of training, which is only in pydantic's path
            found = [
                one for one in found if getattr(one.model_fields.get("objective"), "default", None) == name
            ] or found
        found = [_of_its_kind(one, given) for one in found]
    return [name for section in found for name in section.model_fields]


def _of_its_kind(section: type[BaseModel], given: Any) -> type[BaseModel]:
    """The class of a system, if the section may be any system."""
    kind = given.get("kind") if isinstance(given, Mapping) else None
    return system_class(kind) if section is System and isinstance(kind, str) and kind in KINDS else section


def _sections(section: type[BaseModel], field: str) -> Iterator[type[BaseModel]]:
    """The sections that a field may hold."""
    pending: list[Any] = [section.model_fields[field].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        pending += get_args(annotation)
