"""Extrinsics from TF, where ``tf2_ros`` is installed (it has no Python wheel)."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from anyseg_ros.modalities import RigidTransform


class TransformSource:
    """Listens to TF and looks up fixed transforms; finds nothing where ``tf2_ros`` is missing."""

    def __init__(self, node: Node) -> None:
        self._buffer: Any = None
        self._listener: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        self.problem = ""
        """Why TF cannot be listened to; empty if it can."""
        try:
            import tf2_ros
        except ImportError as error:
            self.problem = f"tf2_ros cannot be imported ({error})"
            return
        self._errors = (tf2_ros.TransformException, ValueError)
        # Without the node: with it the buffer opens a service that it never closes.
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    @property
    def available(self) -> bool:
        return self._buffer is not None

    def lookup(self, target_frame: str, source_frame: str) -> RigidTransform | None:
        """``target_from_source``, or ``None`` while TF does not know it."""
        if self._buffer is None:
            return None
        try:
            found = self._buffer.lookup_transform(target_frame, source_frame, Time())
            t, q = found.transform.translation, found.transform.rotation
            return RigidTransform.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
        except self._errors:
            return None

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.unregister()
        self._listener = self._buffer = None
