"""Optimiser and schedule against torch's own and hand-computed values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from smolforge.recipe import OptimSection
from smolforge.training.optim import Optimizer, schedule


def small(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1)).to(dtype)


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        x = torch.randn(8, 4, dtype=next(model.parameters()).dtype)
        for half in x.split(4):  # two rows a step
            (model(half).float().square().sum() / 8).backward()
        optimizer.step(1.0)
        optimizer.forget()


def test_equals_adamw_with_clipping():
    ours, theirs = small(), small()
    section = OptimSection(lr=1e-2, weight_decay=0.1, clip=0.5)
    train(ours, Optimizer(ours, section), 5)
    decayed = [p for p in theirs.parameters() if p.ndim >= 2]
    plain = [p for p in theirs.parameters() if p.ndim < 2]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=1e-2)
    for step in range(5):
        torch.manual_seed(step)
        (theirs(torch.randn(8, 4)).square().sum() / 8).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        adamw.step()
        adamw.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_masters_accumulate_in_float32():
    model = small(torch.bfloat16)
    optimizer = Optimizer(model, OptimSection(lr=1e-6, clip=None))
    before = {name: master.clone() for name, master in optimizer.masters.items()}
    train(model, optimizer, 50)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert not torch.equal(before[name], optimizer.masters[name]), "fifty lost updates"
        assert torch.equal(parameter, optimizer.masters[name].bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_round_trip_continues_bit_for_bit(dtype):
    whole, first = small(dtype), small(dtype)
    a = Optimizer(whole, OptimSection(lr=1e-2))
    train(whole, a, 6)
    b = Optimizer(first, OptimSection(lr=1e-2))
    train(first, b, 3)
    saved = {name: tensor.clone() for name, tensor in b.state().items()}
    second = small(dtype)
    second.load_state_dict(first.state_dict())
    c = Optimizer(second, OptimSection(lr=1e-2))
    c.load(saved)
    for step in range(3, 6):
        torch.manual_seed(step)
        x = torch.randn(8, 4, dtype=dtype)
        for half in x.split(4):
            (second(half).float().square().sum() / 8).backward()
        c.step(1.0)
        c.forget()
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), second.parameters()))


def test_gradients_are_zero_where_none_arrived():
    model = small()
    optimizer = Optimizer(model, OptimSection())
    assert all(not gradient.any() for gradient in optimizer.gradients().values())
    assert optimizer.gradient_norms() == {"decoder": 0.0}


def test_schedules():
    """By hand: four steps, one of warm-up; cosine over the remaining three."""
    values = {kind: [round(schedule(OptimSection(schedule=kind, warmup=1), s, 4), 4) for s in range(4)]
              for kind in ("cosine", "linear", "constant")}  # fmt: skip
    assert values == {"cosine": [1.0, 1.0, 0.75, 0.25], "linear": [1.0, 1.0, 0.6667, 0.3333], "constant": [1.0] * 4}
    assert schedule(OptimSection(warmup=0.5), 0, 10) == pytest.approx(1 / 5)
