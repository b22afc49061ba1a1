"""The model card of a merge: a description of its parents and its recipe, for people and for the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pyterrier_merge.encoding.saving.licences import Licence, read_licences
from pyterrier_merge.models import fingerprint_model, locate_model, pinned_name, public_name
from pyterrier_merge.recipe import MergeRecipe

_TAGS = ["sentence-transformers", "feature-extraction", "sentence-similarity", "mergekit", "merge", "pyterrier"]
_PACKAGES = (
    "pyterrier-merge",
    "mergekit",
    "sentence-transformers",
    "transformers",
    "tokenizers",
    "torch",
    "safetensors",
)
_PINNED = re.compile(r"^(?P<id>[\w.-]+(/[\w.-]+)?)@(?P<commit>[0-9a-f]{40})$")


@dataclass(frozen=True)
class Parent:
    """A model that a merge was made from.

    Attributes:
        role: ``source``, ``domain`` or ``base``.
        name: As the recipe names it.
        fingerprint: Fingerprint of its files.
        hub: Hub ids with the commit that was read, of the model or of base and adapter; empty for local files.
        licences: As the model's own card states; of base and adapter if it consists of them.
    """

    role: str
    name: str
    fingerprint: str
    hub: dict[str, str]
    licences: tuple[Licence, ...]


def read_parents(recipe: MergeRecipe) -> list[Parent]:
    """Return the models of a recipe: the source, each domain model, and the base if it has one."""
    roles = ("source", *["domain"] * len(recipe.domains), *(["base"] if recipe.base else []))
    return [_parent(role, name) for role, name in zip(roles, recipe.models, strict=True)]


def versions() -> dict[str, str]:
    """Return the versions of the packages that a merge depends on."""
    return {package: metadata.version(package) for package in _PACKAGES}


def model_card(title: str, recipe: MergeRecipe, parents: Sequence[Parent], record: Mapping[str, Any]) -> str:
    """Return the card, as Markdown with front matter.

    Args:
        title: Name of the model: a hub id, or the folder's name.
        recipe: The merge.
        parents: Its models.
        record: The content of ``merge.json``: ``layers``, ``contract``, ``dtype``, ``versions``, ``fingerprint``.
    """
    from huggingface_hub import ModelCardData

    licences = {licence for parent in parents for licence in parent.licences}
    agreed = licences.pop() if len(licences) == 1 else Licence()
    hub_ids = list(dict.fromkeys(name for parent in parents for name in parent.hub))
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=_TAGS,
        base_model=hub_ids or None,
        base_model_relation="merge" if hub_ids else None,
        **agreed.fields(),
    )
    return f"---\n{data.to_yaml()}\n---\n{_body(title, recipe, parents, record)}"


def _parent(role: str, name: str) -> Parent:
    folder = locate_model(name)
    pinned = filter(None, map(_PINNED.match, pinned_name(name).split("+")))
    hub = {match["id"]: match["commit"] for match in pinned}
    return Parent(role, name, fingerprint_model(folder), hub, read_licences(name))


def _body(title: str, recipe: MergeRecipe, parents: Sequence[Parent], record: Mapping[str, Any]) -> str:
    contract = record["contract"]
    models = [
        (
            parent.role,
            f"`{public_name(parent.name)}`",
            ", ".join(parent.hub.values()) or parent.fingerprint,
            " + ".join(dict.fromkeys(map(str, parent.licences))),
        )
        for parent in parents
    ]
    domains = [f"to {public_name(name)}" for name in recipe.domains]
    layers = [
        (
            layer["place"],
            _weights(layer["weights"]),
            *(f"{far:.4f}" for far in (layer["to_source"], *layer["to_domains"])),
        )
        for layer in record["layers"]
    ]
    parameters = "".join(f", {name} = {value}" for name, value in recipe.parameters)
    return f"""
# {title}

A retrieval model with {_domains(len(recipe.domains))} merged into it, without labelled data, by pyterrier-merge, after
[arXiv 2509.21966](https://arxiv.org/abs/2509.21966).

## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({title!r})
queries = model.encode(["..."], prompt_name="query")
documents = model.encode(["..."], prompt_name="document")
```

In PyTerrier:

```python
from pyterrier_merge import E5Encoder

encoder = E5Encoder({title!r})
```

- Queries begin with {_code(contract["query_prompt"])}, documents with {_code(contract["document_prompt"])}.
- Pooling: {contract["pooling"]}. At most {contract["max_length"]} tokens. Weights are in {record["dtype"]}.

## Models

{_table(("role", "model", "commit, or fingerprint of the files", "licence"), models)}

A licence is what the model's own card states; a model of a base and an adapter has both licences.

## Recipe

Method `{recipe.method}`{parameters}. Weights are the source's first. Other parts are the source's own. A
distance is relative: the norm of the difference divided by the norm of the model. `mergekit_config.yml` has the
recipe in mergekit's language, `merge.json` has it with all figures, tensor by tensor. Fingerprint of the weights:
`{record["fingerprint"]}`.

{_table(("part", "weights", "to the source", *domains), layers)}

## Versions

{", ".join(f"{package} {version}" for package, version in record["versions"].items())}
"""


def _domains(number: int) -> str:
    return "a domain model" if number == 1 else f"{number} domain models"


def _weights(weights: Sequence[float] | None) -> str:
    return "by the method" if weights is None else " : ".join(f"{weight:g}" for weight in weights)


def _code(prompt: str) -> str:
    return f"`{prompt!r}`" if prompt else "nothing"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
