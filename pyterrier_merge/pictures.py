"""The base of all plots. It does not use pyplot, which would open windows and keep global figures."""

from __future__ import annotations

import io
import logging
import textwrap
from collections.abc import Sequence
from functools import cache

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

logger = logging.getLogger(__name__)

DPI = 150
CHARACTERS = 11  # characters of a title per inch
SHOWN_DPI = 100  # in notebooks: sharp, and not wider than the page
BOX = "□"  # replaces characters that no installed font has


class Picture(Figure):
    """A figure that notebooks display without pyplot; otherwise they would show the name of its class.

    Args:
        width: In inches.
        height: In inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(self)

    def entitle(self, words: str) -> None:
        """Add a title in any script, with as many lines as it needs."""
        width, _ = self.get_size_inches()
        [title], fonts = drawable(textwrap.fill(words, int(width * CHARACTERS)))
        self.suptitle(title, fontsize="medium", fontfamily=fonts, parse_math=False)  # a name may contain a $

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        data = io.BytesIO()
        self.savefig(data, format="png")
        width, height = (round(inches * SHOWN_DPI) for inches in self.get_size_inches())
        return data.getvalue(), {"width": width, "height": height}


def as_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, for HTML."""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def name_lines(axes: Axes, fonts: list[str]) -> None:
    """Draw a legend with unprocessed names, because a name may contain a $.

    Args:
        axes: The axes with the lines.
        fonts: The fonts for the names, from :func:`drawable`.
    """
    for text in axes.legend(prop={"family": fonts, "size": "small"}).get_texts():
        text.set_parse_math(False)


def drawable(*texts: str) -> tuple[list[str], list[str]]:
    """Return texts of any script in a form that can be drawn, and the fonts for them (``fontfamily=``).

    Characters that matplotlib's font lacks come from other installed fonts. Characters without an installed font become
    a box, with one warning.
    """
    families = list(mpl.rcParams["font.family"])
    fonts = [findfont(FontProperties(family=[family])) for family in families]
    missing = _lacking(fonts, {character for character in "".join(texts) if character.isprintable()})
    further, boxed = _fallbacks("".join(sorted(missing))) if missing else ((), frozenset[str]())
    shown = ["".join(BOX if character in boxed else character for character in text) for text in texts]
    return shown, [*families, *further]


@cache
def _fallbacks(missing: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Installed fonts that together have the characters, and the characters that none has."""
    installed = {entry.name: entry.fname for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")}
    left, chosen = set(missing), list[str]()
    while left:
        lacking = {name: _lacking([file], left) for name, file in installed.items()}
        best = min(lacking, key=lambda name: (len(lacking[name]), "Sans" not in name and "Gothic" not in name, name))
        if len(lacking[best]) == len(left):
            break
        chosen.append(best)
        left = lacking[best]
    if left:
        logger.warning(
            "pictures show %s in place of %s: no installed font has these characters; install one that does, such as "
            "Noto Sans CJK, and start again",
            BOX,
            "".join(sorted(left)),
        )
    return tuple(chosen), frozenset(left)


def _lacking(files: Sequence[str], characters: set[str]) -> set[str]:
    """The characters that none of the fonts has."""
    left = characters
    for file in files:
        try:
            font = get_font(file)
        except (OSError, RuntimeError):  # a font that FreeType cannot read, such as coloured bitmaps
            continue
        left = {character for character in left if not font.get_char_index(ord(character))}
    return left
