"""Settings of trainings, one class per objective. Pure data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(BaseModel):
    """Settings of all trainings: AdamW, linear warm-up and linear decay to 0, gradients clipped to norm 1.

    Attributes:
        steps: Optimizer steps.
        batch_size: Texts, pairs or windows per batch.
        learning_rate: Peak learning rate.
        warmup: Steps of the learning rate's warm-up, or a share of all steps if below 1.
        weight_decay: AdamW's weight decay of matrices; biases and normalisations have none.
        max_length: Maximum tokens of a text or window, including prompt and special tokens.
        seed: Random seed of all draws.
        dtype: ``float32``, ``bfloat16`` (computed in bfloat16, updated in float32), or ``auto``: bfloat16 if the
            device has instructions for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Rate = 5e-5
    warmup: Annotated[float, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    max_length: Annotated[int, Field(ge=3, strict=True)] | None = None
    seed: Whole = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class MaskedTraining(TrainingSettings):
    """Masked-language-model pretraining of an encoder (Devlin et al., 2019), continued on unlabelled text.

    The defaults are made for four minutes on two cores with short texts, and read at most twice as many tokens of long
    ones; the settings that were tried are in ``experiments/benchmarks/results/domain_training.json``.

    Attributes:
        objective: Name of this kind of training.
        steps: Optimizer steps of the whole model; when left out, ten passes over the texts, but at most 800 steps.
        batch_size: Windows per batch; when left out, 32, or fewer if they have more than 64 tokens.
        learning_rate: Peak learning rate of the whole model.
        head_steps: Steps that first train only the head; not used if the base has a head.
        head_learning_rate: Peak learning rate of these steps.
        mask_probability: Share of the tokens to predict.
        max_length: Maximum tokens of a window. When left out, three of four texts fit into one: at least 64, at most
            512, and at most what the retriever reads.
        packing: ``document``: one text per window, which is what a retrieval model encodes; a longer text is cut into
            windows of similar length. ``block``: texts are joined and cut into windows of ``max_length``.
        dropout: Dropout of the hidden states; attention has none.
    """

    objective: Literal["masked"] = "masked"

    learning_rate: Rate = 7e-5
    head_steps: Whole = 100
    head_learning_rate: Rate = 2e-3
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    packing: Literal["document", "block"] = "document"
    dropout: Share = 0.1


class CausalTraining(TrainingSettings):
    """Next-token pretraining of a decoder, continued on unlabelled text.

    Attributes:
        objective: Name of this kind of training.
        steps: Optimizer steps; when left out, ten passes over the texts, but at most 800 steps.
        batch_size: Windows per batch; when left out, 32, or fewer if they have more than 64 tokens.
        max_length: Maximum tokens of a window. When left out, three of four texts fit into one: at least 64, at most
            512, and at most what the retriever reads.
        packing: ``document``: one text per window. ``block``: texts are joined and cut into windows of ``max_length``.
        rank: Train a LoRA adapter of this rank and merge it into the weights; 0 trains all weights except the input
            embeddings. When left out, 16 for models with more than a billion parameters, 0 for smaller ones.
        checkpointing: Recompute activations in the backward pass: less memory, a third more time.
    """

    objective: Literal["causal"] = "causal"

    learning_rate: Rate = 2e-5
    packing: Literal["document", "block"] = "document"
    rank: Whole | None = None
    checkpointing: bool = False


class ContrastiveTraining(TrainingSettings):
    """Shared settings of contrastive trainings: each query against the other documents of its batch (InfoNCE).

    Attributes:
        batch_size: Queries per batch.
        temperature: Scores are divided by it before the softmax.
        negatives: Hard negatives per query, if the pairs have any.
        accumulation: Batches per step, each with its own negatives (gradient accumulation). Processes share them.
        cache: Texts per forward pass with gradient caching (Gao et al., 2021): large batches in little memory, but two
            forward passes. No caching when left out.
        checkpointing: Recompute activations in the backward pass: less memory, a third more time.
    """

    steps: Count = 90
    batch_size: Count = 64
    temperature: Rate = 0.05
    negatives: Whole = 0
    accumulation: Count = 1
    cache: Count | None = None
    checkpointing: bool = False


class KnownItemTraining(ContrastiveTraining):
    """Contrastive training on known items: parts of documents against the rest of them, without labels.

    Attributes:
        objective: Name of this kind of training.
        items: Documents to draw; the split ``train`` of :func:`pyterrier_merge.known_items` is trained on.
        query: The kind of query; see :func:`pyterrier_merge.known_items`.
        rank: Train a LoRA adapter of this rank and merge it into the weights; 0 trains all weights but the embeddings.
        dropout: Dropout of the adapter's input.
    """

    objective: Literal["known-items"] = "known-items"

    learning_rate: Rate = 2e-5
    items: Count = 12_000
    query: str = "drawn"
    rank: Whole = 0
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _drops_from_an_adapter(self) -> KnownItemTraining:
        if self.dropout and not self.rank:
            raise ValueError("dropout is of an adapter's input: set 'rank', or leave 'dropout' out")
        return self


class LoRATraining(ContrastiveTraining):
    """A low-rank adapter (Hu et al., 2022) trained on labelled pairs.

    The defaults suit small encoders; ``experiments/lora/`` holds the settings of arXiv 2509.21966 for 7B models.

    Attributes:
        rank: Rank of the adapter's matrices.
        alpha: The adapter's output is scaled by ``alpha / rank``.
        dropout: Dropout of the adapter's input.
        target_modules: Names of the modules to adapt; all linear modules of the layers when left out.
        evaluate_every: Steps between measurements on the dev queries, if there are any.
        patience: Measurements without improvement after which the training stops; never for None (YAML: ``null``).
        stop_at: Stop after this many of ``steps``, before the learning rate has decayed to 0.
        paper_prompts: Write prompts and ends of texts as the paper's training scripts: a literal backslash and n
            instead of the line break, no space after the query prompt's colon, and the end-of-sequence token twice.
    """

    steps: Count = 80
    learning_rate: Rate = 5e-4
    warmup: Annotated[float, Field(ge=0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.1
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    evaluate_every: Count = 10
    patience: Count | None = 3
    stop_at: Count | None = None
    paper_prompts: bool = False

    @model_validator(mode="after")
    def _stops_in_time(self) -> LoRATraining:
        if self.stop_at is not None and self.stop_at > self.steps:
            raise ValueError(f"stop_at={self.stop_at} is more than the {self.steps} steps: increase 'steps'")
        return self


def _objective(given: Any) -> str:
    return str(given.get("objective", "masked") if isinstance(given, dict) else getattr(given, "objective", None))


OBJECTIVES: dict[str, type[MaskedTraining | CausalTraining | KnownItemTraining]] = {
    "masked": MaskedTraining,
    "causal": CausalTraining,
    "known-items": KnownItemTraining,
}
DomainSettings = Annotated[
    Annotated[MaskedTraining, Tag("masked")]
    | Annotated[CausalTraining, Tag("causal")]
    | Annotated[KnownItemTraining, Tag("known-items")],
    Discriminator(_objective),
]
