"""Linear Fusion: the specification's acceptance checks, for two modalities and for four."""

from itertools import pairwise

import pytest
import torch

from anyseg_ros.modality import MODALITIES, Modality, all_subsets
from training.data.subsets import random_subsets
from training.methods.supervised import OhemConfig, supervised_loss
from training.models.linear_fusion import (
    ExchangingAttention,
    LinearFusionEncoder,
    LinearFusionSegmentor,
)
from training.models.segmentor import LinearFusionConfig, SegmentorConfig

CAMERA_DEPTH = ("camera", "depth")


def network(modalities=CAMERA_DEPTH, seed=0, **settings):
    torch.manual_seed(seed)
    fusion = LinearFusionConfig(tuple(modalities), ratio=settings.pop("ratio", 0.8))
    config = SegmentorConfig(head_width=16, classes=5, linear_fusion=fusion, **settings)
    return LinearFusionSegmentor(config).eval()


def pictures(modalities=2, samples=2, seed=0, size=(32, 64)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (modalities, samples, 3, *size), generator=generator)


@pytest.mark.parametrize(
    ("encoder", "published", "unused"),
    [("mit_b0", 3_725_167, 64 + 160 + 256), ("mit_b2", 24_752_463, 128 + 320 + 512)],
)
def test_it_has_as_many_parameters_as_the_published_network(encoder, published, unused):
    # The published network keeps a mask token a stage and uses the first one only.
    config = SegmentorConfig(
        encoder=encoder, classes=13, linear_fusion=LinearFusionConfig(CAMERA_DEPTH)
    )
    count = sum(p.numel() for p in LinearFusionSegmentor(config).parameters())
    assert count == published - unused


def test_a_further_modality_costs_layer_norms_and_an_ensemble_weight_only():
    sizes = [
        sum(p.numel() for p in network([m.label for m in MODALITIES[:n]]).parameters())
        for n in (1, 2, 3, 4)
    ]
    norms = sum(
        p.numel() for name, p in network(["camera"]).named_parameters() if ".norms." in name
    )
    assert {b - a for a, b in pairwise(sizes)} == {norms + 1}


@torch.no_grad()
def test_two_modalities_are_mixed_as_published():
    torch.manual_seed(0)
    attention = ExchangingAttention(32, 1, 8, modalities=2, ratio=0.8).eval()
    x = torch.randn(2, 8, 16, 32)  # one sample of each of the two modalities
    found = super(ExchangingAttention, attention).forward(x)
    expected = torch.stack([0.8 * found[0] + 0.2 * found[1], 0.2 * found[0] + 0.8 * found[1]])
    torch.testing.assert_close(attention(x), expected)


@torch.no_grad()
def test_four_modalities_share_the_rest_evenly():
    torch.manual_seed(0)
    attention = ExchangingAttention(32, 1, 8, modalities=4, ratio=0.7).eval()
    x = torch.randn(4 * 2, 8, 16, 32)
    found = super(ExchangingAttention, attention).forward(x).unflatten(0, (4, 2))
    got = attention(x).unflatten(0, (4, 2))
    for m in range(4):
        others = [found[n] for n in range(4) if n != m]
        torch.testing.assert_close(got[m], 0.7 * found[m] + 0.1 * sum(others))


@torch.no_grad()
@pytest.mark.parametrize("modalities", [2, 4])
def test_equal_shares_make_the_exchanged_parts_equal(modalities):
    torch.manual_seed(0)
    attention = ExchangingAttention(32, 1, 8, modalities, ratio=1 / modalities).eval()
    got = attention(torch.randn(modalities * 3, 8, 16, 32)).unflatten(0, (modalities, 3))
    for m in range(1, modalities):
        torch.testing.assert_close(got[m], got[0])


@torch.no_grad()
def test_streams_are_independent_at_ratio_one_only():
    images = pictures()
    other = images.clone()
    other[1] = pictures(seed=1)[1]
    present = torch.ones(2, 2, dtype=torch.bool)
    apart, mixed = network(ratio=1.0), network(ratio=0.8)
    assert torch.equal(apart(images, present)[0], apart(other, present)[0])
    assert not torch.equal(mixed(images, present)[0], mixed(other, present)[0])


@torch.no_grad()
def test_layer_norms_belong_to_one_modality():
    net, images = network(ratio=1.0), pictures()
    present = torch.ones(2, 2, dtype=torch.bool)
    before = net(images, present)
    for name, weight in net.named_parameters():
        if ".norms.1." in name:
            weight.add_(torch.randn_like(weight))
    after = net(images, present)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@torch.no_grad()
def test_a_masked_modality_cannot_influence_any_output():
    net = network(["camera", "depth", "event", "lidar"])
    images, others = pictures(4, 15, seed=2), pictures(4, 15, seed=3)
    subsets = all_subsets()
    present = torch.tensor([[m in s for s in subsets] for m in MODALITIES])
    changed = torch.where(present.view(4, 15, 1, 1, 1), images, others)
    for left, right in zip(net(images, present), net(changed, present), strict=True):
        assert torch.equal(left, right)
    # What is present does count.
    assert not torch.equal(net(images, present)[-1], net(others, present)[-1])


@torch.no_grad()
def test_with_everything_masked_the_output_depends_on_no_input():
    net, nothing = network(), torch.zeros(2, 2, dtype=torch.bool)
    left, right = (net(pictures(seed=s), nothing) for s in (0, 1))
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_samples_do_not_meet():
    net, images = network(), pictures(samples=3)
    present = torch.tensor([[True, True, False], [True, False, True]])
    together = net(images, present)
    for sample in range(3):
        one = slice(sample, sample + 1)
        alone = net(images[:, one], present[:, one])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[one], b, atol=1e-5, rtol=1e-4)


def test_the_ensemble_is_the_mean_and_trains_nothing():
    net = network()
    *single, ensemble = net(pictures(), torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(ensemble, (single[0] + single[1]) / 2)
    assert not ensemble.requires_grad
    labels = torch.randint(0, 5, (2, 32, 64), dtype=torch.uint8)
    loss = supervised_loss([*single, ensemble], labels, OhemConfig())
    assert loss.item() == pytest.approx(
        sum(supervised_loss([s], labels, OhemConfig()).item() for s in single) / 2, rel=1e-5
    )
    loss.backward()
    silent = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent


def test_one_prediction_pass_takes_its_modalities_from_all_four():
    net = network(["camera", "lidar"])
    images = pictures(4, 2, seed=4).transpose(0, 1)
    present = torch.tensor([[True, True, True, True], [False, True, True, True]])
    with torch.no_grad():
        expected = net(images[:, [0, 3]].transpose(0, 1), present[:, [0, 3]].T)
        got = net.predictions(images, present)
        both = net.predict_subsets(images, [(Modality.CAMERA, Modality.LIDAR)])[0]
    assert len(got) == 3
    torch.testing.assert_close(got[-1], expected[-1])
    torch.testing.assert_close(both[:1], got[-1][:1], atol=1e-5, rtol=1e-4)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="each once"):
        network(["depth", "camera"])
    with pytest.raises(ValueError, match="'radar'"):
        network(["radar"])
    with pytest.raises(ValueError, match="late_stages must be 0"):
        network(late_stages=1)
    with pytest.raises(ValueError, match=r"ratio 1\.5"):
        LinearFusionEncoder("mit_b0", 2, 1.5)


def test_frozen_norms_keep_their_statistics():
    net = network(frozen_norm=True).train()
    net(pictures(), torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(net.head.norm.running_mean, torch.zeros(16))
    assert net.head.norm.weight.requires_grad
    moving = network().train()
    moving(pictures(), torch.ones(2, 2, dtype=torch.bool))
    assert not torch.equal(moving.head.norm.running_mean, torch.zeros(16))


def test_the_published_rule_for_two_sensors_is_a_third_each():
    available = torch.ones(30_000, 2, dtype=torch.bool)
    drawn = random_subsets(available, torch.Generator().manual_seed(0))
    shares = [
        (drawn == torch.tensor(kept)).all(1).float().mean().item()
        for kept in ([True, False], [False, True], [True, True])
    ]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)
    assert drawn.any(1).all()


def test_all_fifteen_subsets_are_equally_likely_and_within_what_is_there():
    generator = torch.Generator().manual_seed(1)
    drawn = random_subsets(torch.ones(60_000, 4, dtype=torch.bool), generator)
    codes, counts = (drawn.float() @ torch.tensor([1.0, 2.0, 4.0, 8.0])).unique(return_counts=True)
    assert codes.tolist() == list(range(1, 16))
    assert counts / 60_000 == pytest.approx([1 / 15] * 15, abs=0.006)
    available = torch.tensor([[True, False, True, False], [False, False, False, True]])
    for _ in range(50):
        some = random_subsets(available, generator)
        assert some.any(1).all() and not (some & ~available).any()
