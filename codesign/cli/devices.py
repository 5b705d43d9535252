"""`codesign devices [NAME]`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["devices"]


def devices(
    name: Annotated[
        str | None, typer.Argument(help="A device, an alias (orin), or a device file. Without: list all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the devices, or show one with its power modes and sources.

    Example: codesign devices orin
    """
    import json

    from codesign.cli.common import console
    from codesign.devices import describe, device_row, load_catalogue, load_device, mode_rows

    if name is not None:
        device = load_device(name)
        if as_json:
            print(
                json.dumps(
                    {**device_row(device), "sources": dict(device.sources), "power_modes": mode_rows(device)}, indent=1
                )
            )
        else:
            print(describe(device))
        return
    catalogue = load_catalogue()
    rows = [device_row(device) for device in catalogue.values()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.table import Table

    table = Table(title=f"{len(rows)} devices", title_justify="left")
    for heading in ("name", "aliases", "16-bit peak", "bandwidth", "memory", "power modes"):
        right = heading in ("bandwidth", "memory")
        table.add_column(heading, overflow="fold", justify="right" if right else "left", no_wrap=heading == "name")
    for device in catalogue.values():
        half = max(device.peak_flop_per_s.get("fp16", 0.0), device.peak_flop_per_s.get("bf16", 0.0))
        table.add_row(
            device.name,
            ", ".join(device.aliases[:2]),
            f"{half / 1e12:.4g} TFLOP/s" + (" (estimated)" if device.peak_is_estimated else ""),
            f"{device.bandwidth_Bps / 1e9:.4g} GB/s",
            f"{device.memory_B / 1e9:.4g} GB",
            ", ".join(mode.name for mode in device.power_modes) or "-",
        )
    console().print(table)
    print("Show one with its modes and sources: codesign devices orin")
