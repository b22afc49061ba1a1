"""Merge methods against the formulas of their papers, and against mergekit called directly."""

import mergekit.merge_methods as mergekit
import pytest
import torch

from pyterrier_merge.methods import blend, get_method, list_methods

WEIGHTED = [name for name in list_methods() if get_method(name).weighted]


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 8, generator=generator) for _ in range(3)]


def test_every_method_that_mergekit_registers_and_that_merges_is_there():
    registered = {method.spec.name for method in mergekit.registered_methods()}
    assert set(list_methods()) == registered - {"passthrough"}
    assert {
        "linear",
        "slerp",
        "ties",
        "dare_ties",
        "della",
        "breadcrumbs",
        "model_stock",
        "sce",
        "karcher",
    } <= registered


def test_unknown_methods_are_named_with_the_known_ones():
    for name in ("average", "passthrough"):
        with pytest.raises(ValueError, match=f"unknown merge method '{name}'.*task_arithmetic"):
            get_method(name)


def test_linear_is_the_weighted_mean(tensors):
    source, domain, _ = tensors
    merged = blend([source, domain], get_method("linear"), [0.75, 0.25])
    torch.testing.assert_close(merged, 0.75 * source + 0.25 * domain)


def test_linear_divides_by_the_sum_of_its_weights(tensors):
    source, domain, _ = tensors
    linear = get_method("linear")
    torch.testing.assert_close(blend([source, domain], linear, [3, 1]), blend([source, domain], linear, [0.75, 0.25]))
    plain = blend([source, domain], linear, [3, 1], parameters={"normalize": False})
    torch.testing.assert_close(plain, 3 * source + domain)


def test_slerp_goes_along_the_great_circle(tensors):
    source, domain, _ = (tensor / tensor.norm() for tensor in tensors)
    merged = blend([source, domain], get_method("slerp"), [0.25, 0.75])
    whole = torch.acos((source * domain).sum())
    assert float(merged.norm()) == pytest.approx(1, abs=1e-5)
    assert float(torch.acos((merged * source).sum())) == pytest.approx(0.75 * float(whole), abs=1e-5)


def test_task_arithmetic_with_the_source_as_base_adds_a_share_of_the_difference(tensors):
    source, domain, _ = tensors
    merged = blend([source, domain], get_method("task_arithmetic"), [0.75, 0.25], parameters={"lambda": 2.0})
    torch.testing.assert_close(merged, source + 2 * 0.25 * (domain - source))


def test_task_arithmetic_with_a_base_adds_both_differences(tensors):
    source, domain, base = tensors
    merged = blend([source, domain], get_method("task_arithmetic"), [1, 0.5], base=base)
    torch.testing.assert_close(merged, base + (source - base) + 0.5 * (domain - base))


def test_ties_keeps_the_largest_differences(tensors):
    source, domain, _ = tensors
    merged = blend([source, domain], get_method("ties"), [0, 1], parameters={"density": 0.25, "normalize": False})
    difference = (domain - source).flatten()
    largest = difference.abs().argsort(descending=True)[:12]  # a quarter of 48
    expected = source.clone().flatten()
    expected[largest] += difference[largest]
    torch.testing.assert_close(merged.flatten(), expected)


@pytest.mark.parametrize("name", [name for name in list_methods() if get_method(name).random])
def test_random_methods_draw_the_same_for_the_same_seed_and_name_only(name, tensors):
    source, domain, _ = tensors
    method, settings = get_method(name), {"parameters": {"density": 0.5, "normalize": False}, "name": "a"}
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    first = blend([source, domain], method, [0.5, 0.5], **settings)
    assert torch.equal(torch.rand(1), before)  # the caller's own random numbers go on as if nothing had happened
    assert torch.equal(blend([source, domain], method, [0.5, 0.5], **settings), first)
    assert not torch.equal(blend([source, domain], method, [0.5, 0.5], **settings, seed=1), first)
    assert not torch.equal(blend([source, domain], method, [0.5, 0.5], **{**settings, "name": "b"}), first)


def test_random_methods_leave_the_generators_of_other_devices_alone(tensors, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _seed: pytest.fail("all GPUs were given a seed"))
    method = get_method("dare_linear")
    assert blend(tensors[:2], method, [0.5, 0.5], parameters={"density": 0.5}).shape == tensors[0].shape


@pytest.mark.parametrize("name", ["karcher", "model_stock", "sce", "ram", "multislerp", "nuslerp", "arcee_fusion"])
def test_methods_are_mergekits_own_to_the_bit(name, tensors):
    method = get_method(name)
    models = tensors if name in ("karcher", "model_stock", "multislerp") else tensors[:2]
    weights = [0.5, 0.25, 0.25][: len(models)] if method.weighted else None
    merged = blend([model.bfloat16() for model in models], method, weights)
    base = 0 if method.base == "required" else None
    parameters = {"weight": weights} if method.weighted else {}
    expected = mergekit.merge_tensors(
        [model.bfloat16().float() for model in models], name, parameters=parameters, base_index=base
    )
    assert merged.dtype == torch.float32
    assert torch.equal(merged, expected)
    assert not torch.equal(merged, models[0])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [(0.3, 0.7), (0.1, 0.7, 0.4), (1, 0.5, 0.25)])
def test_linear_is_mergekits_own_to_the_bit(weights, normalize, tensors):
    models = [model.bfloat16() for model in tensors[: len(weights)]]
    settings = {"weight": list(weights), "normalize": normalize}
    expected = mergekit.merge_tensors([model.float() for model in models], "linear", parameters=settings)
    memory = torch.full_like(expected, torch.nan)
    parameters = {"normalize": normalize}
    merged = blend(models, get_method("linear"), weights, parameters=parameters, memory=memory)
    assert merged is memory
    assert torch.equal(merged, expected)
    assert torch.equal(blend(models, get_method("linear"), weights, parameters=parameters), expected)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("linear", {"has_base": True}, "linear takes no base model"),
        ("slerp", {"num_domains": 2}, "slerp, with source and 2 domain models: .*2 inputs"),
        ("model_stock", {}, "model_stock, with source and 1 domain model: .*at least 3"),
        (
            "ties",
            {"parameters": {"densty": 0.5}},
            r"ties has no parameter 'densty'; did you mean 'density'\? it has .*density",
        ),
        ("ties", {"parameters": {"weight": 0.5}}, "ties has no parameter 'weight'"),
        ("ties", {"parameters": {"density": "much"}}, "ties: 'density' is 'much', expected float"),
        ("ties", {"parameters": {"density": float("nan")}}, "ties: 'density' is nan, expected a finite number"),
        ("task_arithmetic", {"parameters": {"lambda": "inf"}}, "task_arithmetic: 'lambda' is 'inf', expected a finite"),
        ("ties", {"parameters": {"density": [0.5, 0.5]}}, "'density' takes one value or 1, found"),
        ("ties", {"parameters": {"normalize": [True]}}, "'normalize' takes one value, found"),
        ("ties", {}, "alpha would change nothing.*'normalize': False"),
        ("nearswap", {}, "nearswap needs the parameter 't'"),
    ],
)
def test_what_does_not_go_with_a_method_is_said(name, settings, message):
    given = {"num_domains": 1, "has_base": False, "parameters": {}, **settings}
    with pytest.raises(ValueError, match=message):
        get_method(name).check(**given)


def test_a_sequence_gives_each_model_its_own_value(tensors):
    source, domain, base = tensors
    method = get_method("ties")
    parameters = {"density": [1.0, 0.25]}
    method.check(num_domains=1, has_base=True, parameters=parameters)
    both = blend([source, domain], method, [0.5, 0.5], base=base, parameters=parameters)
    assert not torch.equal(both, blend([source, domain], method, [0.5, 0.5], base=base, parameters={"density": 1.0}))
