"""Processes and subscribers for tests over real DDS, each test in a domain of its own."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, PointCloud2

from anyseg_ros.modality import Modality, parse_subset, subset_name
from anyseg_ros.ros.messages import stamp_ns

T = TypeVar("T")
START_S = 30.0
_ANSWER_S = 8.0
_ASK_TIMES = 4
_STATE_AFTER = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
}
"""Discovery can take many seconds on a loaded machine."""


@contextmanager
def domain() -> Iterator[int]:
    """A ROS domain that no other test on this machine uses."""
    for number in range(20, 100):
        claim = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            claim.bind(("127.0.0.1", 42100 + number))
        except OSError:
            claim.close()
            continue
        with claim:
            yield number
        return
    raise RuntimeError("every ROS domain from 20 to 99 is in use")


@contextmanager
def listening(number: int, subscribe: Callable[[Node], T]) -> Iterator[tuple[Node, T]]:
    """A node that spins on a thread of its own; ``subscribe`` is called with it before that."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=number)
    node = rclpy.create_node("listener", context=context)
    made = subscribe(node)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield node, made
    finally:
        executor.shutdown()
        thread.join(5)
        node.destroy_node()
        rclpy.shutdown(context=context)


@dataclass
class Process:
    """A Python module running with ROS in a domain."""

    process: subprocess.Popen
    log: Path

    @classmethod
    def start(cls, module: str, arguments: list[str], number: int, log: Path) -> Process:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(number), "PYTHONUNBUFFERED": "1"}
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return cls(process, log)

    def stop(self, how: int = signal.SIGINT) -> int:
        """End it as Ctrl-C does; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not end on signal {how}:\n{self.text()}") from None

    def text(self) -> str:
        return self.log.read_text()

    def wait_for_text(self, words: str) -> None:
        wait_until(lambda: words in self.text(), f"{words!r} in:\n{self.text()}")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def node_arguments(values: Mapping[str, object]) -> list[str]:
    """``--ros-args -p name:=value ...``"""
    arguments = ["--ros-args"]
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    return arguments


@dataclass(frozen=True)
class Result:
    """One ``~/modalities`` message: when it came and what was used."""

    received_s: float
    stamp_ns: int
    used: tuple[Modality, ...]
    anchor: Modality | None


@dataclass
class Watcher:
    """A subscriber beside the node, on a thread of its own."""

    number: int
    input_topics: Mapping[Modality, tuple[type, str]] = field(default_factory=dict)
    input_qos: QoSProfile = field(default_factory=lambda: qos_profile_sensor_data)

    def __enter__(self) -> Watcher:
        self.results: list[Result] = []
        self.masks: list[tuple[float, int]] = []
        self.inputs: dict[Modality, list[tuple[float, int]]] = {m: [] for m in self.input_topics}
        self.diagnostics: dict[str, Any] = {}
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.number)
        self.node = rclpy.create_node("watcher", context=self.context)
        subscribe = self.node.create_subscription
        subscribe(DiagnosticArray, "/anyseg/modalities", self._on_modalities, 50)
        subscribe(Image, "/anyseg/segmentation", self._on_mask, qos_profile_sensor_data)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        for modality, (kind, topic) in self.input_topics.items():
            subscribe(kind, topic, self._input(modality), self.input_qos, raw=True)
        self._change_state = self.node.create_client(ChangeState, "/anyseg/change_state")
        self._get_state = self.node.create_client(GetState, "/anyseg/get_state")
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown()
        self.thread.join(5)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _on_modalities(self, message: DiagnosticArray) -> None:
        values = {s.name: {v.key: v.value for v in s.values} for s in message.status}
        used = [name for name, entry in values.items() if entry["used"] == "true"]
        anchor = [name for name, entry in values.items() if entry["anchor"] == "true"]
        self.results.append(
            Result(
                time.monotonic(),
                stamp_ns(message.header.stamp),
                parse_subset(subset_name(map(Modality.from_label, used))),
                Modality.from_label(anchor[0]) if anchor else None,
            )
        )

    def _on_mask(self, message: Image) -> None:
        self.masks.append((time.monotonic(), stamp_ns(message.header.stamp)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics = {status.name: status for status in message.status}

    def _input(self, modality: Modality) -> Callable[[Any], None]:
        """Note when a sensor's message came and its stamp, which is first in any CDR message."""

        def receive(serialized: bytes) -> None:
            seconds, nanoseconds = struct.unpack_from("<iI", serialized, 4)
            stamp = seconds * 1_000_000_000 + nanoseconds
            self.inputs[modality].append((time.monotonic(), stamp))

        return receive

    def transition(self, which: int) -> bool:
        """Ask the node for a lifecycle transition, as ``ros2 lifecycle set`` does.

        An answer that is sent before the server has discovered the asker is lost, in DDS as such: then
        the node's state tells whether the transition was made, and if not, it is asked for again.
        """
        assert self._change_state.wait_for_service(START_S)
        for _ in range(_ASK_TIMES):
            request = ChangeState.Request(transition=Transition(id=which))
            answer = self._answer(self._change_state, request)
            if answer is not None:
                return bool(answer.success)
            state = self._answer(self._get_state, GetState.Request())
            if state is not None and state.current_state.id == _STATE_AFTER[which]:
                return True
        raise AssertionError(f"no answer to transition {which}")

    def _answer(self, client: Client, request: Any) -> Any:
        future = client.call_async(request)
        deadline = time.monotonic() + _ANSWER_S
        while not future.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        return future.result() if future.done() else None


INPUT_KINDS: dict[Modality, type] = {
    Modality.CAMERA: Image,
    Modality.DEPTH: Image,
    Modality.EVENT: PointCloud2,
    Modality.LIDAR: PointCloud2,
}
