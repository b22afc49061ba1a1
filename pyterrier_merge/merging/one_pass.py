"""A linear merge of two models in one pass over a GPU's memory, distances included: a kernel of Triton's.

torch reads and writes a tensor eight times for that, which is what the next pair of alphas costs where all weights lie
on the GPU already (see ``experiments/benchmarks/merging.py``).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.graph import increment_version

_LANES, _STEPS = 1024, 8  # a program takes so many elements at a time, and so many times


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

    The second product is added before it is rounded, as torch does on a CPU, so that the numbers are those of a CPU.

    Args:
        out: Where to write: contiguous, on a GPU, of any floating-point type.
        source: Of the same shape, on the same device, of any floating-point type.
        domain: Likewise.
        weights: Of the two.
        total: What the sum is divided by; None for no division.
        exact: 0 to write the source itself, to the bit, 1 for the domain model.

    Returns:
        ``(6,)`` float64 on the device: squared norms of source and domain model, squared distances of the source to
        each, and of ``out``, as it is held, to each.
    """
    programs = max(1, triton.cdiv(out.numel(), _LANES * _STEPS))
    sums = torch.empty(programs, 6, dtype=torch.float32, device=out.device)
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        _kernel[(programs,)](
            out.view(-1),  # an error where it is not contiguous
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
    increment_version(out)  # others go by it, who hold a copy: torch has not seen that it was written to
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
