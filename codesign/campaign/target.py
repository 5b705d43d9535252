"""What is profiled: this machine or a board, as a `Device`, and whether the machine is the device that was named."""

from __future__ import annotations

from dataclasses import replace

from codesign.devices import Device, load_device, user_devices
from codesign.errors import MeasurementError, SpecError
from codesign.profilers.board import board_mode, check_board
from codesign.profilers.host import detect_host, machine_name, measure_peaks

__all__ = ["check_machine", "host_device", "machine_name", "target_device"]


def host_device(threads: int, *, seconds: float = 2.0) -> Device:
    """This machine's CPU as a device, its peaks measured now with `threads` threads.

    Raises:
        MeasurementError: the peaks or the memory cannot be measured.
    """
    facts = detect_host()
    if facts.memory_B is None:
        raise MeasurementError("this system does not tell how much memory it has; write a device file by hand")
    peaks = measure_peaks(threads, seconds)
    arm = facts.machine.lower() in ("aarch64", "arm64")
    best = next((name for name in ("avx512f", "avx2", "neon") if name in facts.isa), "scalar")
    flop, bandwidth = peaks["gemm_fp32_flop_per_s"], max(peaks["read_Bps"], peaks["gemv_fp32_Bps"])
    available = facts.memory_available_B or facts.memory_B
    how = f"measured with numpy on {threads} thread(s)"
    return Device(
        name="host",
        title=f"{facts.cpu_model or facts.machine} ({threads} thread{'s' if threads > 1 else ''})",
        vendor=(facts.cpu_model or "unknown").split()[0],
        generation=f"{'arm' if arm else 'x86'}-{best}",
        family="cpu-arm" if arm else "cpu-x86",
        kind="cpu",
        n_sm=facts.cores_usable,
        peak_flop_per_s={"fp32": flop},
        bandwidth_Bps=bandwidth,
        memory_B=facts.memory_B,
        memory_reserved_B=facts.memory_B - available,
        l2_B=facts.l2_B,
        unified_memory=True,
        sources={
            "spec": f"read from the system: {machine_name(facts)}",
            "peak": f"{how}: the best of square fp32 products and of sums over arrays four times the last cache",
            "memory_reserved": "in use by other programs when this was written",
        },
        confidence="medium",
    )


def check_machine(device: Device, power_mode: str | None, *, accelerator: bool, force: bool) -> Device:
    """The named device at the mode that this machine is in, refused where the machine is another.

    Args:
        device: as loaded; power_mode: as given by the user, or None: the mode that the board reports.
        accelerator: whether its GPU is profiled. force: take the user's word.

    Raises:
        MeasurementError: this machine is not that device, or is in another power mode; or a Jetson does not tell its mode
            and the user did not give it together with force.
    """
    facts = detect_host()
    if not force:
        check_board(facts, device.name, power_mode, accelerator=accelerator)
    if device.name == "host" and device.fits and not force:
        known = {fit.machine for fit in device.fits} - {""}
        if known and machine_name(facts) not in known:
            raise MeasurementError(
                f"the calibration of 'host' is of another machine ({', '.join(sorted(known))}; this is {machine_name(facts)}); "
                "calibrate here, or --force"
            )
    if facts.jetson is None or facts.accelerator_device != device.name or not device.power_modes:
        return device
    return device.with_power_mode(power_mode or board_mode(facts, device))


def target_device(name: str, power_mode: str | None, *, threads: int, accelerator: bool, force: bool) -> Device:
    """The device that this machine is to be profiled as.

    Raises:
        UnknownNameError: no such device. MeasurementError: see `check_machine`. SpecError: a power mode for host.
    """
    if name.strip().lower() == "host":
        if power_mode is not None:
            raise SpecError(f"--power-mode {power_mode}: 'host' has no power modes; leave it out")
        device = host_device(threads)
        own = user_devices() / "host.toml"
        return replace(device, fits=load_device("host").fits) if own.is_file() else device
    return check_machine(load_device(name, power_mode), power_mode, accelerator=accelerator, force=force)
