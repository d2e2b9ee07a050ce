"""AdamW's kinds: that a continuation is bit for bit, what 8 bits cost in accuracy and save in memory, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from smolforge.errors import RecipeError
from smolforge.recipe import OptimSection
from smolforge.training.adamw import MOMENTS, make_adamw, moment_bytes, moments, put_back

pytest.importorskip("bitsandbytes", reason="smolforge[quantize] is not installed")

KINDS = ("adamw", "adamw_8bit")  # those that run on a CPU


def small() -> nn.Sequential:
    """A matrix of 64 x 80 = 5,120 weights, large enough for 8-bit moments, in 20 blocks; the others are not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(80, 64), nn.LayerNorm(64), nn.Linear(64, 4))


def optimizer_of(model: nn.Module, kind: str, **settings: Any) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "peak": 1e-2, "weight_decay": 0.1}, {"params": others, "peak": 1e-2, "weight_decay": 0.0}]
    return make_adamw(OptimSection.model_validate({"kind": kind, **settings}), groups)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Least squares on the same 64 examples, the rate falling from step to step."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 80, generator=generator), torch.randn(64, 4, generator=generator)
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] / (1 + step / 10)
        (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_is_bit_for_bit(kind):
    whole, first = small(), small()
    train(whole, once := optimizer_of(whole, kind), range(20))
    train(first, before := optimizer_of(first, kind), range(10))
    saved = {name: {k: t.clone() for k, t in moments(before, p).items()} for name, p in first.named_parameters()}
    second = small()
    second.load_state_dict(first.state_dict())
    after = optimizer_of(second, kind)
    for name, parameter in second.named_parameters():
        put_back(after, parameter, saved[name])
        assert all(torch.equal(tensor, saved[name][key]) for key, tensor in moments(after, parameter).items())
    train(second, after, range(10, 20))
    for (name, a), b in zip(whole.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
        ours, theirs = moments(once, a), moments(after, b)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_without_moments_is_another(kind):
    """That the test before can fail."""
    whole, first = small(), small()
    train(whole, optimizer_of(whole, kind), range(20))
    train(first, optimizer_of(first, kind), range(10))
    train(first, optimizer_of(first, kind), range(10, 20))
    assert not any(torch.equal(a, b) for a, b in zip(whole.parameters(), first.parameters(), strict=True))


def test_adamw_is_torchs():
    ours, theirs = small(), small()
    train(ours, optimizer_of(ours, "adamw", betas=(0.8, 0.95), eps=1e-6), range(5))
    groups = optimizer_of(theirs, "adamw").param_groups
    plain = [{key: group[key] for key in ("params", "peak", "weight_decay")} for group in groups]
    train(theirs, torch.optim.AdamW(plain, betas=(0.8, 0.95), eps=1e-6, fused=True), range(5))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_8_bits_follow_32():
    """After twenty steps, as a share of the way that each tensor went with AdamW."""
    start, plain, eight = small(), small(), small()
    train(plain, optimizer_of(plain, "adamw"), range(20))
    train(eight, optimizer_of(eight, "adamw_8bit"), range(20))
    for (name, a), b, c in zip(plain.named_parameters(), eight.parameters(), start.parameters(), strict=True):
        apart = float((a - b).detach().norm() / (a - c).detach().norm())
        low, high = (0.01, 0.04) if name == "0.weight" else (0, 0.01)  # measured 0.024; 0.002 to 0.005 where moments have 32 bits
        assert low < apart < high, name


def test_settings_arrive():
    for kind in KINDS:
        group = optimizer_of(small(), kind, betas=(0.8, 0.95), eps=1e-6).param_groups[0]
        assert (group["betas"], group["eps"], group["weight_decay"], group["peak"]) == ((0.8, 0.95), 1e-6, 0.1, 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_flat_tensors_and_empty_before_the_first_step(kind):
    model = small()
    optimizer = optimizer_of(model, kind)
    assert all(moments(optimizer, p) == {} for p in model.parameters())
    assert not optimizer.state, "looking made a state"
    train(model, optimizer, range(3))
    for parameter in model.parameters():
        found = moments(optimizer, parameter)
        assert set(found) <= set(MOMENTS)
        assert int(found["step"]) == 3


@pytest.mark.parametrize(("kind", "eight_bits"), [("adamw", 0), ("adamw_8bit", 1)])
def test_bytes(kind, eight_bits):
    """Only the first matrix has 4,096 weights or more: 2 x 5,120 bytes and 2 x 20 scales of 4."""
    model = small()
    optimizer = optimizer_of(model, kind)
    train(model, optimizer, range(1))
    small_ones = 0
    for parameter in model.parameters():
        found = {key: tensor for key, tensor in moments(optimizer, parameter).items() if key != "step"}
        size = sum(tensor.nbytes for tensor in found.values())
        assert size == moment_bytes(parameter.numel(), OptimSection(kind=kind))
        small_ones += all(tensor.dtype == torch.float32 for tensor in found.values())
    assert small_ones == 6 - eight_bits
    assert moment_bytes(5120, OptimSection(kind="adamw_8bit")) == 2 * 5120 + 2 * 20 * 4
    assert moment_bytes(5120, OptimSection()) == moment_bytes(5120, OptimSection(kind="paged_adamw")) == 8 * 5120


@pytest.mark.parametrize(("kind", "mend"), [("paged_adamw", "adamw_8bit or adamw"), ("paged_adamw_8bit", "adamw_8bit or adamw")])
def test_paged_kinds_are_refused_on_a_cpu(kind, mend):
    """bitsandbytes would go on with moments that are not paged."""
    with pytest.raises(RecipeError, match=rf"optim.kind: {kind} does not run on cpu; use {mend}"):
        optimizer_of(small(), kind)


def test_8_bits_are_refused_where_nothing_computes_them():
    with pytest.raises(RecipeError, match=r"optim.kind: adamw_8bit does not run on meta; use adamw$"):
        optimizer_of(small().to("meta"), "adamw_8bit")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RecipeError, match=r"optim.kind: needs the bitsandbytes package .*; pip install 'smolforge\[quantize\]'"):
        optimizer_of(small(), "adamw_8bit")
    optimizer_of(small(), "adamw")
