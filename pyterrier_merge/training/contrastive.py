"""Contrastive training (InfoNCE) of a retrieval model on pairs: all layers or an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.loading import load_retriever
from pyterrier_merge.encoding.text_model import cast
from pyterrier_merge.merging.places import is_final_norm, layer_of
from pyterrier_merge.models import locate_model
from pyterrier_merge.precision import resolve_dtype
from pyterrier_merge.training.adapter import lora_config
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.engine import Course, Dev, Loop, fit, recompute_activations
from pyterrier_merge.training.pair_batches import PairBatches, Texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from pyterrier_merge.training.pairs import TrainingPairs
    from pyterrier_merge.training.settings import ContrastiveTraining

GROUP = 16  # texts per forward pass


def load_for_training(
    encoder: E5Encoder,
    settings: ContrastiveTraining,
    device: str,
    *,
    dtype: Literal["float32", "stored"] | None = None,
    paper: bool = False,
) -> tuple[SentenceTransformer, Texts, torch.dtype]:
    """Load a retrieval model for training, with the conversion of texts to its token ids.

    Args:
        encoder: Gives the model, prompts and maximum length.
        settings: Maximum length, compute type and recomputation of activations.
        device: ``cpu`` or ``cuda``.
        dtype: Type of the transformer's weights: ``float32``, ``stored`` (as in its files), or the compute type when
            None.
        paper: See :class:`Texts`.

    Returns:
        The model, the conversion of texts to token ids, and the type to compute in.
    """
    computed = resolve_dtype(settings.dtype, device)
    given = encoder.contract_settings()
    if settings.max_length is not None:
        given["max_length"] = settings.max_length
    folder = locate_model(encoder.model)
    wanted = computed if dtype is None else torch.float32
    model, contract = load_retriever(
        folder, encoder.model, device=device, dtype=None if dtype == "stored" else wanted, **given
    )
    model.model_card_data.model = None  # a reference cycle would hold the weights until garbage collection
    body: Any = model.transformers_model
    if dtype != "stored":
        cast(body, wanted)
    for module in list(model)[1:]:
        module.float()  # as in encoders
    if device == "cpu":  # there, the backward pass of fused attention is slower
        body.set_attn_implementation("eager")
    if settings.checkpointing:
        recompute_activations(body)
    return model, Texts(model.tokenizer, contract, paper), computed


def train_on_pairs(
    model: SentenceTransformer,
    pairs: TrainingPairs,
    texts: Texts,
    settings: ContrastiveTraining,
    dtype: torch.dtype,
    device: str,
    checkpoints: Checkpoints,
    *,
    symmetric: bool = False,
    stop_at: int | None = None,
    dev: Dev | None = None,
    description: str,
    verbose: bool | None,
) -> Course:
    """Train all weights of a model that require gradients on pairs."""
    steps = min(settings.steps, stop_at or settings.steps)
    batches = PairBatches(pairs, texts, settings, steps * settings.accumulation)
    further = {"stop_at": stop_at, "accumulation": settings.accumulation}
    loop = Loop.of(settings, steps=settings.steps, dtype=dtype, device=device, **further)
    loss = contrastive_loss(model, settings, symmetric=symmetric)
    return fit(model, loss, batches, loop, checkpoints, dev=dev, description=description, verbose=verbose)


def prepare(model: SentenceTransformer, name: str, rank: int, dropout: float = 0.0) -> Any:
    """Choose the weights that a domain model's training changes: an adapter, or all layers.

    Embeddings are frozen, because a merge takes them from the source; so are the modules after the transformer.

    Args:
        model: Live model.
        name: Name of the model, for messages.
        rank: Rank of the adapter; 0 trains all layers.
        dropout: Dropout of the adapter's input.

    Returns:
        peft's wrapper of the transformer, which can merge the adapter in; None for all layers.
    """
    model.requires_grad_(False)
    body: Any = model.transformers_model
    if rank:
        from peft import get_peft_model

        return get_peft_model(body, lora_config(body, name, rank=rank, alpha=2 * rank, dropout=dropout))
    for parameter_name, weight in body.named_parameters():
        weight.requires_grad_(layer_of(parameter_name) is not None or is_final_norm(parameter_name))
    return None


def contrastive_loss(model: SentenceTransformer, settings: ContrastiveTraining, *, symmetric: bool = False) -> Any:
    """Return the loss function of a model and a batch: InfoNCE over inner products, as in retrieval.

    With temperature t it equals the loss of Tevatron, and ``MultipleNegativesRankingLoss`` of sentence-transformers
    with ``scale = 1 / t``.

    Args:
        model: The model under training.
        settings: Temperature and gradient caching.
        symmetric: Also contrast each text's query with the other queries.
    """
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.util import dot_score

    told: dict[str, Any] = {"scale": 1 / settings.temperature, "similarity_fct": dot_score}
    if symmetric:
        told |= {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    loss: Any
    if settings.cache:
        told["mini_batch_size"] = settings.cache
        loss = losses.CachedMultipleNegativesRankingLoss(model, **told)
    else:
        loss = losses.MultipleNegativesRankingLoss(model, **told)

    def of_batch(live: Any, batch: dict[str, dict[str, torch.Tensor]]) -> torch.Tensor:
        queries, *columns = batch.values()
        value: torch.Tensor
        if settings.cache:
            loss.model = live  # wrapped if several processes train
            value = loss([queries, *columns], None)
            return value
        documents = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
        vectors = [_vectors(live, queries), *_vectors(live, documents).chunk(len(columns))]
        value = loss.compute_loss_from_embeddings(vectors, None)
        return value

    return of_batch


def _vectors(live: Any, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the vectors of texts, computed in groups of similar length, because half of a batch is padding."""
    lengths: Any
    order: Any
    lengths, order = features["attention_mask"].sum(dim=1).sort(stable=True)
    parts = [
        live({name: tensor[rows, : int(of_rows[-1])] for name, tensor in features.items()})["sentence_embedding"]
        for rows, of_rows in zip(order.split(GROUP), lengths.split(GROUP), strict=True)
    ]
    return torch.cat(parts)[order.argsort()]
