"""A user's own pipeline: a function that returns a PyTerrier transformer."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import pyterrier as pt
from pydantic import AfterValidator, Field

from pyterrier_merge.fingerprint import fingerprint, fingerprint_file
from pyterrier_merge.systems.base import Bench, PlanningBench, Prepared, Step, System
from pyterrier_merge.systems.given import UsersStage, users_errors

_LOADED: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()  # module -> fingerprint of the source that it has


def _reference(text: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", text):
        raise ValueError(f"expected module:function; found {text!r}")
    return text


class PipelineSystem(System):
    """Calls ``module:function`` with the collection, and with ``arguments``; it returns a transformer.

    The module is looked for in Python's path and in the current folder. It is the user's own code and is executed.

    Attributes:
        function: ``module:function``.
        arguments: Further keyword arguments.
    """

    kind: Literal["pipeline"] = "pipeline"
    function: Annotated[str, AfterValidator(_reference)]
    arguments: dict[str, Any] = Field(default_factory=dict)

    def check(self, bench: Bench) -> None:
        """Import the function before any work, its file as it is now, and check that it takes these arguments."""
        try:
            inspect.signature(self._imported(current=True)).bind(bench.collection, **self.arguments)
        except TypeError as error:
            raise ValueError(f"arguments: {self.function} does not take them ({error})") from error

    def plan(self, bench: PlanningBench) -> list[Step]:  # noqa: ARG002 (of every kind)
        """Return one step for the function, whose work is unknown."""
        return [Step(what=f"what {self.function} does", documents=None)]

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Call the function. Stored results are reused for the same source, as it was imported, and arguments."""
        function = self._imported()
        with users_errors(f"calling {self.function}"):
            transformer = function(bench.collection, **self.arguments)
        if not isinstance(transformer, pt.Transformer):
            raise ValueError(f"{self.function} returned {type(transformer).__name__}, expected a PyTerrier transformer")  # noqa: TRY004
        identity = fingerprint([_LOADED[sys.modules[self._module]], self.model_dump(mode="json")])
        stage, note = UsersStage(transformer), f"{self._described}."
        return [Prepared(transformer=stage, identity=identity, labels=None, notes=(note,))]

    @property
    def _module(self) -> str:
        return self.function.partition(":")[0]

    @property
    def _described(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"Pipeline {self.function}" + (f" with {given}" if given else "")

    def _imported(self, *, current: bool = False) -> Any:
        _, _, name = self.function.partition(":")
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            found = getattr(_imported_module(self._module, current=current), name)
        except Exception as error:  # a module may raise anything
            raise ValueError(
                f"function: cannot import {self.function!r} ({type(error).__name__}: {error}); modules are looked for "
                "in the current folder and where Python finds them"
            ) from error
        if not callable(found):
            raise ValueError(f"function: {self.function!r} is {type(found).__name__}, expected a function")  # noqa: TRY004
        return found


def _imported_module(name: str, *, current: bool) -> ModuleType:
    """Import a module and remember its source, because its file may change during a run.

    Args:
        name: Name of the module.
        current: Execute the source again if the file has changed since.
    """
    module = importlib.import_module(name)
    if current or module not in _LOADED:
        file = getattr(module, "__file__", None)
        found = fingerprint_file(file) if file else ""
        if file and _LOADED.get(module, found) != found:  # reload() misses a change within a second
            exec(compile(Path(file).read_bytes(), file, "exec"), vars(module))  # noqa: S102 (the user's own code)
        _LOADED[module] = found
    return module
