"""Writes a tiny retriever and a tiny language model with the layout of e5-mistral-7b-instruct and BioMistral-7B."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import MistralConfig, MistralForCausalLM, MistralModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar


def write_models(folder: str | Path, texts: Iterable[str]) -> tuple[str, str]:
    """Write both models with random weights.

    Args:
        folder: The folder to make; ``retriever`` and ``language-model`` are in it.
        texts: Their words are the vocabulary.

    Returns:
        The folders of the retriever (``MistralModel``, last-token pooling) and of the language model
        (``MistralForCausalLM``).
    """
    disable_progress_bar()
    tokenizer = _tokenizer(texts)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=None,
        initializer_range=0.3,
    )
    retriever, language_model = Path(folder, "retriever"), Path(folder, "language-model")
    torch.manual_seed(0)
    _save(Path(folder, "plain"), MistralModel(config), tokenizer)
    transformer = Transformer(str(Path(folder, "plain")), max_seq_length=64)
    pooling = Pooling(config.hidden_size, pooling_mode="lasttoken")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(str(retriever))
    torch.manual_seed(1)
    _save(language_model, MistralForCausalLM(config), tokenizer)
    return str(retriever), str(language_model)


def _tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def _save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
