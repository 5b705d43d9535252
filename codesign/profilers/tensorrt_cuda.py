"""The few calls of the CUDA driver that running an engine needs, by ctypes on `libcuda.so.1`.

Why the driver and not the runtime library: it is the one CUDA library that is there wherever a GPU is (JetPack, a
container, a bare driver), its functions keep their binary interface over all CUDA versions, and it must be probed anyway
because TensorRT's runtime crashes without it. `cuda-python` would be a package more, tied to a CUDA version. Streams of
the driver and of the runtime are the same handles, and both use the device's primary context (CUDA driver API,
"Interactions with the CUDA runtime"), so TensorRT accepts them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from codesign.errors import MeasurementError

__all__ = ["Cuda"]

_P = ctypes.c_void_p
_OUT = ctypes.POINTER
_U64 = ctypes.c_uint64
_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (_OUT(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_OUT(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_OUT(_P), ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (_P,),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (_OUT(ctypes.c_size_t), _OUT(ctypes.c_size_t)),
    "cuMemAlloc_v2": (_OUT(_U64), ctypes.c_size_t),
    "cuMemFree_v2": (_U64,),
    "cuMemcpyHtoD_v2": (_U64, _P, ctypes.c_size_t),
    "cuMemcpyDtoH_v2": (_P, _U64, ctypes.c_size_t),
    "cuStreamCreate": (_OUT(_P), ctypes.c_uint),
    "cuStreamSynchronize": (_P,),
    "cuStreamDestroy_v2": (_P,),
    "cuEventCreate": (_OUT(_P), ctypes.c_uint),
    "cuEventRecord": (_P, _P),
    "cuEventSynchronize": (_P,),
    "cuEventElapsedTime": (_OUT(ctypes.c_float), _P, _P),
    "cuEventDestroy_v2": (_P,),
    "cuStreamBeginCapture_v2": (_P, ctypes.c_int),
    "cuStreamEndCapture": (_P, _OUT(_P)),
    "cuGraphInstantiateWithFlags": (_OUT(_P), _P, ctypes.c_ulonglong),
    "cuGraphLaunch": (_P, _P),
    "cuGraphExecDestroy": (_P,),
    "cuGraphDestroy": (_P,),
}
_COMPUTE_MAJOR, _COMPUTE_MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no implicit waits on the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads' calls do not break the capture


class Cuda:
    """The first CUDA device of this process (choose another by CUDA_VISIBLE_DEVICES).

    Raises:
        MeasurementError: no driver, no device, or a call that failed.
    """

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = ctypes.CDLL("libcuda.so.1")
            except OSError as error:
                raise MeasurementError(
                    "no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded); --engine tensorrt runs on a machine "
                    "with an NVIDIA GPU, for other machines take --engine onnxruntime"
                ) from error
        self._lib = library
        for name, arguments in _CALLS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(arguments), ctypes.c_int
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device.value
        label = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", label, len(label), self._device)
        self.name = label.value.decode(errors="replace")
        self.compute_capability = (self._attribute(_COMPUTE_MAJOR), self._attribute(_COMPUTE_MINOR))
        self.integrated = bool(self._attribute(_INTEGRATED))
        context = _P()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._lib, name)(*arguments)
        if code:
            raise MeasurementError(f"{name} of the CUDA driver failed: {_REASONS.get(code, f'error {code}')}")

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _new(self, name: str, *arguments: Any) -> int:
        handle = _P()
        self._call(name, ctypes.byref(handle), *arguments)
        return int(handle.value or 0)

    def free_memory_B(self) -> float:
        """Free device memory in bytes (of the memory shared with the CPU where the GPU is integrated)."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return float(free.value)

    def allocate(self, size_B: int) -> int:
        """Address of new device memory; CUDA has no empty allocations, so at least one byte."""
        address = _U64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(size_B, 1))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", address)

    def upload(self, address: int, data: bytes | memoryview) -> None:
        """Copy host bytes to device memory."""
        array = (ctypes.c_char * len(data)).from_buffer_copy(data)
        self._call("cuMemcpyHtoD_v2", address, ctypes.cast(array, _P), len(data))
        self._call("cuCtxSynchronize")  # pageable copies may return early, and our stream does not wait for them

    def download(self, address: int, size_B: int) -> bytes:
        """Copy device memory to the host."""
        array = ctypes.create_string_buffer(size_B)
        self._call("cuMemcpyDtoH_v2", ctypes.cast(array, _P), address, size_B)
        return array.raw

    def stream(self) -> int:
        """A new stream; `synchronize` waits for its work, `destroy_stream` ends it."""
        return self._new("cuStreamCreate", _NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        """Wait for a stream's work."""
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self._call("cuStreamDestroy_v2", stream)

    def event(self) -> int:
        """A new event that takes the time."""
        return self._new("cuEventCreate", 0)

    def record(self, event: int, stream: int) -> None:
        """Put an event behind a stream's work so far."""
        self._call("cuEventRecord", event, stream)

    def elapsed_s(self, start: int, end: int) -> float:
        """Seconds from one event to another, after waiting for the second (the driver gives milliseconds)."""
        self._call("cuEventSynchronize", end)
        elapsed_ms = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed_ms), start, end)
        return float(elapsed_ms.value) * 1e-3

    def destroy_event(self, event: int) -> None:
        """End an event."""
        self._call("cuEventDestroy_v2", event)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` puts on the stream as a graph, without running it; `launch` runs it.

        Raises:
            MeasurementError: the work cannot be captured.
        """
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        graph = _P()
        try:
            work()
        finally:  # a stream left capturing refuses all that follows
            self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return self._new("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Run a captured graph."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """End a captured graph."""
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Let go of the device's context."""
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)


_REASONS = {
    2: "out of device memory; take a smaller model, a smaller batch or a shorter context",
    100: "no CUDA device; is it visible to this process (CUDA_VISIBLE_DEVICES)?",
    209: "the driver has no kernels for this device",
    700: "a kernel accessed an illegal address",
    719: "a kernel failed",
    803: "driver and CUDA libraries have different versions",
    999: "unknown error (999)",
}
