"""A model's tensors by canonical name, read lazily from the files of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.merging.places import LAYER, PROJECTION, layer_of
from pyterrier_merge.models import count_layers, projection_folders, read_config, transformer_folder
from pyterrier_merge.models.weights import FLOATS, StoredTensor, TensorReader, require_unquantised, stored_tensors

if TYPE_CHECKING:
    import torch

_BUFFER = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|(position|token_type)_ids|(attn|attention)\.(masked_)?bias)$"
)
_KINDS = {
    "model_type": str,
    "text_config": dict,
    "rope_scaling": dict,
    "rope_parameters": dict,
}  # of settings read here
_HEAD = re.compile(r"^(lm_head|embed_out|cls|score|classifier)\.")  # bodies in transformers have no such names
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # BERTs before 2019
# Kind of model (its type, or its stack of layers), a head, and the token embeddings that the head shares.
_TIED = (
    ("gpt_neox", "embed_out.weight", "embed_in.weight"),
    ("gpt_neox", "lm_head.weight", "embed_in.weight"),
    ("bloom", "lm_head.weight", "word_embeddings.weight"),
    ("falcon", "lm_head.weight", "word_embeddings.weight"),
    ("layers", "lm_head.weight", "embed_tokens.weight"),  # Llama, Mistral, Qwen, Gemma
    ("layers", "decoder.weight", "embeddings.tok_embeddings.weight"),  # ModernBERT
    ("decoder.layers", "lm_head.weight", "decoder.embed_tokens.weight"),  # OPT
    ("h", "lm_head.weight", "wte.weight"),  # GPT-2
    ("encoder.layer", "cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),  # BERT
    ("encoder.layer", "lm_head.decoder.weight", "embeddings.word_embeddings.weight"),  # RoBERTa, MPNet
    ("encoder.layer", "generator_lm_head.weight", "embeddings.word_embeddings.weight"),  # Electra
    ("transformer.layer", "vocab_projector.weight", "embeddings.word_embeddings.weight"),  # DistilBERT
)


class Checkpoint:
    """The tensors of one model by canonical name, which has no prefix of a class with a head.

    ``layers.0.mlp.up_proj.weight`` is called that in a ``MistralModel`` and in a ``MistralForCausalLM`` (whose file
    says ``model.layers.0…``), ``encoder.layer.0…`` in a ``BertModel`` and in a ``BertForMaskedLM``: the names of the
    parameters that ``AutoModel`` makes. Opening reads headers; a tensor is read on request and not kept.

    A projection head that sentence-transformers puts after the transformer is ``head.0.linear.weight`` and so on.

    Attributes:
        folder: The folder that holds the transformer's weights and ``config.json``.
        config: The parsed ``config.json``.
        body: Canonical name -> location, for every tensor of the body. If a file stores token embeddings only as the
            head's weights, their location is the head.
        heads: Names, as stored, of the tensors outside the body (a language-model head).
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the headers.

        Args:
            folder: The model's folder.

        Raises:
            FileNotFoundError: No ``config.json``, no weights, or a shard that the index names is missing.
            ValueError: A file is corrupt or not readable, the weights are quantised, the architecture is one that
                cannot be merged layer by layer, no layers are found, or their number differs from ``config.json``.
        """
        self.folder = transformer_folder(Path(folder))
        self.config: dict[str, Any] = read_config(self.folder)
        _require_kinds(self.config, self.folder / "config.json")
        require_unquantised(self.folder)
        stored = stored_tensors(self.folder)
        self._require_plain_stack(stored)
        prefix, stack = _layers_at(stored, self.folder)
        bodies = {key for key in stored if key.startswith(prefix) and not _HEAD.match(key)}
        self.heads = tuple(sorted(stored.keys() - bodies))
        body = {_modern(key.removeprefix(prefix)): stored[key] for key in stored if key in bodies}
        body = {name: tensor for name, tensor in body.items() if not _BUFFER.search(name)}
        if self._is_tied():
            body |= _tied_embeddings(body, stored, {stack, str(self.config.get("model_type"))})
        self.body: Mapping[str, StoredTensor] = body | _projection(Path(folder))
        _require_floats(self.body)
        self._require_stated_layers()
        self._reader = TensorReader()

    @cached_property
    def num_layers(self) -> int:
        """Number of transformer layers, counted in the tensors."""
        return 1 + max(layer for layer in map(layer_of, self.body) if layer is not None)

    def tensor(self, name: str) -> torch.Tensor:
        """Return the tensor with this canonical name, in its stored type, on the CPU.

        It is a view of the file: bytes are read when they are used, and it must not be written to. Its memory is
        released soon after the caller has dropped it, so that reading a whole model takes the memory of its largest
        tensor.

        Raises:
            KeyError: The body has no tensor of this name.
            ValueError: Its bytes could not be read, or the file was rewritten since it was opened.
        """
        return self._reader.read(self.body[name])

    def _is_tied(self) -> bool:
        settings = {**self.config, **(self.config.get("text_config") or {})}
        return bool(settings.get("tie_word_embeddings", True))  # transformers' own default

    def _require_plain_stack(self, stored: Iterable[str]) -> None:
        shared = next((key for key in stored if "albert_layer_groups." in key), None)
        if shared is not None:
            raise ValueError(
                f"{self.folder} is an ALBERT: its layers share one set of weights ({shared!r} …), so there are no "
                "layers to give different weights to; it cannot be merged"
            )
        if self.config.get("is_encoder_decoder"):
            raise ValueError(
                f"{self.folder} is an encoder-decoder ({self.config.get('model_type')}): it has two stacks of layers, "
                "and a recipe divides one; it cannot be merged"
            )

    def _require_stated_layers(self) -> None:
        stated = count_layers(self.folder)  # used for segments, and by transformers to build the model
        if stated != self.num_layers:
            raise ValueError(
                f"{self.folder} has the weights of {self.num_layers} layers, its config.json states {stated}: it is "
                "unclear which number is right; correct config.json, or give the checkpoint as it was saved"
            )

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r})"


def _require_kinds(config: Mapping[str, Any], file: Path) -> None:
    for name, kind in _KINDS.items():
        if not isinstance(config.get(name), (kind, type(None))):
            expected = "a name" if kind is str else "an object"
            raise ValueError(f"{file}: expected {expected} for {name!r}, found {config[name]!r}")  # noqa: TRY004 (no call)


def _layers_at(keys: Iterable[str], folder: Path) -> tuple[str, str]:
    """The prefix of the body's names, and the name of its stack of layers."""
    stacks = {(match["prefix"], match["stack"]) for match in map(LAYER.match, keys) if match}
    if len(stacks) != 1:
        names = ", ".join(sorted(repr(prefix + stack) for prefix, stack in stacks))
        found = f"several ({names}): models of several stacks cannot be merged" if stacks else "none"
        raise ValueError(f"expected one stack of transformer layers in {folder}, found {found}")
    return stacks.pop()


def _projection(folder: Path) -> dict[str, StoredTensor]:
    return {
        f"{PROJECTION}{number}.{key}": stored
        for number, dense in enumerate(projection_folders(folder))
        for key, stored in stored_tensors(dense).items()
    }


def _modern(name: str) -> str:
    parent, _, norm = name.rpartition("LayerNorm.")
    return parent + _OLD_NORM.get(f"LayerNorm.{norm}", f"LayerNorm.{norm}") if "LayerNorm." in name else name


def _tied_embeddings(
    body: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor], kinds: set[str]
) -> dict[str, StoredTensor]:
    """The token embeddings of a file that stores them only as the head's weights."""
    rows = [row for row in _TIED if row[0] in kinds]
    if any(embeddings in body for _, _, embeddings in rows):
        return {}
    return next(({embeddings: stored[head]} for _, head, embeddings in rows if head in stored), {})


def _require_floats(body: Mapping[str, StoredTensor]) -> None:
    for name, stored in body.items():
        if stored.dtype not in FLOATS:
            raise ValueError(
                f"tensor {name!r} ({stored.key!r} of {stored.file}) is {stored.dtype}: quantised weights cannot be "
                f"merged (expected {', '.join(FLOATS)}); give the checkpoint that they were made from"
            )
