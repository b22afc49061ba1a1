"""The kernel's arithmetic: on a GPU where there is one, else step by step in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which torch brings along on Linux")

from pyterrier_merge.merging.one_pass import interpolate
from pyterrier_merge.methods import blend, get_method, linear_divisor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
TYPES = [(FLOAT, FLOAT, FLOAT), (HALF, HALF, HALF), (BRAIN, BRAIN, FLOAT), (BRAIN, FLOAT, HALF), (HALF, BRAIN, FLOAT)]
if DEVICE == "cuda":  # the interpreter cuts numbers off where it makes bfloat16 of them
    TYPES += [(BRAIN, BRAIN, BRAIN), (FLOAT, BRAIN, BRAIN)]


def pair(size, *dtypes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).to(DEVICE, dtype) for dtype in dtypes]


def squares(source, domain, out):
    pairs = [(source, 0), (domain, 0), (source, source), (source, domain), (out, source), (out, domain)]
    return torch.stack([(one.double() - two).square().sum() for one, two in pairs])


@pytest.mark.parametrize("size", [1, 8192, 9001], ids=str)
@pytest.mark.parametrize("weights", [(0.4, 0.6), (3.0, 1.0), (1.5, -0.5)])
@pytest.mark.parametrize("dtypes", TYPES, ids=str)
def test_the_merge_is_rounded_once_and_measured(dtypes, weights, size):
    source, domain = pair(size, *dtypes[:2])
    out = torch.full((size,), torch.nan, dtype=dtypes[2], device=DEVICE)
    total = linear_divisor(weights, {})
    found = interpolate(out, source, domain, weights, total=total)
    expected = blend([source.cpu(), domain.cpu()], get_method("linear"), weights).to(dtypes[2])
    if DEVICE == "cuda":
        assert torch.equal(out.cpu(), expected)
    else:  # the interpreter rounds both products
        rounding = torch.finfo(dtypes[2]).eps
        torch.testing.assert_close(out, expected, rtol=rounding, atol=rounding)
    torch.testing.assert_close(found, squares(source, domain, out), rtol=1e-5, atol=1e-12)


def test_without_division_weights_are_what_they_are():
    source, domain = pair(10, torch.float32, torch.float32)
    out = torch.empty(10, device=DEVICE)
    interpolate(out, source, domain, (3.0, 1.0), total=linear_divisor((3.0, 1.0), {"normalize": False}))
    torch.testing.assert_close(out, 3 * source + domain)


def test_a_single_model_is_written_to_the_bit():
    source, domain = pair(100, torch.float32, torch.float32)
    source[0], domain[0], domain[1] = -0.0, torch.inf, torch.nan
    out = torch.empty(100, device=DEVICE)
    for exact, model in enumerate((source, domain)):
        interpolate(out, source, domain, (1.0 - exact, float(exact)), exact=exact)
        assert torch.equal(out.view(torch.int32), model.view(torch.int32))


def test_who_holds_a_copy_can_tell_that_it_was_written_to():
    source, domain = pair(10, torch.float32, torch.float32)
    out = torch.empty(10, device=DEVICE)
    before = out._version
    interpolate(out, source, domain, (0.5, 0.5))
    assert out._version > before


def test_what_does_not_lie_in_one_piece_is_not_written_to():
    source, domain = (model.view(5, 2) for model in pair(10, torch.float32, torch.float32))
    with pytest.raises(RuntimeError, match="view"):
        interpolate(torch.empty(2, 5, device=DEVICE).T, source, domain, (0.5, 0.5))


def test_what_is_not_finite_shows_in_the_squares():
    source, domain = pair(5000, torch.float32, torch.float32)
    domain[4321] = torch.nan
    out = torch.empty(5000, device=DEVICE)
    norm, other, _, apart, to_source, to_domain = interpolate(out, source, domain, (0.5, 0.5))
    assert norm.isfinite()
    assert torch.stack([other, apart, to_source, to_domain]).isnan().all()


def test_a_tensor_without_elements_and_one_that_lies_otherwise():
    nothing = torch.empty(0, device=DEVICE)
    assert interpolate(nothing, nothing, nothing, (0.5, 0.5)).tolist() == [0.0] * 6
    source, domain = (model.reshape(20, 5).T for model in pair(100, torch.float32, torch.float32))
    out = torch.empty(5, 20, device=DEVICE)
    interpolate(out, source, domain, (0.5, 0.5))
    torch.testing.assert_close(out, (source + domain) / 2)


def test_the_kernel_compiles_without_a_gpu_and_rounds_as_it_says():
    program = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pyterrier_merge.merging.one_pass import _kernel
signature = dict.fromkeys(("divides", "exact", "lanes", "steps"), "constexpr")
signature |= dict.fromkeys(("out", "source", "domain"), "*bf16") | {"sums": "*fp32", "elements": "i32"}
signature |= dict.fromkeys(("own", "other", "total"), "fp32")
source = ASTSource(_kernel, signature, {"divides": True, "exact": -1, "lanes": 1024, "steps": 8})
code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False}).asm["ptx"]
print([len(re.findall(operation, code)) for operation in ("fma", r"cvt\\.rn\\.bf16", r"div\\.rn", r"div\\.full")])
"""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    each = 1024 // (4 * 32)  # elements of a thread, of four warps
    assert ran.stdout.strip() == str([each, each, each, 0])
