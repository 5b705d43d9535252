"""`trtexec`, where TensorRT's Python package is absent: it builds the engine, times it and writes what it saw.

One run of trtexec is one visit: it warms up and repeats by itself, so it does not go through `Engine` (whose function runs
one pass). Flags are taken from the program's own help, because versions differ: TensorRT 10.3 (JetPack 6.2) has CUDA graph,
spin-wait and no transfers on request; 11 has all three on, and turns them off on request; its networks are always strongly
typed and the flag that asks for it may go.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import MeasurementError
from codesign.models.inputs import input_shape
from codesign.profilers.base import Point
from codesign.profilers.tensorrt_build import Flavour, input_values
from codesign.trtexec_files import LayerTime, TrtTimes, read_trtexec_profile, read_trtexec_times

__all__ = ["Trtexec", "TrtexecRun", "find_trtexec", "trtexec_command"]

_JETPACK = Path("/usr/src/tensorrt/bin/trtexec")
Runner = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]


def find_trtexec(given: str | None = None) -> Path:
    """The program: as given, on the PATH, or where JetPack puts it.

    Raises:
        MeasurementError: nowhere.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise MeasurementError(f"'{given}' is no program that can be run; give the path of trtexec")
        return Path(found)
    on_path = shutil.which("trtexec")
    if on_path is not None:
        return Path(on_path)
    if _JETPACK.exists():
        return _JETPACK
    raise MeasurementError(f"trtexec is neither on the PATH nor at {_JETPACK}; give its path")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtexecRun:
    """What one run gave: times of every pass, layers (empty unless asked for), the version, the command."""

    times: list[TrtTimes]
    layers: list[LayerTime]
    version: str
    command: tuple[str, ...]


def trtexec_command(
    program: Path,
    help_text: str,
    *,
    onnx: Path,
    shapes: dict[str, tuple[int, ...]],
    inputs: dict[str, Path],
    times: Path,
    profile: Path | None = None,
    cuda_graph: bool = False,
    workspace_MiB: int | None = None,
    min_time_s: int = 3,
    warm_up_ms: int = 500,
) -> list[str]:
    """The command line of one visit, of flags that this trtexec knows.

    Args:
        program, help_text: trtexec and what `trtexec --help` prints.
        onnx, shapes: the graph, and the shape of every input; inputs: files of the bytes of those that must not be
            random (trtexec draws token ids and positions from -128 to 127).
        times, profile: files to write; profile makes a second, profiled round of passes after the timed ones.
        cuda_graph: launch a pass as one CUDA graph.
        workspace_MiB: limit of scratch memory while building.
        min_time_s, warm_up_ms: how long to time, and to warm up before it.

    Raises:
        MeasurementError: a trtexec that lacks what the measurement needs.

    Example:
        >>> known = "--onnx --shapes --exportTimes --duration --warmUp --loadInputs --stronglyTyped --noDataTransfers"
        >>> line = trtexec_command(Path("trtexec"), known, onnx=Path("m.onnx"), shapes={"ids": (1, 8)},
        ...                        inputs={"ids": Path("ids.bin")}, times=Path("t.json"))
        >>> line[1:5]
        ['--onnx=m.onnx', '--shapes=ids:1x8', '--loadInputs=ids:ids.bin', '--stronglyTyped']
    """
    known = set(re.findall(r"--[A-Za-z]\w*", help_text))
    needed = ["--onnx", "--shapes", "--loadInputs", "--exportTimes", *(["--exportProfile"] if profile else [])]
    if missing := [flag for flag in needed if flag not in known]:
        raise MeasurementError(
            f"{program} has no {', '.join(missing)} in its help; is it trtexec of TensorRT 10 or later?"
        )
    command = [str(program), f"--onnx={onnx}"]
    command.append("--shapes=" + ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()))
    command.append("--loadInputs=" + ",".join(f"{name}:{path}" for name, path in inputs.items()))
    command += [flag for flag in ("--stronglyTyped", "--noTF32", "--noDataTransfers", "--useSpinWait") if flag in known]
    if cuda_graph:
        if not known & {"--useCudaGraph", "--noCudaGraph"}:
            raise MeasurementError(f"{program} knows no CUDA graphs; leave cuda_graph out")
        command += ["--useCudaGraph"] if "--useCudaGraph" in known else []
    elif "--noCudaGraph" in known:
        command.append("--noCudaGraph")
    if workspace_MiB is not None:
        command.append(f"--memPoolSize=workspace:{workspace_MiB}")
    command += [f"--warmUp={warm_up_ms}", f"--duration={min_time_s}", "--iterations=10", f"--exportTimes={times}"]
    if profile is not None:
        command += ["--separateProfileRun", "--dumpProfile", f"--exportProfile={profile}"]
    return command


def _run(command: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(command), capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)


class Trtexec:
    """A trtexec of this machine.

    Raises:
        MeasurementError: it cannot be run.
    """

    def __init__(self, program: str | None = None, *, run: Runner = _run) -> None:
        self.program = find_trtexec(program) if run is _run else Path(program or "trtexec")
        self._run = run
        shown = self._call([str(self.program), "--help"], 60.0)
        self.help_text = shown.stdout + shown.stderr
        self.version = _version(self.help_text)
        if self.version < (10,):
            raise MeasurementError(
                f"{self.program} is of TensorRT {'.'.join(map(str, self.version))}; codesign needs 10.0 or later"
            )

    def _call(self, command: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
        try:
            return self._run(command, limit_s)
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{self.program} did not end within {limit_s:.0f} s; raise the limit") from error
        except OSError as error:
            raise MeasurementError(f"cannot run {self.program}: {error.strerror or error}") from error

    @property
    def flavour(self) -> Flavour:
        """The graph that this version reads; see `codesign.profilers.tensorrt_build.flavour_of`."""
        return "standard" if self.version >= (10, 15) else "decomposed"

    def measure(
        self,
        model: Any,
        arch: Architecture,
        point: Point,
        *,
        cuda_graph: bool = False,
        workspace_MiB: int | None = None,
        layers: bool = False,
        limit_s: float = 3600.0,
    ) -> TrtexecRun:
        """Build one pass of a model with its shapes fixed, and time it.

        Args:
            model: an `OnnxModel` of `self.flavour`.
            arch, point: what it is, and the pass.
            cuda_graph, workspace_MiB: see `trtexec_command`; layers: profile them too, after the timed passes.
            limit_s: end it after this long.

        Raises:
            MeasurementError: trtexec failed; with its last error line.
            SchemaError: it wrote no times.
        """
        lengths = {"batch": point.batch_size, "tokens": point.tokens, "past": point.context_tokens}
        with tempfile.TemporaryDirectory(prefix="codesign-trtexec-") as folder:
            here = Path(folder)
            model.save(here / "model.onnx")
            names = [given.name for given in model.proto.graph.input]
            times, profile = here / "times.json", here / "profile.json"
            inputs = {}
            for name in ("input_ids", "position_ids"):
                inputs[name] = here / f"{name}.bin"
                inputs[name].write_bytes(input_values(name, input_shape(name, arch, **lengths), "INT64", arch, point))
            command = trtexec_command(
                self.program, self.help_text, onnx=here / "model.onnx",
                shapes={name: input_shape(name, arch, **lengths) for name in names}, inputs=inputs, times=times,
                profile=profile if layers else None, cuda_graph=cuda_graph, workspace_MiB=workspace_MiB,
            )  # fmt: skip
            done = self._call(command, limit_s)
            if done.returncode:
                raise MeasurementError(f"trtexec failed (exit code {done.returncode}): {_reason(done)}")
            return TrtexecRun(
                times=read_trtexec_times(times),
                layers=read_trtexec_profile(profile) if layers else [],
                version=".".join(map(str, self.version)),
                command=tuple(command),
            )


def _version(text: str) -> tuple[int, ...]:
    """Version of the banner `&&&& RUNNING TensorRT.trtexec [TensorRT v100300]`: two digits a part, or with dots.

    Up to TensorRT 9 the minor version has one digit (v8501 is 8.5.1).
    """
    found = re.search(r"TensorRT v(\d+(?:\.\d+)*)", text)
    if found is None:
        raise MeasurementError("its help names no version of TensorRT; is this trtexec?")
    if "." in found.group(1):
        return tuple(int(part) for part in found.group(1).split("."))
    number = int(found.group(1))
    if number < 10000:
        return (number // 1000, number // 100 % 10, number % 100)
    return (number // 10000, number // 100 % 100, number % 100)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines()]
    errors = [line for line in lines if "[E]" in line or "rror" in line]
    return (errors or [line for line in lines if line] or ["no output"])[0]
