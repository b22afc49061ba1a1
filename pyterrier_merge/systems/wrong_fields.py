"""Clear messages about wrong fields in an experiment's file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.systems import system_class
from pyterrier_merge.training.settings import OBJECTIVES

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LONGEST = 80  # characters of a value in a message


def described(error: ValidationError, spec: type[BaseModel], content: Mapping[Any, Any]) -> str:
    """Return one line for one wrong field, else a line with a dash for each; fields are named by their path.

    Args:
        error: Pydantic's error.
        spec: The class of the file, or of one section.
        content: The file, which gives the kind of each system; or the section.
    """
    lines = [
        ": ".join(filter(None, [_path(problem["loc"], content), _described(problem, spec, content)]))
        for problem in error.errors()
        if problem["type"] != "too_short" or len(error.errors()) == 1  # else its content is wrong
    ]
    return lines[0] if len(lines) == 1 else "".join(f"\n- {line}" for line in lines)


def _path(loc: Sequence[int | str], content: Any) -> str:
    """The path of a field in the file.

    Pydantic's path also has the kind of a training, and a list position if the file has one collection and no list.
    """
    names = []
    for before, name in zip((None, *loc), loc, strict=False):
        listed = isinstance(content, (list, tuple))
        tagged = before == "train" and name in OBJECTIVES  # pydantic adds the kind of a training, files do not
        if not tagged and (listed or not isinstance(name, int)):
            names.append(str(name))
            content = content[name] if listed else content.get(name) if isinstance(content, Mapping) else None
    return ".".join(names)


def _described(problem: ErrorDetails, spec: type[BaseModel], content: Mapping[Any, Any]) -> str:
    *sections, field = problem["loc"] or ("",)
    found = repr(problem["input"])
    shown = found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}…"
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
    given: Mapping[Any, Any] = content
    if len(path) > 1 and path[0] == "systems":
        given = content["systems"][path[1]]
        found, path = [system_class(given["kind"])], path[2:]
    for name in path:
        if inner := [one for section in found if name in section.model_fields for one in _sections(section, str(name))]:
            below = given.get(str(name)) if isinstance(given, Mapping) else None
            given = below if isinstance(below, Mapping) else {}
            found = [one for one in inner if ("on" in one.model_fields) == ("on" in given)] or inner
        else:  # the kind of training, which is only in pydantic's path
            found = [
                one for one in found if getattr(one.model_fields.get("objective"), "default", None) == name
            ] or found
    return [name for section in found for name in section.model_fields]


def _sections(section: type[BaseModel], field: str) -> Iterator[type[BaseModel]]:
    """The sections that a field may hold."""
    pending: list[Any] = [section.model_fields[field].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        pending += get_args(annotation)
