"""Published weights: the spec's key table is read exactly, anything else is refused by name."""

import pytest
import torch
from test_models import transformers_twin

from training.models.encoder import MixTransformer
from training.models.reference_checkpoints import (
    import_anyseg,
    import_imagenet_encoder,
    import_m3l,
)
from training.models.strict import CheckpointError

CHANNELS, REDUCTIONS, BEFORE = (32, 64, 160, 256), (8, 4, 2, 1), (3, 32, 64, 160)


def linear(name, out, inside):
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def conv(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def encoder_shapes():
    """The encoder's part of the specification's table, for MiT-B0, without a prefix."""
    shapes = {}
    for s, (c, p, r) in enumerate(zip(CHANNELS, BEFORE, REDUCTIONS, strict=True), 1):
        k = 7 if s == 1 else 3
        shapes |= conv(f"patch_embed{s}.proj", c, p, k, k) | norm(f"patch_embed{s}.norm", c)
        for i in range(2):
            block = f"block{s}.{i}"
            shapes |= norm(f"{block}.norm1", c) | norm(f"{block}.norm2", c)
            shapes |= linear(f"{block}.attn.q", c, c) | linear(f"{block}.attn.kv", 2 * c, c)
            shapes |= linear(f"{block}.attn.proj", c, c)
            if r > 1:
                shapes |= conv(f"{block}.attn.sr", c, c, r, r) | norm(f"{block}.attn.norm", c)
            shapes |= linear(f"{block}.mlp.fc1", 4 * c, c) | linear(f"{block}.mlp.fc2", c, 4 * c)
            shapes |= conv(f"{block}.mlp.dwconv.dwconv", 4 * c, 1, 3, 3)
        shapes |= norm(f"norm{s}", c)
    return shapes


def anyseg_shapes():
    """The whole table: 193 tensors."""
    shapes = {f"encoder.{name}": shape for name, shape in encoder_shapes().items()}
    for s, c in enumerate(CHANNELS, 1):
        shapes |= linear(f"decoder.linear_c{s}.proj", 768, c)
    shapes["decoder.linear_fuse.conv.weight"] = (768, 3072, 1, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"decoder.linear_fuse.bn.{name}"] = (768,)
    shapes["decoder.linear_fuse.bn.num_batches_tracked"] = ()
    shapes |= conv("decoder.linear_pred", 19, 768, 1, 1)
    shapes["classifier.weight"] = (19, 256, 1, 1)
    return shapes


def random_weights(shapes):
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.05 * torch.randn(shape, generator=generator) + (1.0 if "norm" in name else 0.0)
        for name, shape in shapes.items()
    }
    for name in weights:
        if name.endswith("running_var"):
            weights[name] = weights[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
    return weights


def saved(weights, path):
    torch.save(weights, path)
    return path


def test_the_table_has_as_many_tensors_and_parameters_as_the_reference():
    shapes = anyseg_shapes()
    assert len(shapes) == 193
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counted = [torch.Size(v).numel() for k, v in shapes.items() if not k.endswith(buffers)]
    assert sum(counted) == 6_095_987


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_an_official_file_is_read_completely(tmp_path, wrapper):
    weights = {f"module.{k}": v for k, v in random_weights(anyseg_shapes()).items()}
    path = saved({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "anyseg.pth")
    network = import_anyseg(path)
    own = network.state_dict()
    assert network.config.encoder == "mit_b0" and network.config.head_width == 768
    torch.testing.assert_close(
        own["encoder.stages.2.blocks.1.attention.reduce.weight"],
        weights["module.encoder.block3.1.attn.sr.weight"],
    )
    torch.testing.assert_close(
        own["head.norm.running_var"], weights["module.decoder.linear_fuse.bn.running_var"]
    )
    kept = len(anyseg_shapes()) - 2  # classifier.weight and num_batches_tracked are not used
    assert len(own) - 3 == kept  # mean, std and num_batches_tracked are this project's


@torch.no_grad()
def test_imported_weights_give_transformers_outputs(tmp_path):
    network = import_anyseg(saved(random_weights(anyseg_shapes()), tmp_path / "anyseg.pth"))
    twin = transformers_twin(network)
    images = torch.randint(0, 256, (2, 3, 64, 64))
    ids = torch.tensor([0, 1])
    ours = network(images, ids, torch.arange(2), 2)
    theirs = twin(images.float()).logits  # raw bytes, as the released evaluation feeds them
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path):
    path = tmp_path / "anyseg.pth"
    weights = random_weights(anyseg_shapes())
    lacking = {k: v for k, v in weights.items() if k != "encoder.block2.0.attn.kv.weight"}
    with pytest.raises(CheckpointError, match=r"missing: encoder\.stages\.1\.blocks\.0\.attention"):
        import_anyseg(saved(lacking, path))
    with pytest.raises(CheckpointError, match="surprise"):
        import_anyseg(saved({**weights, "encoder.surprise": torch.zeros(1)}, path))
    wrong = {**weights, "decoder.linear_pred.bias": torch.zeros(25)}
    with pytest.raises(CheckpointError, match=r"wrong shape: head\.classifier\.bias \(25,\)"):
        import_anyseg(saved(wrong, path))
    path.write_bytes(b"no checkpoint at all")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        import_anyseg(path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        import_anyseg(tmp_path / "none.pth")


def test_imagenet_weights_fill_an_encoder_and_their_head_is_dropped(tmp_path):
    weights = random_weights({**encoder_shapes(), **linear("head", 1000, 256)})
    encoder = MixTransformer("mit_b0")
    import_imagenet_encoder(saved(weights, tmp_path / "mit_b0.pth"), encoder)
    torch.testing.assert_close(
        encoder.state_dict()["stages.0.patch_embed.proj.weight"],
        weights["patch_embed1.proj.weight"],
    )
    with pytest.raises(CheckpointError, match="does not fit"):
        import_imagenet_encoder(tmp_path / "mit_b0.pth", MixTransformer("mit_b1"))


def shared(shapes):
    """Layers that both streams use, as the M3L code wraps them."""
    return {
        f"{name.rsplit('.', 1)[0]}.module.{name.rsplit('.', 1)[1]}": shape
        for name, shape in shapes.items()
    }


def norms(name, channels):
    return norm(f"{name}.ln_0", channels) | norm(f"{name}.ln_1", channels)


def m3l_shapes(width=256, classes=13):
    """The specification's key patterns for MiT-B0 with mask tokens."""
    shapes = {"alpha": (2,)}
    for s, (c, p, r) in enumerate(zip(CHANNELS, BEFORE, REDUCTIONS, strict=True), 1):
        k = 7 if s == 1 else 3
        shapes |= shared(conv(f"encoder.patch_embed{s}.proj", c, p, k, k))
        shapes |= norms(f"encoder.patch_embed{s}.norm", c)
        shapes[f"encoder.patch_embed{s}.mask_token"] = (c,)
        for i in range(2):
            block = f"encoder.block{s}.{i}"
            shapes |= norms(f"{block}.norm1", c) | norms(f"{block}.norm2", c)
            shapes |= shared(linear(f"{block}.attn.q", c, c) | linear(f"{block}.attn.kv", 2 * c, c))
            shapes |= shared(linear(f"{block}.attn.proj", c, c))
            if r > 1:
                shapes |= shared(conv(f"{block}.attn.sr", c, c, r, r)) | norms(
                    f"{block}.attn.norm", c
                )
            shapes |= shared(linear(f"{block}.mlp.fc1", 4 * c, c))
            shapes |= shared(linear(f"{block}.mlp.fc2", c, 4 * c))
            shapes |= conv(f"{block}.mlp.dwconv.dwconv", 4 * c, 1, 3, 3)
        shapes |= norms(f"encoder.norm{s}", c)
    for s, c in enumerate(CHANNELS, 1):
        shapes |= linear(f"decoder.linear_c{s}.proj", width, c)
    shapes["decoder.linear_fuse.conv.weight"] = (width, 4 * width, 1, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"decoder.linear_fuse.bn.{name}"] = (width,)
    shapes["decoder.linear_fuse.bn.num_batches_tracked"] = ()
    return shapes | conv("decoder.linear_pred", classes, width, 1, 1)


def test_the_m3l_table_has_as_many_parameters_as_the_published_network():
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counted = [torch.Size(v).numel() for k, v in m3l_shapes().items() if not k.endswith(buffers)]
    assert sum(counted) == 3_725_167


@torch.no_grad()
def test_official_m3l_files_are_read_completely(tmp_path):
    student, teacher = random_weights(m3l_shapes()), random_weights(m3l_shapes())
    teacher["decoder.linear_pred.bias"] += 1.0
    both = {f"student.{k}": v for k, v in student.items()}
    both |= {f"teacher.{k}": v for k, v in teacher.items()}
    stored = {"epoch": 4, "model_state_dict": both, "optimizer_state_dict": [{}], "current_idx": 7}
    path = saved(stored, tmp_path / "m3l.pth")
    for role, weights in (("student", student), ("teacher", teacher)):
        own = import_m3l(path, role).state_dict()
        for ours, theirs in {
            "head.classifier.bias": "decoder.linear_pred.bias",
            "encoder.mask_token": "encoder.patch_embed1.mask_token",
            "encoder.stages.2.blocks.1.attention.reduce.weight": "encoder.block3.1.attn.sr.module.weight",
            "encoder.stages.2.blocks.1.attention.norm.norms.1.bias": "encoder.block3.1.attn.norm.ln_1.bias",
            "encoder.stages.0.norm.norms.0.weight": "encoder.norm1.ln_0.weight",
            "alpha": "alpha",
        }.items():
            assert torch.equal(own[ours], weights[theirs]), ours
        # mean, std and num_batches_tracked are this project's; three mask tokens and theirs are dropped.
        assert len(own) - 3 == len(weights) - 4
    network = import_m3l(path)
    assert network.config.encoder == "mit_b0" and network.align_corners
    logits = network(torch.zeros(2, 1, 3, 32, 32), torch.ones(2, 1, dtype=torch.bool))
    assert [tuple(p.shape) for p in logits] == [(1, 13, 8, 8)] * 3


def test_supervised_and_plain_m3l_files_are_read_too(tmp_path):
    weights = random_weights(m3l_shapes())
    assert import_m3l(saved(weights, tmp_path / "a.pth")).config.classes == 13
    plain = {k: v for k, v in weights.items() if not k.endswith("mask_token")}
    import_m3l(saved(plain, tmp_path / "b.pth"))


def test_m3l_files_that_do_not_fit_are_refused_by_name(tmp_path):
    path, weights = tmp_path / "m3l.pth", random_weights(m3l_shapes())
    lacking = {k: v for k, v in weights.items() if k != "encoder.block2.0.norm1.ln_1.bias"}
    with pytest.raises(CheckpointError, match=r"missing: encoder\.stages\.1\.blocks\.0\.norm1"):
        import_m3l(saved(lacking, path))
    for name in ("encoder.surprise", "encoder.block2.0.attn.q.weight", "surprise"):
        with pytest.raises(CheckpointError, match=name):
            import_m3l(saved({**weights, name: torch.zeros(1)}, path))
    with pytest.raises(CheckpointError, match=r"wrong shape: alpha \(3,\)"):
        import_m3l(saved({**weights, "alpha": torch.ones(3)}, path))
    with pytest.raises(CheckpointError, match="holds a teacher only"):
        import_m3l(saved({f"teacher.{k}": v for k, v in weights.items()}, path))
    both = {f"{role}.{k}": v for role in ("student", "teacher") for k, v in weights.items()}
    with pytest.raises(CheckpointError, match=r"neither student nor teacher: alpha"):
        import_m3l(saved({**both, "alpha": weights["alpha"]}, path))
    with pytest.raises(CheckpointError, match="no Linear Fusion network"):
        import_m3l(saved(random_weights(anyseg_shapes()), path))
