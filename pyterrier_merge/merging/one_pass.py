"""A linear merge of two models in one pass over a GPU's memory, distances included: a Triton kernel.

torch reads and writes a tensor eight times for this. If all weights are on the GPU already, this memory traffic is the
whole cost of the next pair of alphas (see ``experiments/benchmarks/merging.py``).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.graph import increment_version

_LANES, _STEPS = 1024, 8  # elements that a program takes at a time, and number of times


def interpolate(
    out: torch.Tensor,
    source: torch.Tensor,
    domain: torch.Tensor,
    weights: tuple[float, float],
    *,
    total: float | None = None,
    exact: int | None = None,
) -> torch.Tensor:
    """Write ``weights[0] * source + weights[1] * domain`` to ``out``: computed in float32, rounded once.

    The second product is added before it is rounded, as torch does on a CPU, so that the results equal a CPU's.

    Args:
        out: Where to write: contiguous, on a GPU, of any floating-point type.
        source: Of the same shape, on the same device, of any floating-point type.
        domain: Of the same shape, on the same device, of any floating-point type.
        weights: Of the source and of the domain model.
        total: The sum is divided by this number; None for no division.
        exact: 0 to copy the source bit for bit, 1 to copy the domain model.

    Returns:
        ``(6,)`` float64 on the device: squared norms of source and domain model, squared distances of the source to
        each, and of ``out``, as it is held, to each.
    """
    programs = max(1, triton.cdiv(out.numel(), _LANES * _STEPS))
    sums = torch.empty(programs, 6, dtype=torch.float32, device=out.device)
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        _kernel[(programs,)](
            out.view(-1),  # an error if it is not contiguous
            source.contiguous(),
            domain.contiguous(),
            sums,
            out.numel(),
            *weights,
            1.0 if total is None else total,
            divides=total is not None,
            exact=-1 if exact is None else exact,
            lanes=_LANES,
            steps=_STEPS,
            enable_fp_fusion=False,
        )
    increment_version(out)  # torch did not see the write; code that holds a copy checks the version
    return sums.double().sum(dim=0)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202 (Triton takes annotations for values of its own)
    out,  # noqa: ANN001
    source,  # noqa: ANN001
    domain,  # noqa: ANN001
    sums,  # noqa: ANN001
    elements,  # noqa: ANN001
    own,  # noqa: ANN001
    other,  # noqa: ANN001
    total,  # noqa: ANN001
    divides: tl.constexpr,
    exact: tl.constexpr,
    lanes: tl.constexpr,
    steps: tl.constexpr,
):
    program = tl.program_id(0)
    source_norm = tl.zeros((lanes,), tl.float32)
    domain_norm = tl.zeros((lanes,), tl.float32)
    apart = tl.zeros((lanes,), tl.float32)
    to_source = tl.zeros((lanes,), tl.float32)
    to_domain = tl.zeros((lanes,), tl.float32)
    for step in range(steps):
        places = (program.to(tl.int64) * steps + step) * lanes + tl.arange(0, lanes)
        inside = places < elements
        one = tl.load(source + places, inside, 0.0).to(tl.float32)
        two = tl.load(domain + places, inside, 0.0).to(tl.float32)
        if exact == 0:
            merged = one
        elif exact == 1:
            merged = two
        else:
            merged = tl.fma(two, other, one * own)
            if divides:
                merged = tl.div_rn(merged, total)
        written = merged.to(out.dtype.element_ty)
        tl.store(out + places, written, inside)
        held = written.to(tl.float32)
        source_norm += one * one
        domain_norm += two * two
        apart += (one - two) * (one - two)
        to_source += (held - one) * (held - one)
        to_domain += (held - two) * (held - two)
    first = sums + program * 6
    tl.store(first, tl.sum(source_norm))
    tl.store(first + 1, tl.sum(domain_norm))
    tl.store(first + 2, 0.0)
    tl.store(first + 3, tl.sum(apart))
    tl.store(first + 4, tl.sum(to_source))
    tl.store(first + 5, tl.sum(to_domain))
