"""Converts advice in errors and warnings from Python (``dtype='float32'``) to a command's flags or a file's fields."""

from __future__ import annotations

import ast
import re
from typing import Any

# Fields of a system in an experiment's YAML, in the section of the system that the message is about.
SYSTEM_FIELDS = (
    "dtype", "pooling", "normalize", "max_length", "query_prompt", "document_prompt", "batch_size", "engine",
    "parameters",
)  # fmt: skip
COLLECTION_FIELDS = ("path", "download", "language", "pool", "title", "fields", "topic", "body", "ignore_identical_ids")
# Arguments that ``pyterrier-merge merge`` takes as flags of that name; ``parameters`` is a repeated ``--parameter``.
FLAGS = ("overwrite", "dtype", "pooling", "normalize", "max_length", "query_prompt", "document_prompt", "parameters")
# Arguments that ``pyterrier-merge train-lora`` and ``train-domain`` take as flags of that name, and with ``--set``.
TRAINING_FLAGS = ("overwrite", "objective", "device", "split", "fraction", "trial")
TRAINING_SETTINGS = ("accumulation", "batch_size", "dtype", "max_length", "negatives", "steps", "stop_at")

ADVICE = re.compile(
    r"get_collection\('(?P<collection>[^']+)'(?:, (?P<options>[^()]*))?\)"
    r"|\w+\([^()]*\)"  # the text of an object or another call: not advice
    r"|(?<![\w.'/-])(?P<name>[a-z]\w*)=(?P<value>True|False|None|\.\.\.|'[^']*'|\d[\d.]*(?<!\.)|\{[^{}]*\})"
)


def in_fields(text: str) -> str:
    """Return a message with its arguments written as fields of an experiment's YAML file."""

    def said(found: re.Match[str]) -> str:
        if collection := found["collection"]:
            options = [option.split("=", 1) for option in (found["options"] or "").split(", ") if option]
            inner = [f"name: {collection}", *(f"{name}: {_yaml(_value(value))}" for name, value in options)]
            return f"collection: {{{', '.join(inner)}}}"
        field = f"{found['name']}: {_yaml(_value(found['value']))}"
        if found["name"] in COLLECTION_FIELDS:
            return f"collection: {{{field}}}"
        return field if found["name"] in SYSTEM_FIELDS else found[0]

    return ADVICE.sub(said, text)


def in_flags(text: str) -> str:
    """Return a message with its arguments written as flags of ``pyterrier-merge merge``."""

    def said(found: re.Match[str]) -> str:
        if found["name"] not in FLAGS:
            return found[0]
        flag, value = found["name"].replace("_", "-"), _value(found["value"])
        if isinstance(value, dict):
            return " ".join(f"--{flag.rstrip('s')} {name}={_yaml(each)}" for name, each in value.items())
        if isinstance(value, bool):
            return f"--{flag}" if value else f"--no-{flag}"
        return f"--{flag} {_yaml(value)}"

    return ADVICE.sub(said, text)


def in_settings(text: str) -> str:
    """Return a message with its arguments written as flags of the training commands."""

    def said(found: re.Match[str]) -> str:
        name, value = found["name"], _yaml(_value(found["value"])) if found["name"] else ""
        if name in TRAINING_SETTINGS:
            return f"--set {name}={value}"
        if name in TRAINING_FLAGS:
            return "--overwrite" if name == "overwrite" else f"--{name} {value}"
        return found[0]

    return ADVICE.sub(said, text)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a placeholder for a value, such as FOLDER
        return text


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_yaml(each)}' for name, each in value.items())}}}"
    words = {True: "true", False: "false", None: "null", ...: "..."}
    return words[value] if isinstance(value, bool | type(None) | type(...)) else str(value)
