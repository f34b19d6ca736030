"""AnySeg's distillation: each term by hand, and a teacher-student run from the command line."""

import math
from dataclasses import asdict

import pytest
import torch
from street_on_disk import write_street
from test_training import tiny_config

from training import train
from training.data.batches import Batch
from training.losses.cmd import (
    CmdConfig,
    cross_modal_distillation,
    present_couples,
    relation_gap,
)
from training.losses.distances import channel_kl, cosine, normalized_l2
from training.losses.mad import MadConfig, semantic_distillation
from training.losses.umd import UmdConfig, unimodal_distillation
from training.methods.anyseg import AnySegStudent
from training.methods.supervised import OhemConfig
from training.models.checkpoint import load_trained
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig

# Two samples, three modalities; the student sees (0, 0), (0, 2) and (1, 1).
MODALITIES = 3
PAIRS = torch.tensor([0, 2, 4])


def maps(rows, seed=0, channels=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, 2, 3, generator=generator)


def kl(p, q):
    """KL(p || q) of two lists of probabilities."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_channel_kl_by_hand():
    teacher, student = [0.5, 0.25, 0.25], [0.2, 0.3, 0.5]
    as_map = lambda p: torch.tensor(p).log().view(1, 3, 1, 1)  # noqa: E731
    got = channel_kl(as_map(student), as_map(teacher))
    assert got.item() == pytest.approx(kl(teacher, student), rel=1e-5)


@pytest.mark.parametrize("measure", [channel_kl, cosine, normalized_l2])
def test_distances_vanish_at_equality_and_never_train_the_teacher(measure):
    student, teacher = maps(2, 1).requires_grad_(), maps(2, 2).requires_grad_()
    assert measure(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    measure(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


def test_unimodal_term_compares_a_modality_with_itself():
    teacher = [maps(6, 3), maps(6, 4)]
    student = [level[PAIRS].clone() for level in teacher]
    assert unimodal_distillation(student, teacher, PAIRS, UmdConfig()).item() == pytest.approx(
        0, abs=1e-6
    )
    shifted = torch.tensor([1, 2, 4])  # the first pair now claims to be modality 1
    expected = (channel_kl(student[0][:1], teacher[0][1:2]) / 3).item()
    expected += (channel_kl(student[1][:1], teacher[1][1:2]) / 3).item()
    got = unimodal_distillation(student, teacher, shifted, UmdConfig()).item()
    assert got == pytest.approx(expected / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "measure"), [("kl", channel_kl), ("cosine", cosine), ("l2", normalized_l2)]
)
def test_cross_modal_pairs_average_over_the_other_modalities(kind, measure):
    student, teacher = maps(3, 5), maps(6, 6)
    others = {0: (1, 2), 1: (0, 1), 2: (3, 5)}  # row of the student: rows of the teacher
    expected = sum(
        measure(student[row : row + 1], teacher[n : n + 1]).item()
        for row, targets in others.items()
        for n in targets
    )
    config = CmdConfig(reading="pairs", distance=kind)
    got = cross_modal_distillation([student], [teacher], PAIRS, MODALITIES, config).item()
    assert got == pytest.approx(expected / 6, rel=1e-4)


def test_relations_compare_the_similarities_of_present_modalities():
    student, teacher = maps(3, 7), maps(6, 8)
    similarity = torch.nn.functional.cosine_similarity
    gap = similarity(student[0], student[1], dim=0) - similarity(teacher[0], teacher[2], dim=0)
    got = relation_gap(student, teacher, present_couples(PAIRS, MODALITIES))
    assert got.item() == pytest.approx(gap.square().mean().item(), rel=1e-4)


def test_single_modalities_have_no_relations():
    student = maps(2, 9).requires_grad_()
    couples = present_couples(torch.tensor([1, 5]), MODALITIES)
    loss = relation_gap(student, maps(6, 10), couples)
    loss.backward()
    assert loss.item() == 0.0


def test_semantic_term_is_a_mean_over_pixels():
    student, teacher = maps(2, 11), maps(2, 12)
    expected = torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="none"
    ).sum(1)
    got = semantic_distillation(student, teacher, MadConfig())
    assert got.item() == pytest.approx(expected.mean().item(), rel=1e-5)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("street"), frames=2)


def test_teacher_then_student_from_the_command_line(street, tmp_path):
    teacher = tiny_config(street, tmp_path / "teacher.yaml", max_steps=2, steps_per_epoch=2)
    common = ["--runs", str(tmp_path)]
    off = ["--data.init_args.modality_dropout", "false"]
    train.main(["fit", "--config", str(teacher), "--name", "teacher", *common, *off])
    checkpoint = tmp_path / "teacher" / "checkpoints" / "last.ckpt"

    student = tiny_config(
        street,
        tmp_path / "student.yaml",
        max_steps=2,
        steps_per_epoch=2,
        method="training.methods.anyseg.AnySegStudent",
        teacher=str(checkpoint),
        network={"head_width": 16},
        cmd={"reading": "pairs"},
    )
    train.main(["fit", "--config", str(student), "--name", "student", *common])
    log = (tmp_path / "student" / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    for term in ("segmentation", "umd", "cmd", "mad"):
        assert f"train/{term}" in log[0]
    trained = load_trained(tmp_path / "student" / "checkpoints" / "last.ckpt")
    assert trained.network.config.head_width == 16
    stored = torch.load(tmp_path / "student" / "checkpoints" / "last.ckpt", weights_only=True)
    assert not [name for name in stored["state_dict"] if "teacher" in name]


def test_weights_of_zero_leave_the_supervised_loss(street, tmp_path):
    path = tiny_config(street, tmp_path / "teacher.yaml", max_steps=1, steps_per_epoch=1)
    train.main(["fit", "--config", str(path), "--runs", str(tmp_path), "--name", "teacher"])
    checkpoint = tmp_path / "teacher" / "checkpoints" / "last.ckpt"
    zero = {"weight": 0.0}
    student = tiny_config(
        street,
        tmp_path / "student.yaml",
        max_steps=1,
        steps_per_epoch=1,
        method="training.methods.anyseg.AnySegStudent",
        teacher=str(checkpoint),
        **{"umd": zero, "cmd": zero, "mad": zero},
    )
    train.main(["fit", "--config", str(student), "--runs", str(tmp_path), "--name", "student"])
    left, right = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("teacher", "student")
    )
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
    # DDP waits for the gradient of every parameter: what nothing is compared by must not be there.
    fast = SegmentorConfig("fast_xs", head_width=32)
    off = {"umd": UmdConfig(weight=0.0), "cmd": CmdConfig(weight=0.0)}
    assert not list(AnySegStudent(checkpoint, fast, **off).projections.parameters())
    assert list(AnySegStudent(checkpoint, fast).projections.parameters())


def test_a_teacher_of_fewer_sensors_is_refused(street, tmp_path):
    path = tiny_config(street, tmp_path / "teacher.yaml", max_steps=1, steps_per_epoch=1)
    few = "--data.init_args.modalities=[camera, depth]"
    train.main(["fit", "--config", str(path), "--runs", str(tmp_path), "--name", "teacher", few])
    method = "training.methods.anyseg.AnySegStudent"
    checkpoint = str(tmp_path / "teacher" / "checkpoints" / "last.ckpt")
    student = tiny_config(street, tmp_path / "s.yaml", method, 1, 1, teacher=checkpoint)
    command = ["fit", "--config", str(student), "--runs", str(tmp_path), "--name", "student"]
    with pytest.raises(ValueError, match=r"trained on camera, depth and .* about event, lidar"):
        train.main(command)
    train.main([*command, few])


def test_the_teacher_sees_only_sensors_that_the_data_set_has(street, tmp_path):
    """As with MUSES, which has no depth: an empty image must not pass for what the teacher knows."""
    from training.methods.anyseg import AnySegStudent
    from training.methods.base import all_pairs

    def fit(name, *more, **settings):
        path = tiny_config(
            street, tmp_path / f"{name}.yaml", max_steps=2, steps_per_epoch=2, **settings
        )
        sensors = '--data.modalities=["camera","event","lidar"]'
        cli = train.main(
            ["fit", "--config", str(path), "--runs", str(tmp_path), "--name", name, sensors, *more]
        )
        return cli.model, tmp_path / name / "checkpoints" / "last.ckpt"

    _, teacher = fit("teacher", "--data.modality_dropout=false")
    method = "training.methods.anyseg.AnySegStudent"
    student, _ = fit("student", method=method, teacher=str(teacher), start_from_teacher=True)
    assert isinstance(student, AnySegStudent)
    assert [m.label for m in student.sensors] == ["camera", "event", "lidar"]
    assert len(student.validation_subsets) == 4
    batch = Batch(
        torch.randint(0, 256, (2, 4, 3, 32, 64), dtype=torch.uint8),
        torch.zeros(2, 32, 64, dtype=torch.uint8),
        torch.tensor([[True, False, False, True], [False, False, True, False]]),
    )
    images, ids, index = all_pairs(batch, student.sensors)
    assert ids.tolist() == [0, 2, 3, 0, 2, 3] and index.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(images[4], batch.images[1, 2])
    features, _ = student._teach(batch)
    student.eval()
    with torch.no_grad():
        alone = student.teacher.encode(batch.images[:, 3], torch.tensor([3, 3]))
    torch.testing.assert_close(features[0][[2, 5]], alone[0])


def test_each_modality_is_taught_alone_too(street, tmp_path):
    """The terms of a sensor's own prediction, where others are present, by hand."""
    torch.manual_seed(0)
    config = SegmentorConfig(head_width=16, classes=5, dropout=0.0)
    teacher = tmp_path / "teacher.ckpt"
    weights = AnymodalSegmentor(config).state_dict()
    torch.save(
        {
            "segmentor": asdict(config),
            "state_dict": {f"network.{name}": value for name, value in weights.items()},
            "global_step": 0,
            "method": {"name": "Supervised", "seed": 0},
            "data": {},
        },
        teacher,
    )
    ohem, mad = OhemConfig(threshold=0.99, minimum_share=1.0), MadConfig(weight=3.0)
    logged = {}
    method = AnySegStudent(teacher, config, ohem=ohem, mad=mad, alone=0.5).eval()
    method.log_dict = logged.update
    method.log = lambda *_, **__: None
    method.on_fit_start()
    images = torch.randint(0, 256, (3, 4, 3, 32, 64), dtype=torch.uint8)
    labels = torch.randint(0, 5, (3, 32, 64), dtype=torch.uint8)
    present = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    loss = method.training_step(Batch(images, labels, present), 0)
    assert loss.item() == pytest.approx(sum(v.item() for k, v in logged.items()), rel=1e-5)

    said, everything = (
        [],
        method.teacher.predictions(images, torch.ones(3, 4, dtype=torch.bool))[-1],
    )
    for sample, sensor in ((0, 0), (0, 2), (0, 3), (2, 1), (2, 3)):
        only = torch.zeros(1, 4, dtype=torch.bool)
        only[0, sensor] = True
        own = method.network.predictions(images[sample : sample + 1], only)[-1]
        cells = labels[sample, 2::4, 2::4].long()
        said.append(
            (
                torch.nn.functional.cross_entropy(own, cells[None]).item(),
                channel_kl(own, everything[sample : sample + 1]).item(),
            )
        )
    truth, likeness = (sum(values) / 5 for values in zip(*said, strict=True))
    assert logged["train/alone"].item() == pytest.approx(0.5 * truth, rel=1e-4)
    assert logged["train/mad_alone"].item() == pytest.approx(0.5 * 3.0 * likeness, rel=1e-3)
