"""The CUDA binding, against a fake driver compiled from C with the signatures of cuda.h; without a driver, for real."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from codesign.errors import MeasurementError
from codesign.profilers.tensorrt_cuda import Cuda

SOURCE = Path(__file__).parent / "data_tensorrt" / "fake_libcuda.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the fake driver")
    path = tmp_path_factory.mktemp("fake_cuda") / "libfakecuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(path), str(SOURCE)], check=True)
    lib = ctypes.CDLL(str(path))
    lib.fake_log.restype = ctypes.c_char_p
    return lib


def log(lib):
    text = lib.fake_log().decode().split()
    lib.fake_clear()
    return text


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_the_message_says_what_to_do():
    with pytest.raises(MeasurementError, match=r"no NVIDIA driver on this machine .*libcuda.* --engine onnxruntime"):
        Cuda()


def test_device_memory_streams_and_events(library):
    library.fake_clear()
    cuda = Cuda(library)
    assert (cuda.name, cuda.compute_capability, cuda.integrated) == ("Fake GPU 7", (8, 6), False)
    assert cuda.free_memory_B() == 6e9
    assert log(library) == ["init", "retain"]
    address = cuda.allocate(5)
    cuda.upload(address, b"hello")
    assert cuda.download(address, 5) == b"hello"
    assert log(library) == ["up", "ctxsync", "down"]
    empty = cuda.allocate(0)  # an empty cache still needs an address
    assert library.fake_live() == 2
    cuda.free(address)
    cuda.free(empty)
    assert library.fake_live() == 0
    stream = cuda.stream()
    start, end = cuda.event(), cuda.event()
    cuda.record(start, stream)
    cuda.record(end, stream)
    assert cuda.elapsed_s(start, end) == pytest.approx(0.0025)  # the driver says 2.5 ms
    assert log(library)[-4:] == ["record", "record", "eventsync", "elapsed"]
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.synchronize(stream)
    cuda.destroy_stream(stream)
    cuda.close()
    assert log(library) == ["unevent", "unevent", "sync", "unstream", "release"]


def test_a_graph_is_captured_once_and_a_failed_capture_is_ended(library):
    cuda = Cuda(library)
    stream = cuda.stream()
    library.fake_clear()
    graph = cuda.capture(stream, lambda: None)
    cuda.launch(graph, stream)
    cuda.destroy_graph(graph)
    assert log(library) == ["begin", "end", "instantiate", "undefinition", "launch", "ungraph"]

    def fails():
        raise MeasurementError("work failed")

    with pytest.raises(MeasurementError, match="work failed"):
        cuda.capture(stream, fails)
    assert log(library) == ["begin", "end"]


def test_errors_have_words(library):
    cuda = Cuda(library)
    with pytest.raises(MeasurementError, match="cuMemAlloc_v2 of the CUDA driver failed: out of device memory; take a"):
        cuda.allocate(2**31)
    with pytest.raises(MeasurementError, match="cuStreamSynchronize of the CUDA driver failed: error 400"):
        cuda.synchronize(1)
