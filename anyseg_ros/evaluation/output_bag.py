"""Results as a bag beside the recording, on the node's topics: RViz and Foxglove show it at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

from anyseg_ros.classes import ClassSet
from anyseg_ros.evaluation.bag import NS_PER_S, OUTPUT_MARK, Bag, BagError, known_types
from anyseg_ros.evaluation.evaluate import Listener
from anyseg_ros.evaluation.replay import SetResult, Walk
from anyseg_ros.evaluation.sources import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TF_MESSAGE,
    Rig,
)
from anyseg_ros.overlay import draw_overlay
from anyseg_ros.pipeline import Segmentation

_OVERLAY_ALPHA = 0.5
_JPEG_QUALITY = 88


class OutputBagWriter(Listener):
    """Writes labels, confidence, overlay and camera info of each set; static transforms are copied."""

    def __init__(self, path: Path, classes: ClassSet, node: str = "/anyseg") -> None:
        """Prepare to write.

        Args:
            path: folder of the bag; an earlier one is replaced.
            node: name that the topics begin with.
        """
        self.path = path
        self._classes = classes
        self._node = node
        self._types = known_types()
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}

    def begin(self, bag: Bag, walk: Walk, rig: Rig) -> None:
        """Open the bag.

        Raises:
            BagError: if it cannot be written, or is in the way of something that is no bag.
        """
        self._grid = walk.pipeline.grid
        self._camera = walk.pipeline.output_camera
        if self.path.exists():
            if not (self.path / "metadata.yaml").is_file():
                raise BagError(f"{self.path} is in the way: it is no bag, so it is not replaced")
            shutil.rmtree(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.set_custom_data(*OUTPUT_MARK)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f"cannot write {self.path}: {error}; give --write-bag DIR") from None
        static = [t.name for t in bag.topics if t.type == TF_MESSAGE and "static" in t.name]
        for recorded in bag.messages(static):
            try:
                message = recorded.decode()
            except Exception:  # a damaged message costs itself
                continue
            self._write(recorded.topic, TF_MESSAGE, recorded.log_time_ns, message)

    def take(
        self, result: SetResult, output: Segmentation, truth: npt.NDArray[np.uint8] | None
    ) -> None:
        """Write one set's messages, logged when the set was complete."""
        header = self._header(output.stamp_ns)
        overlay = draw_overlay(output, self._grid, self._classes, _OVERLAY_ALPHA)
        jpeg = cv2.imencode(".jpg", overlay, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        now = result.released_ns
        for name, picture in (("segmentation", output.labels), ("confidence", output.confidence)):
            height, width = picture.shape
            message = self._make(
                IMAGE,
                header=header,
                height=height,
                width=width,
                encoding="mono8",
                is_bigendian=0,
                step=width,
                data=np.ascontiguousarray(picture).ravel(),
            )
            self._write(f"{self._node}/{name}", IMAGE, now, message)
        compressed = self._make(
            COMPRESSED_IMAGE, header=header, format="bgr8; jpeg compressed bgr8", data=jpeg.ravel()
        )
        self._write(f"{self._node}/overlay/compressed", COMPRESSED_IMAGE, now, compressed)
        self._write(f"{self._node}/camera_info", CAMERA_INFO, now, self._info(header))

    def end(self) -> None:
        """Finish the bag."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _make(self, kind: str, /, **fields: Any) -> Any:
        make: Callable[..., Any] = self._types.types[kind]
        return make(**fields)

    def _header(self, stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
        stamp = self._make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._make("std_msgs/msg/Header", stamp=stamp, frame_id=self._grid.frame_id)

    def _info(self, header: Any) -> Any:
        camera = self._camera
        roi = self._make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        )
        return self._make(
            CAMERA_INFO,
            header=header,
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=camera.matrix.ravel(),
            r=np.eye(3).ravel(),
            p=np.concatenate([camera.matrix, np.zeros((3, 1))], 1).ravel(),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def _write(self, topic: str, kind: str, now_ns: int, message: Any) -> None:
        assert self._writer is not None
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types
            )
        self._writer.write(
            self._connections[topic], now_ns, self._types.serialize_cdr(message, kind)
        )
