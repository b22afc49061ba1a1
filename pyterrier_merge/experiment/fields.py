"""The reference of an experiment file's fields, generated from the classes of its sections."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.systems import KINDS, system_class
from pyterrier_merge.systems.base import System

HEAD = """# Fields of an experiment's file

What `pyterrier-merge run FILE.yaml` reads, as `pyterrier-merge run --fields` prints it.
"""
_SECTION = "fields (see below)"
_PLAIN = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Path: "path of a file",
    Any: "value",
    System: "fields of a system",
}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_ITEM = re.compile(r"^(\w+): (.*(?:\n +.*)*)", re.MULTILINE)


def fields_reference() -> str:
    """Return the page: for each section its fields, with type, default and meaning."""
    sections: list[tuple[str, type]] = [("The file", ExperimentSpec), *_inner(ExperimentSpec, "")]
    for kind in KINDS:
        sections += [(f"kind: {kind}", system_class(kind)), *_inner(system_class(kind), f"kind: {kind}, ")]
    return "\n".join([HEAD, *(_section(title, section) for title, section in sections)])


def in_words(annotation: Any) -> str:
    """Describe the type of a field for users who write YAML: ``number from 0 to 1``, ``list of names``."""
    if get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        words = next((one.description for one in metadata if isinstance(one, FieldInfo) and one.description), None)
        return words or in_words(base) + _bounds(metadata)
    arguments = [one for one in get_args(annotation) if one is not type(None)]
    match get_origin(annotation):
        case None:
            return _PLAIN.get(annotation, _SECTION)
        case origin if origin is Literal:
            return _or(f"`{value}`" for value in arguments)
        case origin if origin is tuple and arguments[-1] is ...:
            return f"list of {_plural(in_words(arguments[0]))}"
        case origin if origin is tuple:
            return f"pair of {_plural(in_words(arguments[0]))}"
        case origin if origin is dict:
            return "systems by name" if System in get_args(arguments[1]) else "values by name"
    return _or(dict.fromkeys(map(in_words, arguments)))


def _inner(section: type, path: str) -> Iterator[tuple[str, type]]:
    """The sections in a section's fields, recursively."""
    for name, (annotation, _) in _fields(section).items():
        for inner in _classes(annotation):
            title = f"{path}{name}{_told_apart(inner)}"
            yield title, inner
            yield from _inner(inner, f"{title}, ")


def _told_apart(section: type) -> str:
    """The text that distinguishes this section from the others that a field may hold."""
    for name in ("objective", "on"):
        if info := getattr(section, "model_fields", {}).get(name):
            return f", {name}: {info.default if not info.is_required() else get_args(info.annotation)[0]}"
    return ""


def _classes(annotation: Any) -> Iterator[type]:
    section = isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation))
    if section and not issubclass(annotation, System):
        yield annotation
    for argument in get_args(annotation):
        yield from _classes(argument)


def _section(title: str, section: type) -> str:
    said = _plain(re.split(r"\n(?:Attributes|Raises):\n", inspect.getdoc(section) or "")[0]).strip()
    meanings = _meanings(section)
    lines = []
    for name, (annotation, default) in _fields(section).items():
        lines.append(f"- `{name}` ({in_words(annotation)}; {_default(default)}): {meanings[name]}")
    return "\n".join([f"## {title}\n", said, "", *lines, ""])


def _fields(section: type) -> dict[str, tuple[Any, Any]]:
    """Type and default of each field; ``MISSING`` for required fields."""
    if is_dataclass(section):
        hints = get_type_hints(section, include_extras=True)
        return {field.name: (hints[field.name], field.default) for field in fields(section)}
    found = {}
    assert issubclass(section, BaseModel)  # noqa: S101 (for the type checker)
    for name, info in section.model_fields.items():
        default = MISSING if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
        found[name] = (Annotated[(info.annotation, info, *info.metadata)], default)
    own = [name for name in found if name in section.__annotations__ and name != "kind"]  # before inherited fields
    return {name: found[name] for name in (*own, *(name for name in found if name not in (*own, "kind")))}


def _meanings(section: type) -> dict[str, str]:
    """The descriptions of the fields in the ``Attributes:`` of the class and of its bases."""
    found: dict[str, str] = {}
    for one in reversed(section.__mro__):
        attributes = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2]
        items = _ITEM.findall(inspect.cleandoc(f"\n{attributes}"))
        found |= {name: _plain(" ".join(meaning.split())) for name, meaning in items}
    return found


def _default(value: Any) -> str:
    if value is MISSING:
        return "required"
    if value is None:
        return "may be left out"
    if isinstance(value, BaseModel):
        value = {}
    written = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=1_000)
    return f"default `{written.removesuffix('...' + chr(10)).strip()}`"


def _bounds(metadata: list[Any]) -> str:
    limits: dict[str, float] = {}
    flat = (inner for one in metadata for inner in (one.metadata if isinstance(one, FieldInfo) else [one]))
    for one in flat:
        limits |= {name: getattr(one, name) for name in _LIMITS if getattr(one, name, None) is not None}
    if limits.keys() == {"ge", "le"}:
        return f" from {limits['ge']:g} to {limits['le']:g}"
    said = " and ".join(f"{words} {limits[name]:g}" for name, words in _LIMITS.items() if name in limits)
    return f", {said}" if said else ""


def _plural(words: str) -> str:
    """The plural of a type; a text in a list is a name."""
    if words == "text":
        return "names"
    many = re.sub(r"^(whole number|number|pair|list)", r"\1s", words)
    return many.replace(", ", ", each ", 1)


def _or(alternatives: Iterable[str]) -> str:
    *others, last = alternatives
    return f"{', '.join(others)} or {last}" if others else last


def _plain(text: str) -> str:
    """Docstrings are written in reStructuredText; the page is Markdown."""
    return re.sub(r"`{2}(.+?)`{2}", r"`\1`", re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text))
