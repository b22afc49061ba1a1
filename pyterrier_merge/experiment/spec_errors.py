"""What is wrong with a field of an experiment's file, in words for those who wrote the file."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LONGEST = 80  # characters of a value in a message


def described(error: ValidationError, spec: type[BaseModel]) -> str:
    """Return one line where one field is wrong, else a line with a dash for each; a field is named by its path."""
    lines = [
        ": ".join(filter(None, [".".join(map(str, problem["loc"])), _described(problem, spec)]))
        for problem in error.errors()
    ]
    return lines[0] if len(lines) == 1 else "".join(f"\n- {line}" for line in lines)


def unknown_name(name: str, known: list[str]) -> str:
    """Return the known names, and the one that may have been meant."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}there are {', '.join(known)}"


def _described(problem: ErrorDetails, spec: type[BaseModel]) -> str:
    *sections, field = problem["loc"] or ("",)
    found = repr(problem["input"])
    shown = found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}…"
    match problem["type"]:
        case "missing":
            return "this field is missing"
        case "extra_forbidden":
            return f"unknown field; {unknown_name(str(field), _fields(spec, sections))}"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "model_type":
            return f"expected fields ({', '.join(_fields(spec, [*sections, field]))}), found {shown}"
        case "tuple_type":
            return f"expected a list, found {shown}"
        case "string_pattern_mismatch":
            return f"expected a name of letters, digits, '_', '-' and '.'; found {shown}"
    expected = re.sub(r"^Input should be (?=greater|less)", "expected a number ", problem["msg"])
    return f"{expected.replace('Input should be', 'expected')}; found {shown}"


def _fields(spec: Any, sections: list[int | str]) -> list[str]:
    for section in sections:
        spec = spec.model_fields[section].annotation
    return list(spec.model_fields)
