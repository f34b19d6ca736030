"""The little of CUDA that neither TensorRT nor pycuda has: is there a device, and CUDA graphs.

Both through the driver's C interface (CUDA Driver API, libcuda), which comes with the driver itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_LIBRARY = "libcuda.so.1"
_THREAD_LOCAL_CAPTURE = (
    1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile
)


class CudaError(RuntimeError):
    """A call of the CUDA driver that failed; the message names it and the driver's code."""


def device_count() -> int:
    """Number of CUDA devices; 0 without a driver. Asked before TensorRT, which crashes without one."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


class CudaGraph:
    """Work on a stream, recorded once and launched with one call."""

    def __init__(self, stream: int, record: Callable[[], None]) -> None:
        """Record what ``record`` enqueues on ``stream`` (a CUstream handle); nothing is run.

        Raises:
            CudaError: if the work cannot be captured.
        """
        self._driver = ctypes.CDLL(_LIBRARY)
        self._stream = ctypes.c_void_p(stream)
        graph = ctypes.c_void_p()
        self._executable = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL_CAPTURE))
        try:
            record()
        except BaseException:
            self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))  # fails as well
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call(
            "cuGraphInstantiateWithFlags",
            ctypes.byref(self._executable),
            graph,
            ctypes.c_ulonglong(0),
        )
        self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Enqueue the recorded work on its stream."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def destroy(self) -> None:
        """Release it; not to be launched again."""
        self._call("cuGraphExecDestroy", self._executable)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise CudaError(f"{name} failed with CUresult {code}")
