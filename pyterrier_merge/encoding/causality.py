"""Whether a transformer reads from left to right only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_TOKENS = 8  # number of equal tokens at the start of two texts, and of different tokens after them


def looks_back(body: nn.Module) -> bool:
    """Whether a token's state depends only on that token and those before it. Measured, not read from a configuration.

    Runs two texts that differ in their second halves without a mask. If the model is causal, and only then, the states
    of their first halves are bit-identical.

    Args:
        body: The transformer, on its device. If its attention is not marked as causal, nothing is run.
    """
    if not any(getattr(module, "is_causal", False) is True for module in body.modules()):
        return False
    run: Any = body
    embeddings = run.get_input_embeddings().weight
    ids = torch.arange(1, 1 + 3 * _TOKENS, device=embeddings.device) % len(embeddings)
    start, one, other = ids.view(3, _TOKENS)
    with torch.inference_mode():
        states = [run(input_ids=torch.cat([start, end])[None]).last_hidden_state[0] for end in (one, other)]
    first, second = (state[:_TOKENS] for state in states)
    return torch.equal(first, second) and not torch.equal(states[0], states[1])
