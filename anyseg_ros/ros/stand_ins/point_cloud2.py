"""The calls of ``sensor_msgs_py.point_cloud2`` that this package uses, for graphs without it."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_DATATYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.int8),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int16),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int32),
    6: np.dtype(np.uint32),
    7: np.dtype(np.float32),
    8: np.dtype(np.float64),
}


def dtype_from_fields(fields: Iterable[Any], point_step: int | None = None) -> np.dtype[Any]:
    """Structured numpy type of a point, from its ``PointField`` messages.

    Raises:
        KeyError: for an unknown datatype.
        AssertionError: for a count of 0 or a name that occurs twice.
        ValueError: if a field reaches beyond ``point_step``.
    """
    names: list[str] = []
    offsets: list[int] = []
    formats: list[str] = []
    for index, field in enumerate(fields):
        datatype = _DATATYPES[field.datatype]
        name = field.name or f"unnamed_field_{index}"
        assert field.count > 0, "Can't process fields with count = 0."
        for part in range(field.count):
            part_name = f"{name}_{part}" if field.count > 1 else name
            assert part_name not in names, "Duplicate field names are not allowed!"
            names.append(part_name)
            offsets.append(field.offset + part * datatype.itemsize)
            formats.append(datatype.str)
    layout: dict[str, Any] = {"names": names, "formats": formats, "offsets": offsets}
    if point_step is not None:
        layout["itemsize"] = point_step
    return np.dtype(layout)  # type: ignore[call-overload, no-any-return]


def read_points(
    cloud: Any, field_names: Sequence[str] | None = None, skip_nans: bool = False
) -> npt.NDArray[Any]:
    """Points of a cloud as a structured array ``[N]``; without NaN if asked and not dense."""
    points = np.ndarray(
        cloud.width * cloud.height,
        dtype_from_fields(cloud.fields, point_step=cloud.point_step),
        buffer=cloud.data,
    )
    if field_names is not None:
        assert all(name in (points.dtype.names or ()) for name in field_names), (
            "Requests field is not in the fields of the PointCloud!"
        )
        points = points[list(field_names)]
    if (sys.byteorder != "little") != bool(cloud.is_bigendian):
        points = points.byteswap(inplace=True)
    if skip_nans and not cloud.is_dense:
        keep = np.ones(len(points), dtype=bool)
        for name in points.dtype.names or ():
            keep &= ~np.isnan(points[name])
        points = points[keep]
    return points


def create_cloud(header: Any, fields: Sequence[Any], points: npt.NDArray[Any]) -> Any:
    """Build a ``PointCloud2`` from a structured array, or from ``[N, F]`` of one type."""
    from sensor_msgs.msg import PointCloud2

    dtype = dtype_from_fields(fields)
    if points.dtype.names is None:
        assert all(field.datatype == fields[0].datatype for field in fields[1:]), (
            "All fields need to have the same datatype. Pass a structured NumPy array instead."
        )
        structured = np.empty(len(points), dtype)
        for column, name in enumerate(dtype.names or ()):
            structured[name] = points[:, column]
        points = structured
    else:
        assert points.dtype == dtype, "PointFields and structured NumPy array dtype do not match!"
    data = array.array("B")
    data.frombytes(points.tobytes())
    cloud = PointCloud2(
        header=header,
        height=1 if points.ndim == 1 else points.shape[1],
        width=points.shape[0],
        is_dense=False,
        is_bigendian=sys.byteorder != "little",
        fields=fields,
        point_step=points.dtype.itemsize,
        row_step=points.dtype.itemsize * points.shape[0],
    )
    # Set after construction: the constructor checks every byte.
    cloud.data = data
    return cloud
