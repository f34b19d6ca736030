"""Mean teacher and M3L: what each network is shown, what it learns from, how the teacher follows."""

import pytest
import torch
from torch.nn import functional as F

from training.data.batches import Batch
from training.data.few_labels import FewLabelBatch
from training.losses.cmd import CmdConfig
from training.losses.ohem import ohem_cross_entropy
from training.methods.m3l import M3L, AnySegM3L
from training.methods.mean_teacher import (
    MeanTeacher,
    TeacherConfig,
    averaged_copy,
    compose,
    decay_at,
    pseudo_labels,
    pseudo_loss,
)
from training.methods.supervised import OhemConfig
from training.models.segmentor import (
    AnymodalSegmentor,
    LinearFusionConfig,
    SegmentorConfig,
    full_size,
)

TWO = SegmentorConfig(
    head_width=16, classes=5, dropout=0.0, linear_fusion=LinearFusionConfig(("camera", "depth"))
)
FOUR = SegmentorConfig(head_width=16, classes=5, dropout=0.0)


def batch(samples=2, seed=0, labelled=True, available=None):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (samples, 4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (samples, 32, 32), generator=generator, dtype=torch.uint8)
    present = torch.ones(samples, 4, dtype=torch.bool) if available is None else available
    return Batch(images, labels if labelled else torch.full_like(labels, 255), present)


@pytest.fixture(autouse=True)
def _no_trainer(monkeypatch):
    # Lightning's property asks the trainer.
    for kind in (MeanTeacher, M3L, AnySegM3L):
        monkeypatch.setattr(kind, "global_step", 0, raising=False)


def test_the_decay_starts_with_a_copy_and_is_capped():
    assert [decay_at(t, 0.99) for t in range(4)] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    assert decay_at(98, 0.99) == pytest.approx(1 - 1 / 99)
    assert decay_at(99, 0.99) == pytest.approx(0.99)
    assert decay_at(5_000, 0.99) == 0.99


def test_the_average_of_a_hand_example():
    net = torch.nn.BatchNorm1d(1)
    teacher = averaged_copy(net, 0.6)
    # Student weights 1, 4, 7, 2 with decays 0, 1/2, then the cap 0.6 instead of 2/3 and 3/4.
    expected = [1.0, 2.5, 0.6 * 2.5 + 0.4 * 7, 0.6 * (0.6 * 2.5 + 0.4 * 7) + 0.4 * 2]
    for step, (value, average) in enumerate(zip([1.0, 4.0, 7.0, 2.0], expected, strict=True)):
        net.weight.data.fill_(value)
        net.running_mean.fill_(10 * value)
        net.num_batches_tracked.fill_(step)
        teacher.update_parameters(net)
        assert teacher.module.weight.item() == pytest.approx(average)
        assert teacher.module.running_mean.item() == pytest.approx(10 * average)
        assert teacher.module.num_batches_tracked.item() == step
    assert not teacher.module.weight.requires_grad


def test_the_batch_of_m3l_has_the_published_ranges():
    labelled, unlabelled = batch(2, 1), batch(3, 2, labelled=False)
    hidden = 0
    for seed in range(20):
        torch.manual_seed(seed)
        view = compose(labelled, unlabelled, masked=True)
        assert torch.equal(
            view.images, torch.cat([labelled.images, labelled.images, unlabelled.images])
        )
        assert torch.equal(view.labels, torch.cat([labelled.labels] * 2))
        assert view.complete == 2 and view.copies == 2
        assert view.present[:2].all() and view.available.all()
        assert view.present.any(1).all()
        hidden += (~view.present[2:]).any(1).float()
    # Over all draws every sample from the second copy on loses sensors: 14 of the 15 subsets lack one.
    assert (hidden > 10).all()


def test_the_batch_of_the_mean_teacher_is_unmasked():
    view = compose(batch(2, 1), batch(2, 2), masked=False)
    assert len(view.images) == 4 and len(view.labels) == 2 and view.copies == 1
    assert view.present.all()


def test_sensors_that_were_not_recorded_stay_absent():
    recorded = torch.tensor([[True, True, False, True], [False, True, True, False]])
    view = compose(batch(2, 1), batch(2, 2, available=recorded), masked=True)
    assert torch.equal(view.available[4:], recorded)
    assert not (view.present[4:] & ~recorded).any()


def test_pseudo_labels_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.4], [0.2, 0.5], [0.1, 0.1]])).view(1, 3, 1, 2)
    assert pseudo_labels(logits, 1, 2, 0.0, False).tolist() == [[[0, 1]]]
    assert pseudo_labels(logits, 1, 2, 0.6, False).tolist() == [[[0, 255]]]
    student = torch.log(torch.tensor([[0.5, 0.3], [0.25, 0.3], [0.25, 0.4]])).view(1, 3, 1, 2)
    both = pseudo_loss([student], torch.tensor([[[0, 1]]]), False).item()
    assert both == pytest.approx(-(torch.tensor([0.5, 0.3]).log().mean().item()))
    one = pseudo_loss([student], torch.tensor([[[0, 255]]]), False).item()
    assert one == pytest.approx(-torch.tensor(0.5).log().item())
    none = pseudo_loss([student.requires_grad_()], torch.full((1, 1, 2), 255), False)
    none.backward()
    assert none.item() == 0.0


def test_a_step_of_m3l_is_the_sum_of_what_it_says():
    """The loss of a toy batch, put together from the two networks by hand."""
    made = M3L(network=TWO, ohem=OhemConfig(), seed=3).eval()
    with torch.no_grad():  # a teacher that differs from its student
        for weight in made.teacher_network.encoder.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    torch.manual_seed(11)
    view = compose(batch(1, 4), batch(1, 5, labelled=False), masked=True)
    assert not view.present[1:, :2].all(), "the draw hides nothing: the test would see less"
    terms = made.terms(view)

    with torch.no_grad():
        rgb, depth, _ = made.network.predictions(view.images, view.present)
        everything = torch.ones(3, 4, dtype=torch.bool)
        t_rgb, t_depth, _ = made.teacher_network.predictions(view.images, everything)
        taught = full_size((t_rgb + t_depth) / 2, 32, 32).argmax(-1)
        supervised, pseudo = [], []
        for logits in (rgb, depth):
            full = full_size(logits, 32, 32)
            supervised.append(ohem_cross_entropy(full[:2], view.labels))
            pseudo.append(F.cross_entropy(full.flatten(0, 2), taught.flatten()))
    torch.testing.assert_close(terms["segmentation"], sum(supervised) / 2)
    torch.testing.assert_close(terms["pseudo"], sum(pseudo) / 2)
    assert set(terms) == {"segmentation", "pseudo"}


def test_only_m3l_shows_its_teacher_everything():
    torch.manual_seed(0)
    view = compose(batch(4, 1), batch(4, 2), masked=True)
    m3l = M3L(network=TWO)
    dropout = MeanTeacher(network=TWO, modality_dropout=True)
    assert torch.equal(m3l.shown_to_teacher(view), view.available)
    shown = dropout.shown_to_teacher(view)
    assert shown[:4].all() and not shown[4:].all()
    assert not torch.equal(shown, view.present)  # draws of its own
    plain = compose(batch(4, 1), batch(4, 2), masked=False)
    assert MeanTeacher(network=TWO).shown_to_teacher(plain).all()


def test_the_teacher_gets_no_gradient_and_the_student_does():
    made = M3L(network=TWO)
    torch.manual_seed(0)
    sum(made.terms(compose(batch(1, 1), batch(1, 2), masked=True)).values()).backward()
    assert all(p.grad is None for p in made.teacher.parameters())
    grads = [p.grad is not None for p in made.network.parameters() if p.requires_grad]
    assert all(grads)


def test_before_the_teacher_takes_part_only_labels_count(monkeypatch):
    made = M3L(network=TWO, teacher=TeacherConfig(supervised_steps=3))
    step = FewLabelBatch(batch(1, 1), batch(1, 2, labelled=False))
    seen = []
    monkeypatch.setattr(made, "log", lambda *a, **k: None)
    monkeypatch.setattr(made, "log_dict", lambda values: seen.append(set(values)))
    for number in (2, 3):
        monkeypatch.setattr(M3L, "global_step", number, raising=False)
        made.training_step(step, 0)
    assert seen == [{"train/segmentation"}, {"train/segmentation", "train/pseudo"}]


def test_the_teacher_is_still_unless_told_otherwise():
    for disturbed in (False, True):
        made = M3L(network=TWO, teacher=TeacherConfig(dropout=disturbed)).train()
        made.on_train_batch_start(None, 0)
        teacher = made.teacher_network
        assert teacher.head.dropout.training == disturbed
        assert teacher.encoder.stages[0].blocks[0].drop_path.training == disturbed
        assert not teacher.head.norm.training


def test_no_norm_of_the_teacher_learns_from_what_the_teacher_sees():
    made = M3L(
        network=SegmentorConfig(encoder="fast_xs", head_width=16, classes=5),
        teacher=TeacherConfig(dropout=True),
    ).train()
    made.on_train_batch_start(None, 0)
    before = {name: value.clone() for name, value in made.teacher_network.named_buffers()}
    made.teach(compose(batch(2, 1), batch(2, 2, labelled=False), masked=True))
    assert any("running_mean" in name for name in before)
    for name, value in made.teacher_network.named_buffers():
        assert torch.equal(value, before[name]), name


def test_the_combination_adds_anysegs_terms_for_the_averaging_network():
    made = AnySegM3L(network=FOUR).eval()
    assert isinstance(made.network, AnymodalSegmentor)
    torch.manual_seed(1)
    view = compose(batch(2, 1), batch(2, 2, labelled=False), masked=True)
    terms = made.terms(view)
    assert set(terms) == {"segmentation", "pseudo", "umd", "cmd", "mad"}
    # A teacher that equals its student, in evaluation mode, agrees about each modality's own maps...
    assert terms["umd"].item() == pytest.approx(0, abs=1e-5)
    assert terms["cmd"].item() == pytest.approx(0, abs=1e-5)
    # ... and knows more wherever the student lacks sensors.
    assert terms["mad"].item() > 0
    plain = M3L(network=FOUR).eval()
    plain.network.load_state_dict(made.network.state_dict())
    plain.teacher_network.load_state_dict(made.network.state_dict())
    for name, value in plain.terms(view).items():
        torch.testing.assert_close(terms[name], value)
    with pytest.raises(ValueError, match="linear_fusion"):
        AnySegM3L(network=TWO)
    with pytest.raises(ValueError, match=r"cmd\.reading must be relations"):
        AnySegM3L(network=FOUR, cmd=CmdConfig(reading="pairs"))


@pytest.mark.parametrize("method", [M3L, AnySegM3L])
def test_a_teacher_that_sees_everything_need_not_look_twice(method, monkeypatch):
    """The second copies of the labelled samples are not computed again, and nothing depends on it."""
    view = compose(batch(2, 1), batch(3, 2, labelled=False), masked=True)

    def run(dropout):
        made = method(network=FOUR, seed=1, teacher=TeacherConfig(dropout=dropout)).eval()
        with torch.no_grad():
            for weight in made.teacher_network.encoder.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.manual_seed(5)))
        seen = []
        encode = made.teacher_network.encode
        monkeypatch.setattr(
            made.teacher_network,
            "encode",
            lambda images, ids: (seen.append(len(images)), encode(images, ids))[1],
        )
        return made.terms(view), seen

    terms, once = run(dropout=False)
    expected, each = run(dropout=True)  # as published; in evaluation mode nothing is disturbed
    assert (once, each) == ([20], [28])
    assert set(terms) == set(expected)
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


def test_the_published_number_of_hard_pixels():
    logits = torch.randn(8, 16, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (8, 16), generator=torch.Generator().manual_seed(1))
    labels[0] = 255
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=255, reduction="none"
    )[16:]
    probability = (-losses).exp()
    for kept in (3, 90, 500):
        # The reference: threshold max(0.7, K-th smallest probability), all if there are fewer than K.
        if kept > len(probability):
            expected = losses.mean()
        else:
            bound = max(0.7, probability.sort().values[kept - 1].item())
            expected = losses[probability <= bound].mean()
        got = ohem_cross_entropy(logits, labels, 0.7, minimum_pixels=kept)
        torch.testing.assert_close(got, expected)
