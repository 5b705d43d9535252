"""Devices as text and as table rows; nothing is printed here."""

from __future__ import annotations

from codesign.devices.device import DTYPES, Device, PowerMode
from codesign.devices.fit import DeviceFit
from codesign.units import format_bytes, format_power

__all__ = ["describe", "device_row", "mode_rows"]


def _rate(value: float | None, scale: float, unit: str) -> str:
    return "-" if value is None else f"{value / scale:.4g} {unit}"


def _power(value: float | None) -> str:
    return "-" if value is None else format_power(value, 4)


def device_row(device: Device) -> dict[str, str]:
    """Return one line of the catalogue's table: column title to text.

    Example:
        >>> from codesign.devices import load_device
        >>> device_row(load_device("orin"))["bandwidth"]
        '204.8 GB/s'
    """
    estimated = "~" if device.peak_is_estimated else ""
    return {
        "name": device.name,
        "aliases": ", ".join(device.aliases),
        "title": device.title,
        "generation": device.generation,
        "mode": device.power_mode or "-",
        "fp16 dense": estimated + _rate(device.peak_flop_per_s.get("fp16"), 1e12, "TFLOP/s"),
        "bandwidth": _rate(device.bandwidth_Bps, 1e9, "GB/s"),
        "memory": format_bytes(device.memory_B, 4),
        "power": _power(device.power_limit_W),
        "confidence": device.confidence,
    }


def _mode_row(mode: PowerMode, device: Device) -> dict[str, str]:
    marks = [("in force", mode.name == device.power_mode), ("factory default", mode.is_default)]
    return {
        "mode": mode.name,
        "budget": _power(mode.power_budget_W),
        "SMs": "-" if mode.n_sm is None else str(mode.n_sm),
        "clock": _rate(mode.clock_Hz, 1e6, "MHz"),
        "bandwidth": _rate(mode.bandwidth_Bps, 1e9, "GB/s"),
        "fp16 dense": _rate(mode.peak_flop_per_s.get("fp16"), 1e12, "TFLOP/s"),
        "": ", ".join(text for text, is_so in marks if is_so),
        "note": mode.note,
    }


def mode_rows(device: Device) -> list[dict[str, str]]:
    """Return the device's power modes, one row each: column title to text; empty where it has none."""
    return [_mode_row(mode, device) for mode in device.power_modes]


def describe(device: Device) -> str:
    """Return everything known about a device, with its sources, as lines of plain text.

    Example:
        >>> from codesign.devices import load_device
        >>> print(describe(load_device("orin")).splitlines()[0])
        Jetson AGX Orin 64 GB (jetson_agx_orin_64gb)
    """
    units = {"gpu": "SMs or compute units"}.get(device.kind, "cores")
    peaks = [
        f"{dtype} {_rate(device.peak_flop_per_s[dtype], 1e12, 'T')}"
        for dtype in DTYPES
        if dtype in device.peak_flop_per_s
    ]
    sharing = "shared with the CPU" if device.unified_memory else "dedicated"
    reserved = format_bytes(device.memory_reserved_B, 3) if device.memory_reserved_B else "nothing"
    fields = {
        "aliases": ", ".join(device.aliases) or "-",
        "generation": f"{device.generation} ({device.family}, {device.kind})",
        "power mode": device.power_mode or "-",
        units: "-" if device.n_sm is None else str(device.n_sm),
        "clock": _rate(device.clock_Hz, 1e6, "MHz"),
        "dense peak /s": ", ".join(peaks) + (" (estimated)" if device.peak_is_estimated else ""),
        "bandwidth": _rate(device.bandwidth_Bps, 1e9, "GB/s"),
        "memory": f"{format_bytes(device.memory_B, 4)}, {sharing}; the system keeps {reserved}",
        "L2": "-" if device.l2_B is None else f"{device.l2_B / 2**20:.4g} MiB",
        "power": _power(device.power_limit_W),
        "price": "-" if device.price_usd is None else f"{device.price_usd:.0f} USD ({device.price_note})",
        "confidence": device.confidence,
        "notes": device.notes or "-",
    }
    lines = [f"{device.title} ({device.name})", *(f"  {name + ':':<22}{text}" for name, text in fields.items())]
    if device.power_modes:
        lines += ["  power modes:", *(f"    {_one_line(row)}" for row in mode_rows(device))]
    if device.fits:
        lines += ["  calibrations of its own:", *(f"    {_fit_line(fit)}" for fit in device.fits)]
    lines += ["  sources:", *(f"    {name}: {text}" for name, text in device.sources.items())]
    if device.power_modes:
        lines += [f"    power modes: {text}" for text in sorted({mode.source for mode in device.power_modes})]
    return "\n".join(lines)


def _fit_line(fit: DeviceFit) -> str:
    """Engine, precision and mode, and for each phase how many architectures were measured and the error left out."""
    options = ", ".join(f"{name} {value}" for name, value in sorted(fit.options.items()))
    parts = []
    for name, terms in (("prefill", fit.prefill), ("decode", fit.decode)):
        if terms is not None:
            kind = "hybrid" if terms.residual else "roofline"
            error = terms.held_out.get(f"{kind}_mape_pct")
            told = f"{error:.1f} % off with architectures left out" if error is not None else "error not known"
            parts.append(f"{name} {terms.n_architectures} architectures, {told}")
    if (energy := fit.energy) is not None:
        parts.append(
            f"energy {energy.idle_W:.3g} W idle, {1e12 * energy.flop_J:.3g} pJ/FLOP, {1e12 * energy.byte_J:.3g} pJ/byte, "
            f"{energy.held_out_mape_pct:.1f} % off with architectures left out"
        )
    mode = f" at {fit.power_mode}" if fit.power_mode else ""
    return f"{fit.engine} {fit.engine_version} ({options}), {fit.precision}{mode}: {'; '.join(parts)}; {fit.fitted_at[:10]}"


def _one_line(row: dict[str, str]) -> str:
    main = f"{row['mode']:<12}{row['budget']:<10}{row['SMs']:>3} SMs {row['clock']:>9} {row['bandwidth']:>11} "
    return (main + f"{row['fp16 dense']:>15}  " + "; ".join(text for text in (row[""], row["note"]) if text)).rstrip()
