"""Licences of models, as their own cards state them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyterrier_merge.models.names import places

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Licence:
    """The licence that a model card states; empty if it is unknown. Links are ignored in comparisons.

    Attributes:
        ids: As the hub writes them (``apache-2.0``); more than one if the card has a list, ``other`` for any other.
        name: Name of an ``other``.
        link: Address of its text.
    """

    ids: tuple[str, ...] = ()
    name: str | None = None
    link: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.name or ", ".join(self.ids) or UNKNOWN

    def fields(self) -> dict[str, Any]:
        """Return the licence in the form of a card's front matter."""
        ids = self.ids[0] if len(self.ids) == 1 else list(self.ids)
        stated = {"license": ids, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in stated.items() if value}


def read_licences(name: str | Path) -> tuple[Licence, ...]:
    """Return the licence of each part of a model's name: of the base first, and of each adapter on it.

    Args:
        name: As :func:`~pyterrier_merge.models.locate_model` takes it. A GGUF file's card is in the same folder.
    """
    return tuple(read_licence(place.parent if place.is_file() else place) for place in places(name))


def read_licence(folder: Path) -> Licence:
    """Return the licence that the front matter of a folder's ``README.md`` states."""
    import yaml
    from huggingface_hub import ModelCard

    if not (folder / "README.md").is_file():
        return Licence()
    try:
        data = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except (ValueError, OSError, TypeError, yaml.YAMLError) as error:
        logger.info("the model card in %s cannot be read: %s", folder, error)
        return Licence()
    stated = data.license if isinstance(data.license, list) else [data.license]
    ids = tuple(str(one) for one in stated if one)
    if "other" not in ids or not data.license_name:
        return Licence(ids)
    link = str(data.license_link)
    absolute = link.startswith(("https://", "http://"))  # a relative link would be broken in another model's card
    return Licence(ids, str(data.license_name), link if absolute else None)
