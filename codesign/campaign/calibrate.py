"""From the store to a device file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from codesign.campaign.setup import phase_priors
from codesign.campaign.target import host_device, machine_name
from codesign.devices import Device, DeviceFit, load_device, user_devices
from codesign.errors import MeasurementError, SpecError
from codesign.measurement import Measurement, observe
from codesign.profilers.host import detect_host
from codesign.roofline.calibration import load_calibration
from codesign.roofline.device_calibration import PhaseReport, calibrate_device
from codesign.roofline.device_energy import calibrate_energy
from codesign.workload import PRECISIONS

_LOG = logging.getLogger(__name__)

__all__ = ["Calibrated", "calibrate_measurements", "device_to_calibrate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One fit, what each phase's cross-validation found, how many records it rests on, and architectures with metered energy."""

    fit: DeviceFit
    phases: Mapping[str, PhaseReport] = field(hash=False)
    records: int
    metered: int = 0


def device_to_calibrate(name: str, power_mode: str | None, threads: int) -> Device:
    """The device whose file is written: this machine with its peaks measured now, or one of the catalogue.

    Raises:
        UnknownNameError: no such device or mode. SpecError: a power mode for host.
    """
    if name.strip().lower() != "host":
        return load_device(name, power_mode)
    if power_mode is not None:
        raise SpecError(f"--power-mode {power_mode}: 'host' has no power modes; leave it out")
    device = host_device(threads)
    return replace(device, fits=load_device("host").fits) if (user_devices() / "host.toml").is_file() else device


def calibrate_measurements(
    device: Device, measurements: Iterable[Measurement], *, source: str, force: bool = False
) -> tuple[Device, list[Calibrated]]:
    """Fit every combination of engine, precision and options that was measured on a device in the mode in force.

    Args:
        device: at the mode that is calibrated. measurements: of any device; others are left aside.
        source: where the measurements come from, written into the file. force: take measurements of a host that was
            another machine, or of another power mode.

    Returns:
        The device with the new fits in place of those of the same engine, precision, options and mode; and the fits.

    Raises:
        SpecError: no measurement of the device, or an unknown precision.
        MeasurementError: measurements of another machine or power mode only.
    """
    own = [m for m in measurements if m.device == device.name]
    if not own:
        raise SpecError(
            f"no measurements of '{device.name}' in {source}; run codesign profile --device {device.name} --plan 20 first, or "
            "give --from FILE"
        )
    if unknown := sorted({m.precision for m in own} - set(PRECISIONS)):
        raise SpecError(
            f"measurements of '{device.name}' in {source} are of precision {', '.join(unknown)}, which this version does not know; "
            "give --precision, or update codesign"
        )
    own = _of_this_mode(device, own, force)
    here = machine_name(detect_host()) if device.name == "host" else ""
    if here and not force:
        foreign = sorted({m.machine for m in own} - {here, ""})
        if foreign:
            raise MeasurementError(
                f"measurements of 'host' in {source} are of another machine ({'; '.join(foreign)}; this is {here}); give the "
                "--campaign of this machine or another --store, or --force"
            )
    groups: dict[str, list[Measurement]] = {}
    for m in _of_newest_version(own):
        groups.setdefault(repr((m.engine, m.precision, sorted(m.options.items()), m.clock)), []).append(m)
    # one time for all: which of them is in force is then decided by their errors
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found = [_calibrate_one(device, group, source, here, now) for group in groups.values()]
    kept = [old for old in device.fits if all(_cell(old) != _cell(new.fit) for new in found)]
    return replace(device, fits=(*kept, *(new.fit for new in found))), found


def _of_this_mode(device: Device, own: Sequence[Measurement], force: bool) -> list[Measurement]:
    matching = [m for m in own if m.power_mode == device.power_mode]
    if matching:
        return matching
    modes = ", ".join(sorted({str(m.power_mode) for m in own}))
    if not force:
        raise MeasurementError(
            f"the measurements of '{device.name}' are of power mode {modes}, not {device.power_mode}; give --power-mode, or "
            "--force to take them as they are"
        )
    return [replace(m, power_mode=device.power_mode) for m in own]


def _of_newest_version(own: Sequence[Measurement]) -> list[Measurement]:
    """Records that `profile` made with an engine's last used version, and all from other tools' files."""
    last: dict[str, str] = {}
    for m in own:
        if m.source == "profile":
            last[m.engine] = m.engine_version
    kept = [m for m in own if m.source != "profile" or m.engine_version == last[m.engine]]
    if len(kept) < len(own):
        _LOG.warning(
            "%d measurements of older versions are left out; in use: %s",
            len(own) - len(kept), ", ".join(f"{engine} {version}" for engine, version in last.items()),
        )  # fmt: skip
    return kept


def _cell(fit: DeviceFit) -> tuple[object, ...]:
    return (fit.engine, fit.precision, sorted(fit.options.items()), fit.power_mode)


def _calibrate_one(device: Device, group: Sequence[Measurement], source: str, machine: str, now: str) -> Calibrated:
    first = group[0]
    rates = load_calibration().rates(replace(device, fits=()), first.engine, PRECISIONS[first.precision])
    guess = 0.5 if device.kind == "cpu" else max(rates.prefill.interval_log, rates.decode.interval_log)
    fit, reports = calibrate_device(
        observe(group),
        phase_priors(replace(device, fits=()), first.engine, first.precision, first.batch_size),
        source=f"{len(group)} measurements of {source}",
        machine=machine,
        guess_log=guess,
    )
    metered = len({repr(m.architecture) for m in group if m.energy_J})
    fit = replace(fit, energy=calibrate_energy(group, device), fitted_at=now)
    return Calibrated(fit=fit, phases=reports, records=len(group), metered=metered)
