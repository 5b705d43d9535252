"""What this machine's CPU reaches: fp32 GEMM and memory bandwidth, measured with numpy in a process of its own.

BLAS reads its number of threads once, when numpy is imported, so the measurement runs in a new process with
OMP_NUM_THREADS and its kin set. The largest of the repeats counts: whatever else runs only makes it slower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from codesign.errors import MeasurementError, SpecError
from codesign.profilers.host_cpu import cache_bytes, cores_usable
from codesign.profilers.host_limits import memory_bytes

if TYPE_CHECKING:
    import numpy as np

__all__ = ["measure_peaks"]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
_GEMM_SIZES = (512, 1024, 2048, 4096)
_ARRAY_MIN_B, _ARRAY_MAX_B = 64e6, 1e9


def measure_peaks(threads: int, seconds: float = 2.0) -> dict[str, float]:
    """Measure in a new process with `threads` threads, for about `seconds` (and the time to import numpy).

    Returns:
        gemm_fp32_flop_per_s: 2 n^3 / time of a square product, the best n of 512 to 4096.
        copy_Bps: bytes read plus bytes written, of a copy between two arrays (as STREAM counts).
        read_Bps: of a sum; gemv_fp32_Bps: bytes of the matrix per time of matrix times vector.
        threads; array_B: size of the arrays, four times the last cache but 64 MB at least and an eighth of the free
        memory at most.

    Raises:
        SpecError: threads or seconds out of range.
        MeasurementError: the process failed.
    """
    usable = cores_usable() or 1
    if not 1 <= threads <= usable:
        raise SpecError(f"threads is {threads}; allowed: 1 to {usable}, the CPUs that this process may use")
    if not 0 < seconds <= 600:
        raise SpecError(f"seconds is {seconds:g}; allowed: above 0 and up to 600")
    free_B = memory_bytes()[1] or 8 * _ARRAY_MIN_B
    cache_B = cache_bytes("/", 3) or cache_bytes("/", 2) or 0.0
    array_B = min(max(4 * cache_B, _ARRAY_MIN_B), _ARRAY_MAX_B, free_B / 8)
    code = "from codesign.profilers.host_peaks import _child; _child()"
    command = [sys.executable, "-c", code, str(threads), str(seconds), str(int(array_B))]
    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=10 * seconds + 120, check=False
        )
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise MeasurementError(f"measuring the CPU's peaks failed: {error}") from error
    if found is None:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"measuring the CPU's peaks failed (exit {done.returncode}): {last}")
    return {name: float(value) for name, value in found.items()}


def _child() -> None:
    threads, seconds, array_B = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(_measure(threads, seconds, array_B)))


def _best_s(run: Callable[[], object], budget_s: float) -> float:
    """Least time of a run, over the budget but twice at least (the first one warms up)."""
    best, end = float("inf"), time.perf_counter() + budget_s
    run()
    while True:
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() >= end:
            return best


def _measure(threads: int, seconds: float, array_B: int) -> dict[str, float]:
    import numpy as np

    rng = np.random.default_rng(0)
    budget_s = seconds / 4
    gemm = 0.0
    for n in _GEMM_SIZES:
        if gemm and 2 * n**3 / gemm > budget_s:  # a single product would take longer than the whole budget
            break
        a, b = rng.random((n, n), np.float32), rng.random((n, n), np.float32)
        out = np.empty((n, n), np.float32)
        gemm = max(gemm, 2 * n**3 / _best_s(lambda a=a, b=b, out=out: np.matmul(a, b, out=out), budget_s / 4))  # type: ignore[misc]
    columns = 4096
    rows = max(threads, array_B // (4 * columns))
    matrix, vector = rng.random((rows, columns), np.float32), rng.random(columns, np.float32)
    result = np.empty(rows, np.float32)
    gemv_s = _best_s(lambda: np.matmul(matrix, vector, out=result), budget_s)
    target = np.empty_like(matrix)
    parts = list(zip(np.array_split(matrix, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:  # numpy copies and sums in one thread, without holding the lock
        copy_s = _best_s(lambda: list(pool.map(_copy, parts)), budget_s)
        read_s = _best_s(lambda: list(pool.map(_sum, parts)), budget_s)
    size = float(matrix.nbytes)
    return {
        "gemm_fp32_flop_per_s": gemm,
        "copy_Bps": 2 * size / copy_s,
        "read_Bps": size / read_s,
        "gemv_fp32_Bps": size / gemv_s,
        "threads": float(threads),
        "array_B": size,
    }


def _copy(part: tuple[np.ndarray, np.ndarray]) -> None:
    part[1][...] = part[0]


def _sum(part: tuple[np.ndarray, np.ndarray]) -> float:
    return float(part[0].sum())
