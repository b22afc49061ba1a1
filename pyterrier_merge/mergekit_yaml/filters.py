"""The filters of mergekit's YAML: which part of a model each one matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from pyterrier_merge.recipe import Segment
from pyterrier_merge.recipe.parts import NEUTRAL_PARTS

LAYERS, EMBEDDINGS, FINAL_NORM, LM_HEAD = "layers", "embeddings", "final norm", "language-model head"
NORM_FILTERS = ("model.norm", "final_norm", "ln_f")
_EMBEDDING_FILTERS = ("wte", "wpe")  # GPT-2's; every filter with "embed" in it is one too
_NORMS = ("model.norm.weight", "final_norm.weight")
# Names of the tensors in a layer of Llama's and BERT's families, GPT-2 and ModernBERT, to find overlapping filters.
TENSORS = tuple(
    f"{layer}.{name}.weight"
    for layer, names in (
        ("model.layers.0.self_attn", "q_proj k_proj v_proj o_proj qkv_proj q_norm k_norm"),
        ("model.layers.0.mlp", "gate_proj up_proj down_proj gate_up_proj"),
        ("model.layers.0", "input_layernorm post_attention_layernorm"),
        ("model.layers.0", "pre_feedforward_layernorm post_feedforward_layernorm post_self_attn_layernorm"),
        ("bert.encoder.layer.0.attention.self", "query key value"),
        ("bert.encoder.layer.0", "attention.output.dense attention.output.LayerNorm"),
        ("bert.encoder.layer.0", "intermediate.dense output.dense output.LayerNorm"),
        ("transformer.h.0", "ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj"),
        ("model.layers.0", "attn_norm attn.Wqkv attn.Wo mlp_norm mlp.Wi mlp.Wo"),
    )
    for name in names.split()
)


def place_of(name: Any, where: str) -> str | None:
    """Return the part of a model that a filter matches; None for the whole model.

    Raises:
        ValueError: The filter is not a string, or has different meanings in mergekit and in a recipe.
    """
    if name is None or name == "*":
        return None
    if not isinstance(name, str):
        raise ValueError(f"{where}: expected a part of tensors' names, found {name!r}")  # noqa: TRY004 (the file's fault)
    if "embed" in name or name in _EMBEDDING_FILTERS:
        return EMBEDDINGS
    if name.removesuffix(".weight") in NORM_FILTERS:
        return FINAL_NORM
    if name in NEUTRAL_PARTS:
        raise ValueError(
            f"{where}: mergekit takes {name!r} for a piece of tensors' names, a recipe for all of attention or of the "
            "feed-forward network; write what the tensors are called: 'self_attn' and 'mlp' in Llama's kin, "
            "'attention.self' and 'intermediate.dense' in BERT's"
        )
    return LM_HEAD if name.startswith("lm_head") else part_place(name)


def part_place(name: str) -> str:
    """Return the name of the place of all tensors in layers that have this in their names."""
    return f"tensors with {name!r} in their names"


def lets_through(name: Any, where: str, place: str) -> bool:
    """Whether a filter matches a part of a model."""
    passed = place_of(name, where)
    return passed in (None, place) or (place == FINAL_NORM and takes_final_norm(str(name)))


def takes_final_norm(name: str) -> bool:
    """Whether a filter for tensors of layers also matches the final norm, as ``norm`` does."""
    return any(name in norm for norm in _NORMS)


def part_filters(setting: Any, where: str) -> list[str]:
    """Return a setting's filters for parts of layers, in order, up to one that matches everything."""
    found = []
    for inner, condition in _conditions(setting, where):
        name = condition.get("filter")
        place = place_of(name, f"{inner}.filter")
        if place is None:
            break
        if place == part_place(str(name)) and name not in found:
            found.append(str(name))
    return found


def weighs_embeddings(setting: Any, where: str) -> bool:
    """Whether a setting has a filter for the embeddings, before one that matches everything."""
    for inner, condition in _conditions(setting, where):
        place = place_of(condition.get("filter"), f"{inner}.filter")
        if place in (None, EMBEDDINGS):
            return place is not None
    return False


def in_one_order(settings: Sequence[tuple[str, Any]], tensors: Sequence[str] = TENSORS) -> list[str]:
    """Return the settings' filters for parts of layers, in one order that agrees with each setting.

    Args:
        settings: Each with its place in the file.
        tensors: mergekit's names of the tensors that may be in a layer.

    Raises:
        ValueError: Two filters may match the same tensors, and not all settings have both in one order.
    """
    orders = [(where, found) for where, setting in settings if (found := part_filters(setting, where))]
    union = list(dict.fromkeys(name for _, found in orders for name in found))
    for one, two in combinations(union, 2):
        if not _overlap(one, two, tensors):
            continue
        for where, found in orders:
            if [name for name in found if name in (one, two)] not in ([one, two], []):
                raise ValueError(
                    f"{where}: the filters {one!r} and {two!r} may let the same tensors through, and other weights in "
                    "this file have them otherwise: give all of them both, in one order"
                )
    return union


def named_parts(parts: Sequence[tuple[str, Segment]]) -> tuple[tuple[str, Segment], ...]:
    """Recombine the filters that a recipe's ``attention`` or ``feed_forward`` is written as."""
    named: list[tuple[str, Segment]] = []
    while len(parts) > 0:
        (first, segment), taken = parts[0], 1
        for name, filters in NEUTRAL_PARTS.items():
            if list(parts[: len(filters)]) == [(one, segment) for one in filters]:
                first, taken = name, len(filters)
        named.append((first, segment))
        parts = parts[taken:]
    return tuple(named)


def _conditions(setting: Any, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """A setting's conditions with their places; anything else matches all tensors."""
    items = setting if isinstance(setting, list) else [setting]
    return [(f"{where}[{index}]", item if isinstance(item, Mapping) else {}) for index, item in enumerate(items)]


def _overlap(one: str, two: str, tensors: Sequence[str]) -> bool:
    """Whether a tensor may have both in its name; assumed if one of them is in no known name."""
    both = [[name for name in tensors if part in name] for part in (one, two)]
    return not all(both) or not set(both[0]).isdisjoint(both[1])
