"""Plots as files, and as SVG elements for one HTML page."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyterrier_merge.systems.base import Figure

_TAG = re.compile(r"<[^>]+>")  # matplotlib escapes > in text and in attributes
_NAME = re.compile(r'( id="| xlink:href="#|url\(#)')


def draw_picture(draw: Figure, file: Path) -> str:
    """Draw a plot into a file, which appears only when complete, and return it as an SVG element with text as text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawn

    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=file.parent, prefix=".pictures-") as folder,
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}),  # reproducible names
    ):
        beside, vector = Path(folder, file.name), Path(folder, "picture.svg")
        drawn = draw(beside)
        if isinstance(drawn, Drawn):
            drawn.set_layout_engine("none")  # it is already laid out; layout is slower than drawing
            drawn.savefig(vector)
        else:
            draw(vector)
        text = vector.read_text(encoding="utf-8")
        beside.replace(file)
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)  # it contains the date


def with_own_names(svg: str, prefix: str) -> str:
    """Return an SVG element with a prefix for all its names, because two plots use the same names."""
    return _TAG.sub(lambda tag: _NAME.sub(rf"\g<1>{prefix}", tag[0]), svg).strip()
