"""Hours and memory of LoRA training at a 7B model's shape, by formula: nothing is run and nothing is loaded.

    python experiments/benchmarks/training_cost.py [--tflops 410] [--tokens 330] [--rank 16]

FLOP of a token: 2 for each weight forward, 2 backward (a frozen base needs no gradient of its weights) and, with
checkpointing, 2 for the second forward pass; attention on top. Memory: the base in bfloat16; adapter weights, gradients
and Adam's two moments in float32; activations of one layer, and with checkpointing the input of each layer.

The default rate is 60 % of 685 TFLOP/s, which encoding reached on one H200 with this package; TRAINING WAS NOT MEASURED
there. ``--tokens`` is the mean length of a passage.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "training_cost.json"
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped-query attention and a gated feed-forward network.

    Attributes:
        layers: How many.
        hidden: Width of the hidden states.
        keys: Width of keys and of values.
        inner: Width of the feed-forward network.
        vocabulary: Tokens that have an embedding.
    """

    layers: int = 32
    hidden: int = 4096
    keys: int = 1024
    inner: int = 14336
    vocabulary: int = 32000

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the seven projections of a layer."""
        h, k, f = self.hidden, self.keys, self.inner
        return [(h, h), (h, k), (h, k), (h, h), (h, f), (h, f), (f, h)]

    @property
    def weights(self) -> int:
        """Weights that a token is multiplied with."""
        return self.layers * sum(one * other for one, other in self.matrices)

    def adapter(self, rank: int) -> int:
        """Weights of an adapter on all seven projections."""
        return self.layers * sum(rank * (one + other) for one, other in self.matrices)


def cost(shape: Shape, *, passages: int, tokens: int, micro: int, rank: int, checkpointing: bool) -> dict[str, float]:
    """Return TFLOP and GiB of one optimizer step.

    Args:
        shape: The model.
        passages: Texts of a step, over all accumulated batches.
        tokens: Of each.
        micro: Texts whose activations are held at a time.
        rank: Of the adapter.
        checkpointing: Whether activations are computed twice.
    """
    passes = 6 if checkpointing else 4
    attention = 2 * tokens * shape.hidden * shape.layers  # scores and values, causal: half of the square each
    flop = passages * tokens * passes * (shape.weights + attention)
    base = 2 * (shape.weights + shape.vocabulary * shape.hidden)
    adapter = 16 * shape.adapter(rank)
    held = micro * tokens
    layer = held * (2 * (6 * shape.hidden + 2 * shape.keys + 3 * shape.inner) + 7 * 4 * rank)
    inputs = held * shape.hidden * 2 * shape.layers
    activations = inputs + layer if checkpointing else layer * shape.layers
    return {
        "tflop_a_step": flop / 1e12,
        "base_gib": base / GIB,
        "adapter_gib": adapter / GIB,
        "activations_gib": activations / GIB,
        "total_gib": (base + adapter + activations) / GIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=0.6 * 685, help="TFLOP a second that the GPU reaches")
    parser.add_argument("--tokens", type=int, default=330, help="mean tokens of a passage")
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    shape, rows = Shape(), []
    for checkpointing in (True, False):
        for tokens in (given.tokens, 512):
            one = cost(
                shape, passages=4 * 17 * 4, tokens=tokens, micro=4 * 17, rank=given.rank, checkpointing=checkpointing
            )  # four batches of four queries, each with sixteen passages
            step = one["tflop_a_step"] / given.tflops
            hours = {f"hours_{steps}_steps": steps * step / 3600 for steps in (63, 630)}
            rows.append({"tokens": tokens, "checkpointing": checkpointing, **one, "seconds_a_step": step, **hours})
    table = pd.DataFrame(rows).round(3)
    print(f"{shape.weights / 1e9:.2f} B weights in layers, {shape.adapter(given.rank) / 1e6:.1f} M of the adapter")
    print(table.to_markdown(index=False))
    written = {"shape": asdict(shape), "tflops": given.tflops, "rank": given.rank, "rows": table.to_dict("records")}
    write_file(RESULTS, json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
