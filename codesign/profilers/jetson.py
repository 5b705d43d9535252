"""What an NVIDIA Jetson tells of itself: module, Jetson Linux (L4T), JetPack and power mode.

The module's part number in /proc/device-tree/compatible tells modules apart (``nvidia,p3768-0000+p3767-0005-super``: an
Orin Nano 8 GB on the carrier p3768); /proc/device-tree/model is the developer kit's name and differs by JetPack. Where
no known part number is there, the model and the memory decide.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from codesign.devices import load_device
from codesign.profilers.sysfs import is_real_root, read_table, read_text

__all__ = ["JetsonFacts", "catalogue_mode", "parse_nvpmodel", "query_nvpmodel", "read_jetson"]

#: Part numbers from NVIDIA's Jetson Linux Developer Guide, table of modules ("Jetson Modules and Configurations").
_MODULES = {
    "p3767-0000": "jetson_orin_nx_16gb",
    "p3767-0001": "jetson_orin_nx_8gb",
    "p3767-0003": "jetson_orin_nano_8gb",
    "p3767-0004": "jetson_orin_nano_4gb",
    "p3767-0005": "jetson_orin_nano_8gb",
    "p3701-0004": "jetson_agx_orin_32gb",
    "p3701-0005": "jetson_agx_orin_64gb",
    "p3701-0008": "jetson_agx_orin_industrial",
    "p3834-0000": "jetson_thor_t4000",
    "p3834-0008": "jetson_agx_thor_t5000",
    "p3668-0000": "jetson_xavier_nx_8gb",
    "p3668-0001": "jetson_xavier_nx_8gb",
    "p2888-0004": "jetson_agx_xavier_32gb",
    "p3310-1000": "jetson_tx2",
    "p3448-0000": "jetson_nano_4gb",
    "p3448-0002": "jetson_nano_4gb",
}
#: Model, least and largest total memory in bytes, device. Totals lie around the nominal capacity.
_MODELS = (
    (r"AGX Thor", 90e9, 140e9, "jetson_agx_thor_t5000"),
    (r"AGX Orin", 45e9, 70e9, "jetson_agx_orin_64gb"),
    (r"AGX Orin", 24e9, 36e9, "jetson_agx_orin_32gb"),
    (r"Orin NX", 12e9, 18e9, "jetson_orin_nx_16gb"),
    (r"Orin NX", 5.5e9, 9e9, "jetson_orin_nx_8gb"),
    (r"Orin Nano", 5.5e9, 9e9, "jetson_orin_nano_8gb"),
    (r"Orin Nano", 2.5e9, 4.5e9, "jetson_orin_nano_4gb"),
    (r"Xavier NX", 5.5e9, 9e9, "jetson_xavier_nx_8gb"),
    (r"AGX Xavier", 24e9, 36e9, "jetson_agx_xavier_32gb"),
    (r"Jetson[- ]Nano", 2.5e9, 4.5e9, "jetson_nano_4gb"),
    (r"TX2(?! NX)", 5.5e9, 9e9, "jetson_tx2"),
)
_JETPACK_OF_L4T = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JetsonFacts:
    """A Jetson board.

    model: developer kit's name; module: part number such as p3767-0005; device: name in the catalogue; l4t: such as
    36.4.3; jetpack: as the package nvidia-jetpack says (6.2.1), else the major number that goes with L4T; power_mode:
    as nvpmodel calls it; catalogue_power_mode: the catalogue's name of that mode. None where unknown.
    """

    model: str
    module: str | None = None
    device: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None
    catalogue_power_mode: str | None = None


def read_jetson(root: str | Path = "/") -> JetsonFacts | None:
    """Read the board; None where the machine is no Jetson."""
    tree = Path(root, "proc/device-tree")
    compatible = (read_text(tree, "compatible") or "").split("\0")
    release = read_text(root, "etc/nv_tegra_release")
    if release is None and not any(text.startswith("nvidia,tegra") for text in compatible):
        return None
    model = read_text(tree, "model") or "NVIDIA Jetson"
    module = _module(compatible)
    super_config = any(text.endswith("-super") for text in compatible) or model.endswith("Super")
    device = _device(module, model, _total_memory_B(root))
    if device == "jetson_orin_nano_8gb" and super_config:
        device = "jetson_orin_nano_8gb_super"
    mode = query_nvpmodel() if is_real_root(root) else None
    mode = mode or _stored_mode(root)
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release or "")
    return JetsonFacts(
        model=model,
        module=module,
        device=device,
        l4t=f"{found[1]}.{found[2]}" if found else None,
        jetpack=_jetpack_package(root) or (_JETPACK_OF_L4T.get(int(found[1])) if found else None),
        power_mode=mode,
        catalogue_power_mode=catalogue_mode(device, mode),
    )


def _module(compatible: list[str]) -> str | None:
    """Part number of the module; a developer kit flashed to behave as another module counts as that one."""
    for pattern in (r"-as-(p\d{4}-\d{4})", r"\+(p\d{4}-\d{4})", r"^nvidia,(p\d{4}-\d{4})"):
        for text in compatible:
            if found := re.search(pattern, text):
                return found[1]
    return None


def _device(module: str | None, model: str, memory_B: float | None) -> str | None:
    if module in _MODULES:
        return _MODULES[module]
    if memory_B is None:
        return None
    return next((name for text, low, high, name in _MODELS if re.search(text, model) and low <= memory_B <= high), None)


def _total_memory_B(root: str | Path) -> float | None:
    total = read_table(root, "proc/meminfo").get("MemTotal", "").split()
    return float(total[0]) * 1024 if total else None


def query_nvpmodel(command: str = "nvpmodel") -> str | None:
    """Name of the power mode from ``nvpmodel -q``; None without the command or the permission."""
    path = shutil.which(command)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_nvpmodel(done.stdout)


def parse_nvpmodel(output: str) -> str | None:
    """Name of the mode in the output of ``nvpmodel -q``.

    Example:
        >>> parse_nvpmodel("NV Power Mode: MODE_30W\\n2\\n")
        'MODE_30W'
    """
    found = re.search(r"NV Power Mode:[ \t]*(\S+)", output)
    return found[1] if found else None


def _stored_mode(root: str | Path) -> str | None:
    """The mode that nvpmodel keeps in /var/lib/nvpmodel/status, by the names of /etc/nvpmodel.conf."""
    number = re.search(r"pmode:(\d+)", read_text(root, "var/lib/nvpmodel/status") or "")
    names = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", read_text(root, "etc/nvpmodel.conf") or "", re.M)
    return next((name for key, name in names if number and int(key) == int(number[1])), None)


def _jetpack_package(root: str | Path) -> str | None:
    status = read_text(root, "var/lib/dpkg/status") or ""
    found = re.search(r"^Package: nvidia-jetpack\n(?:[^\n]+\n)*?Version: ([\d.]+)", status, re.M)
    return found[1] if found else None


def catalogue_mode(device: str | None, power_mode: str | None) -> str | None:
    """The catalogue's name of an nvpmodel mode, None where it does not list it.

    nvpmodel writes ``MODE_30W`` on AGX Orin where the catalogue and the data sheets write ``30W``.

    Example:
        >>> catalogue_mode("jetson_agx_orin_64gb", "MODE_30W"), catalogue_mode("jetson_orin_nano_4gb", "7W-AI")
        ('30W', '7W_AI')
    """
    if device is None or power_mode is None:
        return None
    wanted = _mode_key(power_mode.upper().removeprefix("MODE_"))
    for mode in load_device(device).power_modes:
        if wanted in {_mode_key(name) for name in (mode.name, *mode.aliases)}:
            return mode.name
    return None


def _mode_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
