"""Losses against cases worked out by hand."""

import math

import pytest
import torch

from training.losses.ohem import ohem_cross_entropy


def logits_of(probabilities):
    """Two-class logits that give the true class (0) these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([p.log(), (1 - p).log()], dim=-1)


def test_ohem_averages_the_hard_pixels():
    logits = logits_of([0.9, 0.5, 0.95, 0.2]).requires_grad_()
    labels = torch.zeros(4, dtype=torch.uint8)
    loss = ohem_cross_entropy(logits, labels, threshold=0.7, minimum_share=0.25)
    assert loss.item() == pytest.approx((-math.log(0.5) - math.log(0.2)) / 2, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(-1).gt(0).tolist() == [False, True, False, True]


def test_ohem_falls_back_to_the_hardest_share():
    logits = logits_of([0.9, 0.8, 0.95, 0.99])
    loss = ohem_cross_entropy(logits, torch.zeros(4, dtype=torch.uint8), 0.7, 0.5)
    assert loss.item() == pytest.approx((-math.log(0.9) - math.log(0.8)) / 2, rel=1e-5)


def test_ohem_ignores_255_and_survives_nothing_else():
    logits = logits_of([0.5, 0.1]).requires_grad_()
    loss = ohem_cross_entropy(logits, torch.tensor([0, 255], dtype=torch.uint8))
    assert loss.item() == pytest.approx(-math.log(0.5), rel=1e-5)
    empty = ohem_cross_entropy(logits, torch.full((2,), 255, dtype=torch.uint8))
    empty.backward()
    assert empty.item() == 0.0
    assert logits.grad is not None and logits.grad.abs().max() == 0
