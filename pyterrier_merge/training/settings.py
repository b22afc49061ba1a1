"""The settings of trainings, one class for each objective. Pure data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(BaseModel):
    """Settings of every training: AdamW, a linear warm-up and a linear decay to 0, gradients clipped to norm 1.

    Attributes:
        steps: Optimizer steps.
        batch_size: Texts, pairs or windows of a batch.
        learning_rate: Peak of the learning rate.
        warmup: Steps over which the learning rate rises, or a share of all steps when it is below 1.
        weight_decay: AdamW's decay of the matrices; biases and normalisations have none.
        max_length: Tokens of a text or window at most, prompt and special tokens counted.
        seed: Decides everything that is drawn at random.
        dtype: ``float32``, ``bfloat16`` (computed in bfloat16, updated in float32), or ``auto``: bfloat16 where the
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
    ones; what was tried is in ``experiments/benchmarks/results/domain_training.json``.

    Attributes:
        objective: Names this kind of training.
        steps: Optimizer steps of the whole model; ten passes over the texts and 800 at most when left out.
        batch_size: Windows of a batch; 32, or fewer of more than 64 tokens, when left out.
        learning_rate: Peak of the learning rate of the whole model.
        head_steps: Steps in which the head alone learns first; none where the base brings its own head.
        head_learning_rate: Peak of those steps.
        mask_probability: Share of the tokens to predict.
        max_length: Tokens of a window at most. When left out, what three texts of four fit into: at least 64, at most
            512 and what the retriever reads.
        packing: ``document``: one text a window, which is what a retrieval model encodes; a longer text is cut into
            several of like length. ``block``: texts joined and cut into windows of ``max_length``.
        dropout: Of the hidden states; attention has none.
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
        objective: Names this kind of training.
        steps: Optimizer steps; ten passes over the texts and 800 at most when left out.
        batch_size: Windows of a batch; 32, or fewer of more than 64 tokens, when left out.
        max_length: Tokens of a window at most. When left out, what three texts of four fit into: at least 64, at most
            512 and what the retriever reads.
        packing: ``document``: one text a window; ``block``: texts joined and cut into windows of ``max_length``.
        rank: Train a LoRA adapter of this rank and merge it into the weights; 0 trains all weights. When left out, 16
            for models of more than a billion parameters, and 0 for smaller ones.
        checkpointing: Recompute activations in the backward pass: less memory, a third more time.
    """

    objective: Literal["causal"] = "causal"

    learning_rate: Rate = 2e-5
    packing: Literal["document", "block"] = "document"
    rank: Whole | None = None
    checkpointing: bool = False


class ContrastiveTraining(TrainingSettings):
    """What contrastive trainings share: each query against the other documents of its batch (InfoNCE).

    Attributes:
        batch_size: Queries of a batch.
        temperature: Scores are divided by it before the softmax.
        negatives: Hard negatives of a query, where the pairs have any.
        accumulation: Batches whose gradients make one step; each has its own negatives. Several processes share them.
        cache: Texts that go through the model at a time, by gradient caching (Gao et al., 2021): large batches in
            little memory, for two forward passes. All at once when left out.
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
        objective: Names this kind of training.
        items: Documents to draw; those of the split ``train`` of :func:`pyterrier_merge.known_items` train.
        query: The kind of query; see :func:`pyterrier_merge.known_items`.
        rank: Train a LoRA adapter of this rank and merge it into the weights; 0 trains all weights but the embeddings.
        dropout: Of the adapter.
    """

    objective: Literal["known-items"] = "known-items"

    learning_rate: Rate = 2e-5
    items: Count = 12_000
    query: str = "drawn"
    rank: Whole = 0
    dropout: Share = 0.0


class LoRATraining(ContrastiveTraining):
    """A low-rank adapter (Hu et al., 2022) trained on labelled pairs.

    The defaults suit small encoders; ``experiments/lora/`` holds the settings of arXiv 2509.21966 for 7B models.

    Attributes:
        rank: Rank of the adapter's matrices.
        alpha: The adapter counts ``alpha / rank`` times.
        dropout: Of the adapter's input.
        target_modules: Names of the modules that are adapted; every linear module of the layers when left out.
        evaluate_every: Steps from one measurement on the dev queries to the next, where there are any.
        patience: Measurements without a gain after which the training stops; never when left out.
        stop_at: Stop after so many of ``steps``, with the learning rate on its way down.
        paper_prompts: Write prompts and ends of texts as the paper's training scripts did: a literal backslash and n
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
            raise ValueError(f"stop_at={self.stop_at} comes after the last of the {self.steps} steps: raise 'steps'")
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
