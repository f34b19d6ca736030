"""Two processes over gloo give the gradient of one process with the joint batch."""

import socket
from dataclasses import asdict

import pytest
import torch
from joint_gradients import CASES, CONFIG, gradients, joint_batch, rank_main
from torch import nn

from training.models.batch_norm import JointBatchNorm2d
from training.models.segmentor import AnymodalSegmentor

pytestmark = pytest.mark.timeout(600)  # spawned processes import torch anew


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    torch.manual_seed(0)
    network = AnymodalSegmentor(CONFIG)
    teacher = folder / "teacher.ckpt"
    torch.save(
        {
            "segmentor": asdict(CONFIG),
            "state_dict": {f"network.{k}": v for k, v in network.state_dict().items()},
            "global_step": 0,
            "method": {"name": "Supervised", "seed": 0},
            "data": {},
        },
        teacher,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(rank_main, (port, teacher, folder), nprocs=2)
    ranks = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    return teacher, ranks


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_gradient_of_the_joint_batch(results, case):
    teacher, ranks = results
    expected = gradients(teacher, case, joint_batch(), False)
    largest = max(value.abs().max() for value in expected.values())
    for name, value in expected.items():
        assert value.isfinite().all() and value.abs().max() > 0, name
        for rank in ranks:
            torch.testing.assert_close(
                rank[case][name], value, rtol=1e-3, atol=1e-5 * float(largest), msg=name
            )


def test_the_joint_threshold_ranks_the_values_of_all_processes(results):
    assert [rank["threshold"].item() for rank in results[1]] == [7.0, 7.0]


def test_alone_the_joint_norm_is_the_plain_one():
    torch.manual_seed(0)
    joint, plain = JointBatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(joint(x), plain(x), rtol=0, atol=0)
    assert torch.equal(joint.running_var, plain.running_var)
