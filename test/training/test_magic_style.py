"""The MAGIC-style baseline: ranking by hand, and a run that learns."""

import pytest
import torch
from joint_gradients import joint_batch

from training.methods.magic_style import MagicStyle, SelectionConfig, rank_modalities
from training.models.segmentor import LinearFusionConfig, SegmentorConfig


def test_modalities_are_ranked_by_their_likeness_to_the_mean():
    # Two alike, one opposed: the mean points along the two.
    maps = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.5]]).view(3, 2, 1, 1)
    ranking = rank_modalities([maps, 7.0 * maps], 1)
    assert ranking.shape == (1, 3)
    mean = maps.mean(0).flatten()
    expected = [torch.cosine_similarity(m.flatten(), mean, 0).item() for m in maps]
    assert ranking[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert ranking[0].argmin() == 2


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_its_step_learns_and_consistency_counts():
    batch = joint_batch()
    losses = {}
    for weight in (0.0, 5.0):
        method = MagicStyle(
            SegmentorConfig(head_width=16, classes=5, dropout=0.0),
            selection=SelectionConfig(consistency=weight),
            seed=1,
        ).train()
        optimizer = torch.optim.AdamW(method.parameters(), 1e-3)
        values = []
        for _ in range(4):
            loss = method.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        losses[weight] = values
        assert values[-1] < values[0]
    assert losses[5.0][0] > losses[0.0][0]


def test_linear_fusion_has_nothing_to_rank():
    config = SegmentorConfig(head_width=16, linear_fusion=LinearFusionConfig())
    with pytest.raises(ValueError, match="averages modalities"):
        MagicStyle(config)
