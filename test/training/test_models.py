"""The network is the specification's: sizes, parity with transformers, fusion, folding."""

import numpy as np
import pytest
import torch
from torch import nn

from training.models.depthwise import depthwise_conv
from training.models.encoder import MIT_SIZES, MixTransformer
from training.models.fast_encoder import ConvNorm, run_stages
from training.models.fusion import mean_over_present
from training.models.graphs import EncodeGraph, FoldedHead, decide, exportable
from training.models.head import MlpHead, resize_tokens
from training.models.segformer_twin import transformers_twin
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig, full_size


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small_network(**changes) -> AnymodalSegmentor:
    torch.manual_seed(0)
    network = AnymodalSegmentor(SegmentorConfig(head_width=32, **changes)).eval()
    randomize_norms(network)
    return network


def randomize_norms(module: nn.Module) -> None:
    """Give every norm and bias a random value, so that none can hide by being 0 or 1."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2.0)
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.bias, -0.5, 0.5)


def test_mit_b0_has_the_parameters_of_the_reference():
    assert parameters(MixTransformer("mit_b0")) == 3_319_392
    assert parameters(MlpHead(MIT_SIZES["mit_b0"].channels, 19, 768)) == 2_771_731


def test_unknown_encoder_is_named():
    with pytest.raises(ValueError, match=r"mit_b9.*mit_b0"):
        MixTransformer("mit_b9")


@torch.no_grad()
def test_one_modality_equals_transformers_segformer():
    network = small_network()
    twin = transformers_twin(network).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96))
    ids = torch.tensor([0, 2])
    ours = network(images, ids, torch.arange(2), 2)
    theirs = twin(network.normalize(images, ids)).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scatter_mean_equals_a_loop_over_samples():
    network = small_network()
    subsets = [[0], [0, 1, 2, 3], [2, 3], [1, 3, 0]]
    images = torch.randint(0, 256, (4, 4, 3, 64, 64))
    ids = torch.tensor([m for subset in subsets for m in subset])
    index = torch.tensor([s for s, subset in enumerate(subsets) for _ in subset])
    together = network(images[index, ids], ids, index, 4)
    for sample, subset in enumerate(subsets):
        part = torch.tensor(subset)
        maps = network.encode(images[sample, part], part)
        alone = network.head([level.mean(0, keepdim=True) for level in maps])
        torch.testing.assert_close(together[sample : sample + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_of_modalities_is_irrelevant():
    network = small_network()
    images = torch.randint(0, 256, (4, 3, 64, 64))
    ids = torch.arange(4)
    order = torch.tensor([2, 0, 3, 1])
    index = torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(
        network(images, ids, index, 1), network(images[order], ids[order], index, 1)
    )


def test_mean_gradient_reaches_each_map_by_its_share():
    features = torch.randn(3, 2, 4, 4, requires_grad=True)
    mean_over_present(features, torch.tensor([0, 1, 1]), 2).sum().backward()
    assert features.grad is not None
    assert features.grad[:, 0, 0, 0].tolist() == [1.0, 0.5, 0.5]


def test_cheap_head_equals_the_papers_in_value_and_gradient():
    torch.manual_seed(0)
    head = MlpHead((8, 16, 24, 32), 5, 16, dropout=0.0)
    randomize_norms(head)
    maps = [torch.randn(2, c, 32 >> i, 48 >> i) for i, c in enumerate((8, 16, 24, 32))]
    cheap = head.train()(maps)
    target = torch.randn_like(cheap)
    gradients = torch.autograd.grad((cheap * target).sum(), list(head.parameters()))
    written = head.forward_as_written(maps)
    expected = torch.autograd.grad((written * target).sum(), list(head.parameters()))
    torch.testing.assert_close(cheap, written, atol=1e-5, rtol=1e-4)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("width", [32, 256, 768])
@torch.no_grad()
def test_folded_head_equals_the_head(width):
    torch.manual_seed(0)
    channels = MIT_SIZES["mit_b0"].channels
    head = MlpHead(channels, 19, width).eval()
    randomize_norms(head)
    maps = [torch.randn(1, c, 32 >> i, 64 >> i) for i, c in enumerate(channels)]
    expected = head.forward_as_written(maps)
    scale = float(expected.abs().max())
    assert float((FoldedHead(head)(maps) - expected).abs().max()) < 1e-5 * max(scale, 1.0)


def test_resizing_as_matrix_products_is_bilinear():
    x = torch.randn(2, 5, 7, 3)
    expected = nn.functional.interpolate(
        x.permute(0, 3, 1, 2), size=(20, 21), mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(resize_tokens(x, 20, 21), expected, atol=1e-6, rtol=1e-6)


NETWORKS = [
    {},
    {"late_stages": 2},
    {"encoder": "fast_xs"},
    {"encoder": "fast_s", "late_stages": 2},
    {"encoder": "fast_m", "late_stages": 3},
]


def test_full_size_logits_are_not_rounded():
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 6, 7)
    expected = full_size(logits, 24, 28)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(full_size(logits, 24, 28), expected)


def test_resizing_in_validation_leaves_nothing_that_training_cannot_use():
    with torch.inference_mode():
        resize_tokens(torch.zeros(1, 5, 7, 2), 11, 13)
    x = torch.ones(1, 5, 7, 2, requires_grad=True)
    resize_tokens(x, 11, 13).sum().backward()
    assert x.grad is not None and x.grad.sum() == pytest.approx(2 * 11 * 13, rel=1e-5)


@pytest.mark.parametrize("changes", NETWORKS, ids=str)
@torch.no_grad()
def test_graphs_equal_the_network(changes):
    network = small_network(**changes)
    images = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8)
    ids = torch.tensor([3, 0, 1])
    logits = network(images.permute(0, 3, 1, 2), ids, torch.zeros(3, dtype=torch.long), 1)
    probability = full_size(logits, 64, 96)[0].softmax(-1)
    encode, fuse = exportable(network, 64, 96)
    assert isinstance(encode, EncodeGraph)
    maps = encode(images, ids)
    assert len(maps) == 4 - changes.get("late_stages", 0)
    labels, confidence = fuse(*maps)
    assert labels.dtype == confidence.dtype == torch.uint8
    agreement = (labels == probability.argmax(-1)).float().mean()
    assert agreement >= 0.9999
    np.testing.assert_allclose(confidence, 255 * probability.amax(-1), atol=1.0)


@torch.no_grad()
def test_logits_of_the_graphs_equal_the_networks():
    network = small_network()
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    ids = torch.tensor([1, 2])
    expected = network(images.permute(0, 3, 1, 2), ids, torch.zeros(2, dtype=torch.long), 1)
    encode, fuse = exportable(network, 64, 96)
    logits = fuse.head([level.mean(0, keepdim=True) for level in encode(images, ids)])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_sure_but_opposite_neighbours_give_a_confidence():
    # 0 / 0 if the exponentials of the border between them were left to underflow.
    logits = torch.full((1, 3, 4, 4), -500.0)
    logits[:, 0, :, :2] = logits[:, 1, :, 2:] = 500.0
    labels, confidence = decide(logits, (16, 16))
    assert torch.equal(labels[:, :4], torch.zeros(16, 4))
    assert torch.equal(labels[:, -4:], torch.ones(16, 4))
    assert bool(confidence.isfinite().all()) and confidence.max() == 255


@torch.no_grad()
def test_output_stride_two_decides_on_every_second_pixel():
    network = small_network(encoder="fast_xs", late_stages=2)
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    ids = torch.tensor([0])
    encode, fuse = exportable(network, 64, 96, output_stride=2)
    maps = encode(images, ids)
    coarse = decide(fuse.head([*maps, *run_stages(fuse.late, maps[-1])]), (32, 48))
    for fine, half in zip(fuse(*maps), coarse, strict=True):
        assert fine.shape == (64, 96)
        assert torch.equal(fine, half.repeat_interleave(2, 0).repeat_interleave(2, 1))


@torch.no_grad()
def test_late_stages_see_the_mean_of_what_is_live():
    network = small_network(encoder="fast_s", late_stages=2)
    images = torch.randint(0, 256, (2, 3, 64, 64))
    ids, index = torch.tensor([0, 3]), torch.zeros(2, dtype=torch.long)
    both = network(images, ids, index, 1)
    fused = [level.mean(0, keepdim=True) for level in network.encode(images, ids)]
    fused += run_stages(network.encoder.stages[2:], fused[-1])
    torch.testing.assert_close(both, network.head(fused))
    with pytest.raises(ValueError, match="late_stages is 4; expected 0 to 3"):
        small_network(late_stages=4)


def test_the_matrix_product_of_training_is_the_convolution():
    torch.manual_seed(0)
    layer = ConvNorm(8, 16)
    x = torch.randn(2, 8, 6, 10)
    trained = layer.train()(x)
    expected = torch.relu(layer.norm(layer.conv(x)))
    torch.testing.assert_close(trained, expected, atol=1e-5, rtol=1e-5)


def test_an_empty_image_has_finite_gradients():
    # No events, no LiDAR return: all zeros. With zero biases the norms' gradients multiply to infinity.
    torch.manual_seed(0)
    network = AnymodalSegmentor(SegmentorConfig(head_width=32))
    images = torch.zeros(2, 3, 64, 64)
    network(images, torch.tensor([2, 3]), torch.tensor([0, 1]), 2).square().mean().backward()
    norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).max()
    assert float(norm) < 1e3


@pytest.mark.parametrize("size", [(4, 8), (2, 4), (1, 1), (8, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_depthwise_convolution_of_small_maps_is_torchs(size, layout):
    torch.manual_seed(0)
    images = torch.randn(3, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(6, 1, 5, 5, dtype=torch.float64)
    pull = torch.randn(3, 6, *size, dtype=torch.float64)

    def run(convolve):
        leaves = (images.clone().requires_grad_(), weight.clone().requires_grad_())
        out = convolve(*leaves)
        return out, *torch.autograd.grad(out, leaves, pull)

    expected = run(lambda x, w: nn.functional.conv2d(x, w, padding=2, groups=6))
    for got, theirs in zip(run(depthwise_conv), expected, strict=True):
        torch.testing.assert_close(got, theirs)
