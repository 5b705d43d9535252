"""Whether this machine is the device, and in the power mode, that a record will name."""

from __future__ import annotations

from collections.abc import Mapping

from codesign.devices import Device, load_bundled, load_device
from codesign.errors import MeasurementError, UnknownNameError
from codesign.profilers.host import HostFacts, machine_name

__all__ = ["board_mode", "check_board", "mode_options"]


def check_board(facts: HostFacts, device: str, power_mode: str | None, *, accelerator: bool) -> None:
    """Refuse a machine that is another device than the one named, or a Jetson in another mode.

    Devices that did not come with codesign cannot be recognised: a user's own file is the user's word. ``host`` is any
    machine.

    Args:
        facts: of this machine. device: name. power_mode: None: not checked. accelerator: its GPU runs the models.

    Raises:
        MeasurementError: another device or mode, or the board does not tell its mode.
        UnknownNameError: the device has no such mode.
    """
    try:
        name = load_bundled(device).name
    except UnknownNameError:
        return
    known = load_device(name)
    found = facts.accelerator_device if accelerator else facts.cpu_device
    if known.name != found:
        raise MeasurementError(_other(facts, known.name, found, accelerator))
    if power_mode is None or facts.jetson is None or not known.power_modes:
        return
    wanted = known.with_power_mode(power_mode).power_mode
    mode = board_mode(facts, known)
    if mode != wanted:
        raise MeasurementError(
            f"the board is in power mode {mode}, not {wanted}; set it with nvpmodel, name --power-mode {mode}, or --force if "
            "you know better"
        )


def _other(facts: HostFacts, named: str, found: str | None, accelerator: bool) -> str:
    if not accelerator and named == facts.accelerator_device:
        return (
            f"this machine is a '{named}', but the engine runs on its CPU, and '{named}' means its GPU; give --engine tensorrt "
            "or --provider cuda, or --device host for the CPU"
        )
    what = f"a '{found}'" if found else machine_name(facts)
    return (
        f"this machine is not a '{named}' but {what}; name --device {found or 'host'}, run on the board (or --on user@board), "
        "or --force if you know better"
    )


def board_mode(facts: HostFacts, device: Device) -> str:
    """The device's name of the mode that a Jetson is in.

    Raises:
        MeasurementError: nvpmodel does not tell, or the device has no such mode.
    """
    raw = facts.jetson.power_mode if facts.jetson else None
    mode = facts.jetson.catalogue_power_mode if facts.jetson else None
    if mode is None:
        why = f"'{device.name}' has no power mode '{raw}'" if raw else "nvpmodel does not tell the board's power mode"
        raise MeasurementError(
            f"{why}; allowed: {', '.join(m.name for m in device.power_modes)}; set one with nvpmodel (sudo nvpmodel -q shows "
            "it), or name the nearest with --power-mode and --force"
        )
    return mode


def mode_options(facts: HostFacts, power_mode: str | None) -> Mapping[str, str]:
    """What a record's options must hold beside its power mode: nvpmodel's own name where the mode does not say it.

    Boards whose device has no modes in the catalogue, and the CPU as ``host``, run at different speeds in different modes
    all the same; without this their visits would be folded into one.
    """
    raw = facts.jetson.power_mode if facts.jetson else None
    if facts.jetson is None or raw is None:
        return {}
    said = power_mode is not None and power_mode == facts.jetson.catalogue_power_mode
    return {} if said else {"nvpmodel": raw}
