"""Hours, memory and disk of a 7B model on one GPU, by formula: nothing is run and nothing is loaded.

    python experiments/benchmarks/gpu_cost.py [--tflops 505] [--training-tflops 410] [--tokens 320] [--rank 16]

FLOP of a token: 2 for each weight forward, 2 backward (a frozen base needs no gradient of its weights) and, with
checkpointing, 2 for the second forward pass; attention on top. Memory of training: the base in bfloat16; adapter
weights, gradients and Adam's two moments in float32; activations of one layer, and with checkpointing the input of each
layer. A sweep over 5 x 5 alphas computes 5 lower and 25 upper halves of the layers.

The default rates are those of an H200: 505 TFLOP/s is what encoding reached there with random weights (74 % of the
matrix rate of 685). Training is taken to reach 60 % of it; TRAINING WAS NOT MEASURED there. ``--tokens`` is the mean
length of a document.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "gpu_cost.json"
GIB = 2**30
COLLECTIONS = {
    "nfcorpus": 3_633,
    "scifact": 5_183,
    "a million documents": 1_000_000,
    "trec-cds-2016": 1_255_260,
    "miracl-ja": 6_953_614,
    "trec-pm-2017": 26_740_025,
}


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


def encoding(shape: Shape, *, documents: int, tokens: float, tflops: float) -> dict[str, float]:
    """Return hours and gigabytes of one pass over a collection, and of a sweep over 5 x 5 alphas.

    Args:
        shape: The model.
        documents: Of the collection.
        tokens: Of a document, on average.
        tflops: TFLOP a second that the GPU reaches.
    """
    attention = 2 * tokens * shape.hidden * shape.layers  # causal: half of the square of scores and of values
    hours = documents * tokens * 2 * (shape.weights + attention) / (tflops * 1e12) / 3600
    halves = (5 + 25) / 2
    return {
        "hours": hours,
        "hours_5x5_sweep": halves * hours,
        "hours_5x5_without_sharing": 25 * hours,
        "float32_gb": documents * shape.hidden * 4 / 1e9,
        "float16_gb": documents * shape.hidden * 2 / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=505, help="TFLOP a second of encoding; %(default)s")
    parser.add_argument("--training-tflops", type=float, default=0.6 * 685, help="of training; %(default)s")
    parser.add_argument("--tokens", type=int, default=320, help="mean tokens of a document; %(default)s")
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    shape, rows = Shape(), []
    passes = {
        name: encoding(shape, documents=documents, tokens=given.tokens, tflops=given.tflops)
        for name, documents in COLLECTIONS.items()
    }
    encoded = pd.DataFrame(passes).T.rename_axis("collection").reset_index()
    encoded.insert(1, "documents", list(COLLECTIONS.values()))
    print(encoded.round(3).to_markdown(index=False))
    for checkpointing in (True, False):
        for tokens in (given.tokens, 512):
            one = cost(
                shape, passages=4 * 17 * 4, tokens=tokens, micro=4 * 17, rank=given.rank, checkpointing=checkpointing
            )  # four batches of four queries, each with sixteen passages
            step = one["tflop_a_step"] / given.training_tflops
            hours = {f"hours_{steps}_steps": steps * step / 3600 for steps in (63, 630)}
            rows.append({"tokens": tokens, "checkpointing": checkpointing, **one, "seconds_a_step": step, **hours})
    table = pd.DataFrame(rows).round(3)
    print(f"{shape.weights / 1e9:.2f} B weights in layers, {shape.adapter(given.rank) / 1e6:.1f} M of the adapter")
    print(table.to_markdown(index=False))
    written = {
        "shape": asdict(shape),
        "encoding": {"tflops": given.tflops, "tokens": given.tokens, "rows": encoded.round(3).to_dict("records")},
        "training": {"tflops": given.training_tflops, "rank": given.rank, "rows": table.to_dict("records")},
    }
    write_file(RESULTS, json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
