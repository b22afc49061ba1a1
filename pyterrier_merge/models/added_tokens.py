"""An adapter's changes to the tokens of its base: embeddings that it carries, and its own tokenizer."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.models.vocabulary import ROLES, Vocabulary, has_vocabulary, read_vocabulary

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
# Names, below the module's, of weights that peft saves: fully trained, resized, or under a LoRA or trained rows.
_WHOLE = ("weight", "modules_to_save.weight", "base_layer.weight", "token_adapter.base_layer.weight")
_ROWS = "token_adapter.trainable_tokens_delta"
_UNUSED = "original_module.weight"
_EXAMPLES = 5


@dataclass(frozen=True)
class TokenRows:
    """Rows of the token embeddings.

    Attributes:
        before: Number of rows in the base.
        after: Number of rows with the adapter.
        carried: Whether the adapter has all of them.
        changed: Whether the adapter's values differ from the base's.
    """

    before: int
    after: int
    carried: bool
    changed: bool


def embeddings_of(body: Any) -> str | None:
    """Return the name of the token embeddings' module in a live body; None for a body without them."""
    try:
        module = body.get_input_embeddings()
    except NotImplementedError:
        return None
    return next((name for name, other in body.named_modules() if other is module), None)


def place_embeddings(body: Any, tensors: dict[str, torch.Tensor], trained_rows: Any, adapter: Path) -> TokenRows | None:
    """Write the token embeddings that an adapter carries into the live body, which is resized to them.

    Args:
        body: The base, live.
        tensors: The adapter's, by the body's names; those that are written are removed from it.
        trained_rows: ``trainable_token_indices`` of its configuration.
        adapter: The adapter's folder, for messages.

    Returns:
        The rows before and after; None for a body without token embeddings.

    Raises:
        ValueError: The adapter has tensors for more tokens than it or the base has embeddings for, or lacks rows that
            it trained.
    """
    import torch

    name = embeddings_of(body)
    if name is None:
        return None
    whole = _taken(tensors, [f"{name}.{end}" for end in (*_WHOLE, _UNUSED)])
    rows = _taken(tensors, [f"{name}.{_ROWS}"])
    own_name = name.rpartition(".")[2]
    if rows is None and (
        isinstance(trained_rows, list) or own_name in {key.rpartition(".")[2] for key in trained_rows or {}}
    ):
        raise ValueError(
            f"{adapter} is not whole: trainable_token_indices says that rows of {name!r} were trained, and the adapter "
            "does not have them; fetch or save the adapter again"
        )
    own = body.get_input_embeddings().weight
    if whole is not None and whole.shape[1:] != own.shape[1:]:
        raise ValueError(
            f"the token embeddings of {adapter} are {tuple(whole.shape)}, those of its base {tuple(own.shape)}: the "
            "adapter is another base's"
        )
    before = len(own)
    if whole is not None and len(whole) != before:
        body.resize_token_embeddings(len(whole), mean_resizing=False)
    embeddings = body.get_input_embeddings().weight
    lora = tensors.get(f"{name}.lora_embedding_A")
    if lora is not None and lora.shape[1] > len(embeddings):
        raise ValueError(_uncarried(adapter, lora.shape[1] - len(embeddings), (), len(embeddings)))
    changed = len(embeddings) != before
    with torch.no_grad():
        if whole is not None:
            changed = changed or not embeddings.equal(whole.to(embeddings))
            embeddings.copy_(whole)
        if rows is not None:
            at = _indices(trained_rows, len(rows), len(embeddings), adapter)
            changed = changed or not embeddings[at].equal(rows.to(embeddings))
            embeddings[at] = rows.to(embeddings)
    return TokenRows(before, len(embeddings), whole is not None, changed)


def copy_tokenizer(base: Path, adapter: Path, target: Path) -> None:
    """Put the tokenizer of a merged model into its folder: the adapter's, or the base's with the adapter's settings.

    Args:
        base: The transformer's folder of the base.
        adapter: The transformer's folder of the adapter.
        target: The transformer's folder of the merged model; another tokenizer's files in it are replaced.
    """
    for file in _tokenizer_files(target):
        file.unlink()
    for folder in (adapter,) if has_vocabulary(adapter) else (base, adapter):
        for file in _tokenizer_files(folder):
            shutil.copyfile(file, target / file.name)


def embed_tokens(body: Any, target: Path, base: Path, adapter: Path, rows: TokenRows | None) -> None:
    """Raise ``ValueError`` unless every token that the adapter's training added or moved has its embedding.

    A padding token needs none, because no text attends to it: it gets a row of zeros, so that its id can be looked up.

    Args:
        body: The live body, with the adapter.
        target: The transformer's folder of the merged model, with its tokenizer.
        base: The transformer's folder of the base.
        adapter: The transformer's folder of the adapter.
        rows: The rows of the token embeddings.
    """
    changed = any(_tokenizer_files(adapter))
    if rows is not None and rows.after > rows.before and not changed:
        raise ValueError(
            f"{adapter} carries embeddings for {rows.after - rows.before} tokens more than its base has "
            f"({rows.before}), and no tokenizer that defines them: put the files of the tokenizer that it was "
            "trained with into its folder"
        )
    if rows is None or not changed:
        return
    try:
        own = read_vocabulary(target)
    except ValueError as error:
        raise ValueError(
            f"the tokenizer in {adapter} cannot be read, so it is unknown whether training added tokens ({error}); "
            "remove its files from the folder to use the base's tokenizer"
        ) from error
    theirs = read_vocabulary(base) if has_vocabulary(base) else Vocabulary({}, {})
    homeless = _in_order(own, lambda token, row: row >= rows.after and theirs.ids.get(token) != row)
    if homeless and homeless == _padding(own):
        _add_rows(body, own.ids[homeless[0]] + 1)
        logger.info("%s: the padding token %r has no embedding and gets zeros", adapter, homeless[0])
    elif homeless:
        raise ValueError(_uncarried(adapter, len(homeless), homeless, rows.after))
    moved = _in_order(own, lambda token, row: theirs.ids.get(token, row) != row)
    if moved and not rows.carried:
        raise ValueError(
            f"the tokenizer in {adapter} gives {len(moved)} tokens another id than its base's does{_named(moved)}, and "
            "the adapter carries no embeddings for them: is it another base's? Give the base that it was trained on"
        )
    if theirs.ids and own != theirs:
        _report(own, theirs, adapter)


def _report(own: Vocabulary, theirs: Vocabulary, adapter: Path) -> None:
    added = _in_order(own, lambda token, _: token not in theirs.ids)
    lost = _in_order(theirs, lambda token, _: token not in own.ids)
    roles = [role for role in ROLES if own.special.get(role) != theirs.special.get(role)]
    logger.info(
        "the tokenizer is the adapter's, %s: %d tokens more than its base's%s, %d fewer%s, other special tokens: %s",
        adapter,
        len(added),
        _named(added),
        len(lost),
        _named(lost),
        ", ".join(roles) or "none",
    )


def _padding(vocabulary: Vocabulary) -> list[str]:
    """The padding token, if it has no other role: an end-of-text token would be attended to."""
    pad = vocabulary.special.get("pad")
    others = [pair for role, pair in vocabulary.special.items() if role != "pad"]
    return [] if pad is None or pad in others else [pad[0]]


def _add_rows(body: Any, size: int) -> None:
    """Append rows of zeros to the token embeddings."""
    import torch

    before = len(body.get_input_embeddings().weight)
    body.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        body.get_input_embeddings().weight[before:] = 0


def _in_order(vocabulary: Vocabulary, wanted: Callable[[str, int], bool]) -> list[str]:
    """The given tokens, sorted by id."""
    return sorted(
        (token for token, row in vocabulary.ids.items() if wanted(token, row)), key=vocabulary.ids.__getitem__
    )


def _taken(tensors: dict[str, torch.Tensor], names: Sequence[str]) -> torch.Tensor | None:
    """Remove tensors and return the first one found."""
    found = [tensors.pop(name) for name in names if name in tensors]
    return found[0] if found else None


def _indices(trained_rows: Any, number: int, size: int, adapter: Path) -> list[int]:
    lists = list(trained_rows.values()) if isinstance(trained_rows, dict) else [trained_rows]
    for rows in lists:  # one list for each module; heads are left out, tied ones have the same rows
        if isinstance(rows, list) and len(rows) == number and all(isinstance(row, int) for row in rows):
            if max(rows, default=0) >= size:
                raise ValueError(_uncarried(adapter, sum(row >= size for row in rows), (), size))
            return rows
    raise ValueError(
        f"{adapter} has {number} trained rows of the token embeddings, and its trainable_token_indices name others: "
        f"{trained_rows!r}"
    )


def _uncarried(adapter: Path, number: int, tokens: Sequence[str], rows: int) -> str:
    without = ", or remove the tokenizer's files from its folder to leave these tokens out" if tokens else ""
    return (
        f"the training of {adapter} added {number} token{'s' if number != 1 else ''}{_named(tokens)}, and the adapter "
        f"does not carry their embeddings (there are {rows} rows): save it with them "
        f"(model.save_pretrained(..., save_embedding_layers=True)), give a base that was resized for it{without}"
    )


def _named(tokens: Iterable[str]) -> str:
    tokens = list(tokens)
    return (
        f" ({', '.join(map(repr, tokens[:_EXAMPLES]))}{', ...' if len(tokens) > _EXAMPLES else ''})" if tokens else ""
    )


def _tokenizer_files(folder: Path) -> list[Path]:
    return sorted({file for pattern in _TOKENIZER for file in folder.glob(pattern) if file.is_file()})
