"""What errors, warnings and reports say: looked for in the package's own string literals."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pyterrier_merge
from pyterrier_merge.advice import ADVICE, COLLECTION_FIELDS, FLAGS, SYSTEM_FIELDS, TRAINING_FLAGS, TRAINING_SETTINGS
from pyterrier_merge.training.pairs import TrainingPairs

PACKAGE = Path(pyterrier_merge.__file__).parent
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}

# Arguments that messages name and that no command leads to: who reads of them writes Python.
PYTHON_ALONE = {"candidates", "device", "drop_query_vec", "ef_search", "final_norm", "n", "nprobe", "seed", "source"}


def messages() -> Iterator[tuple[str, str]]:
    """Yield where a text of several words stands, and the text, with what is filled in as ``1`` or ``'x'``."""
    for file, tree in TREES.items():
        inner = {id(part) for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in ast.walk(text)}
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(map(_filled, node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (inner | docs):
                text = node.value
            else:
                continue
            if " " in text.strip():
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", re.sub("%[sdgr]", "1", text)


def _filled(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    return "'x'" if isinstance(part, ast.FormattedValue) and part.conversion == ord("r") else "1"


def test_advice_in_python_is_known_to_the_commands():
    """An argument that a message names is one that a command says as a flag or a field, or that Python alone takes."""
    known = {*COLLECTION_FIELDS, *SYSTEM_FIELDS, *FLAGS, *TRAINING_FLAGS, *TRAINING_SETTINGS, *PYTHON_ALONE}
    unknown = [
        f"{place}: {found[0]}"
        for place, text in messages()
        if not place.startswith("cli/") and not text.startswith(", ")  # a part of how an object is written
        for found in re.finditer(ADVICE, text)
        if found["name"] and found["name"] not in known
    ]
    assert unknown == []


def test_messages_name_public_functions_alone():
    """A function or class of the package that a message names is one that users can import, or a part of such."""
    things = [getattr(pyterrier_merge, name) for name in pyterrier_merge.__all__] + [TrainingPairs]
    public = {*pyterrier_merge.__all__, *dir(pyterrier_merge), "TrainingPairs"}
    public |= {name for thing in things for name in dir(thing)}
    public |= {name for thing in things if callable(thing) for name in inspect.signature(thing).parameters}
    defined = {
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    hidden = {name for name in defined - public if re.search("[a-z](_|[A-Z])[A-Za-z]", name)}  # no plain words
    found = [f"{place}: {name}" for place, text in messages() for name in hidden & set(re.findall(r"\w+", text))]
    assert found == []
