"""The settings of two models side by side: which must agree for a merge, and which are always the source's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyterrier_merge.models import quiet_loading

_MUST_AGREE = {
    "model_type": "merge models of one architecture (one architecture under two names: write the source's model_type "
    "into a copy of the domain model's config.json)",
    "hidden_size": "choose a domain model of the source's size",
    "intermediate_size": "choose a domain model of the source's size",
    "num_attention_heads": "choose a domain model with the source's heads: others split the same matrix elsewhere",
    "num_key_value_heads": "choose a domain model with the source's heads: others split the same matrix elsewhere",
    "head_dim": "choose a domain model with the source's heads: others split the same matrix elsewhere",
    "hidden_act": "choose a domain model with the source's activation: the weights were learnt for another function",
}
_IN_LAYERS = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_eps",
    "sliding_window",
    "layer_types",
    "max_position_embeddings",
    "position_embedding_type",
    "is_decoder",
    "is_causal",
    "use_bidirectional_attention",
    "attn_logit_softcapping",
)
_OUTSIDE = ("vocab_size", "tie_word_embeddings")
_ACTIVATION_NAMES = ("hidden_act", "hidden_activation", "activation", "activation_function")
_SAME_LAYERS = {"llama", "mistral"}  # they differ in the attention window; a GGUF file does not say which one it has
_GELU = {"gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh"}  # at most 0.0005 apart


@dataclass(frozen=True)
class Setting:
    """One setting of both models; None if a model does not have it.

    Attributes:
        name: As in ``config.json``; for the rotary embedding, ``rope_theta``, ``rope_type`` and its other parameters.
        source: The source's value, which the merged model uses.
        domain: The domain model's.
        mend: What to do if this setting prevents a merge of the pair; None if it does not.
    """

    name: str
    source: Any
    domain: Any
    mend: str | None = None

    @property
    def differs(self) -> bool:
        """Whether the models differ in it."""
        return bool(self.source != self.domain)

    @property
    def note(self) -> str | None:
        """The meaning of a difference that does not prevent a merge; None if there is no such difference."""
        if not self.differs or self.mend or self.name == "tie_word_embeddings":  # heads are left out, tied or not
            return None
        means = (
            "token embeddings stay the source's"
            if self.name in _OUTSIDE
            else "the domain model's layers, learnt with its own, are run with the source's"
        )
        return f"{self.name} differs: {self.source!r} (source, used), {self.domain!r} (domain); {means}"


def compare_settings(source: Mapping[str, Any], domain: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Compare two configurations, with their model types' defaults for settings that ``config.json`` lacks.

    Args:
        source: The parsed ``config.json`` of the source.
        domain: The same of the domain model.
    """
    used, other = _settings(source), _settings(domain)
    rope = sorted({name for name in (*used, *other) if name.startswith("rope_")})
    names = (*_MUST_AGREE, *_IN_LAYERS, *rope, *_OUTSIDE)
    rows = [(name, used.get(name), other.get(name)) for name in names]
    return tuple(Setting(*row, mend=_mend(*row)) for row in rows if row[1] is not None or row[2] is not None)


def _mend(name: str, source: Any, domain: Any) -> str | None:
    if name not in _MUST_AGREE or source is None or domain is None or source == domain:
        return None
    alike = tuple({"hidden_act": _GELU, "model_type": _SAME_LAYERS}.get(name, ()))  # no set: values may be lists
    return None if all(value in alike for value in (source, domain)) else _MUST_AGREE[name]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration under the names that most models share, including its rotary embedding's parameters."""
    filled = _with_defaults(config)
    activation = next((filled[name] for name in _ACTIVATION_NAMES if isinstance(filled.get(name), str)), None)
    rope = filled.get("rope_parameters") or {  # before transformers 5
        **(filled.get("rope_scaling") or {}),
        **({"rope_theta": filled["rope_theta"]} if "rope_theta" in filled else {}),
    }
    kept = {name: value for name, value in filled.items() if not name.startswith("rope_")}
    return {**kept, "hidden_act": "silu" if activation == "swish" else activation, **dict(_rope(rope, ""))}


def _rope(parameters: Mapping[str, Any], of: str) -> Iterator[tuple[str, Any]]:
    if parameters and not any(isinstance(value, Mapping) for value in parameters.values()):
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        parameters = {**parameters, "rope_type": kind}
    for name, value in parameters.items():
        if isinstance(value, Mapping):  # one set of parameters for each type of layer
            yield from _rope(value, f"_{name}")
        elif name != "type":
            yield f"rope{of}_{name.removeprefix('rope_')}", value


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        with quiet_loading():
            filled = AutoConfig.for_model(**config)
    except Exception:  # noqa: BLE001 (an unknown type, or any error of the type's class: use the file's values)
        return dict(config)
    values = filled.to_dict()
    return {**values, **{name: values.get(own) for name, own in filled.attribute_map.items()}}
