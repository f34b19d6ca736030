"""The calls of ``cv_bridge.CvBridge`` that this package uses, for graphs without ``cv_bridge``.

Pixel formats come from ``rosbags-image``; rules of what converts to what are those of ``cv_bridge``.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.image.image import Format, ImageError, convert_color, to_cvtype

ImageArray = npt.NDArray[Any]

_NOT_IN_CV_BRIDGE = ("nv12", "nv21")


class CvBridgeError(TypeError):
    """An image that cannot be converted."""


def _format(encoding: str) -> tuple[Format, np.dtype[Any], int]:
    if encoding in _NOT_IN_CV_BRIDGE:
        raise CvBridgeError(f"Unrecognized image encoding [{encoding}]")
    try:
        _, colour, type_name, channels = to_cvtype(encoding)
    except ImageError:
        raise CvBridgeError(f"Unrecognized image encoding [{encoding}]") from None
    return colour, np.dtype(type_name), channels


def _convert(image: ImageArray, source: str, target: str) -> ImageArray:
    """Convert between encodings as ``cv_bridge``'s ``cvtColor`` does; scales 16 bit to 8 bit."""
    if source == target:
        return image
    source_colour, source_type, source_channels = _format(source)
    target_colour, target_type, target_channels = _format(target)
    if Format.GENERIC in (source_colour, target_colour):
        if source_colour is Format.GENERIC and target_colour is not Format.GENERIC:
            raise CvBridgeError(f"[{source}] is not a color format. but [{target}] is.")
        if source_channels != target_channels:
            raise CvBridgeError(f"[{source}] and [{target}] have different numbers of channels")
        return image.astype(target_type)
    if target_type.itemsize < source_type.itemsize:
        same_depth = target.replace("8", "16")
    elif target_type.itemsize > source_type.itemsize:
        same_depth = target.replace("16", "8")
    else:
        same_depth = target
    try:
        converted = convert_color(image, source, same_depth)
    except (ImageError, cv2.error) as error:
        raise CvBridgeError(str(error)) from None
    if target_type == source_type:
        return converted
    scale = 255.0 / 65535.0 if target_type == np.uint8 else 65535.0 / 255.0
    return np.rint(converted * np.float32(scale)).astype(target_type)


class CvBridge:
    """Converts between ``sensor_msgs`` images and numpy arrays."""

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = "passthrough") -> ImageArray:
        """Image message to an array of shape [H, W] or [H, W, C].

        Raises:
            CvBridgeError: for an unknown encoding or an impossible conversion.
            TypeError: if the data is shorter than height x step.
        """
        _, dtype, channels = _format(img_msg.encoding)
        wire_type = dtype.newbyteorder(">" if img_msg.is_bigendian else "<")
        columns = img_msg.step // dtype.itemsize // channels
        shape = (img_msg.height, columns) if channels == 1 else (img_msg.height, columns, channels)
        view: ImageArray = np.ndarray(shape, wire_type, buffer=img_msg.data)
        image = np.ascontiguousarray(view[:, : img_msg.width])
        if bool(img_msg.is_bigendian) == (sys.byteorder == "little"):
            image = image.astype(dtype)
        if desired_encoding == "passthrough":
            return image
        return _convert(image, img_msg.encoding, desired_encoding)

    def cv2_to_imgmsg(
        self, cvim: ImageArray, encoding: str = "passthrough", header: Any = None
    ) -> Any:
        """Array of shape [H, W] or [H, W, C] to an image message.

        Raises:
            CvBridgeError: if the array's type or channels are not those of ``encoding``.
        """
        from sensor_msgs.msg import Image

        channels = 1 if cvim.ndim < 3 else cvim.shape[2]
        kind = {"u": "U", "i": "S", "f": "F"}[cvim.dtype.kind]
        own_encoding = f"{cvim.dtype.itemsize * 8}{kind}C{channels}"
        message = Image()
        message.height, message.width = cvim.shape[:2]
        if header is not None:
            message.header = header
        message.encoding = own_encoding
        if encoding != "passthrough":
            _, dtype, expected_channels = _format(encoding)
            if dtype != cvim.dtype or expected_channels != channels:
                raise CvBridgeError(
                    f"encoding specified as {encoding}, but image has incompatible type {own_encoding}"
                )
            message.encoding = encoding
        if cvim.dtype.byteorder == ">":
            message.is_bigendian = True
        message.data.frombytes(cvim.tobytes())
        message.step = len(message.data) // message.height
        return message
