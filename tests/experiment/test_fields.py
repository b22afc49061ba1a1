from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from pyterrier_merge.experiment.fields import fields_reference, in_words
from pyterrier_merge.systems import KINDS, system_class
from pyterrier_merge.systems.merged import Alpha
from pyterrier_merge.systems.settings import Positive
from pyterrier_merge.systems.sweep import SweepSection

PAGE = Path(__file__).resolve().parents[2] / "docs" / "experiment-fields.md"


def test_the_page_is_what_the_command_prints():
    written = PAGE.read_text(encoding="utf-8")
    assert written == fields_reference(), f"write it anew: pyterrier-merge run --fields > docs/{PAGE.name}"


def test_every_field_of_every_kind_has_its_meaning():
    page = fields_reference()
    for kind in KINDS:
        section = page.partition(f"## kind: {kind}\n")[2].partition("\n## ")[0]
        for field in system_class(kind).model_fields.keys() - {"kind"}:
            [line] = [line for line in section.splitlines() if line.startswith(f"- `{field}` (")]
            assert line.partition("): ")[2]
    assert ":class:" not in page
    assert "``" not in page


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (str, "text"),
        (str | None, "text"),
        (bool, "true or false"),
        (Path | None, "path of a file"),
        (Literal["a", "b", "c"], "`a`, `b` or `c`"),
        (Literal["a"], "`a`"),
        (Alpha | None, "number from 0 to 1"),
        (Positive, "whole number, at least 1"),
        (Annotated[float, Field(gt=0, lt=1)], "number, above 0 and below 1"),
        (tuple[str, ...], "list of names"),
        (str | tuple[str, ...] | None, "text or list of names"),
        (tuple[Annotated[float, Field(ge=0)], ...], "list of numbers, each at least 0"),
        (tuple[Alpha, ...], "list of numbers from 0 to 1"),
        (tuple[float, ...] | tuple[tuple[float, float], ...], "list of numbers or list of pairs of numbers"),
        (tuple[Positive, ...], "list of whole numbers, each at least 1"),
        (dict[str, Any], "values by name"),
        (SweepSection | None, "fields (see below)"),
    ],
)
def test_types_are_words(annotation, words):
    assert in_words(annotation) == words
