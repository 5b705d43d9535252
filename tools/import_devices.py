"""Regenerate the device catalogue from the published specifications that were collected in two CSV tables.

    python tools/import_devices.py --data ../shared/data/latency [--out codesign/devices/catalogue] [--check]

Source: ``devices.csv`` (dense peaks, bandwidth, memory, price, how each peak was derived, the page each came from)
and ``power_modes.csv`` (Jetson nvpmodel modes). What the tables do not hold, and this file adds, is short names,
generations and, in `ESTIMATES`, 16-bit peaks that nobody publishes, each with its working. The same input gives the
same bytes. GB is 1e9 bytes; cache sizes ("4 MB" of L2) are binary, as the vendors' tools report them.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

MODE_FLOP_TOLERANCE = 0.002  # the tables print three or four digits

PEAK_COLUMNS = {
    "fp32": "fp32_tflops",
    "tf32": "tf32_tflops",
    "fp16": "fp16_tflops_dense",
    "bf16": "bf16_tflops_dense",
    "fp8": "fp8_tflops_dense",
    "int8": "int8_tops_dense",
    "int4": "int4_tops_dense",
    "fp4": "fp4_tflops_dense",
}

LEFT_OUT = {
    "snapdragon_8_elite": "the vector width of its Performance cores and its NPU peak are not published",
}

ALIASES: dict[str, list[str]] = {
    "a100_pcie_80gb": ["a100-pcie"],
    "a100_sxm_40gb": ["a100-40gb"],
    "a100_sxm_80gb": ["a100", "a100-80gb", "a100-sxm"],
    "a40": ["nvidia-a40"],
    "apple_m1_7c": ["m1", "apple-m1"],
    "apple_m1_max_32c": ["m1-max", "apple-m1-max"],
    "apple_m1_pro_14c": ["m1-pro", "apple-m1-pro"],
    "apple_m1_ultra_48c": ["m1-ultra", "apple-m1-ultra"],
    "apple_m2_ultra_76c": ["m2-ultra", "apple-m2-ultra"],
    "apple_m3_max_40c": ["m3-max", "apple-m3-max"],
    "apple_m3_pro_18c": ["m3-pro", "apple-m3-pro"],
    "apple_m3_ultra_80c": ["m3-ultra", "apple-m3-ultra"],
    "apple_m4_10c": ["m4", "apple-m4"],
    "apple_m4_max_40c": ["m4-max", "apple-m4-max"],
    "apple_m4_pro_20c": ["m4-pro", "apple-m4-pro"],
    "dgx_spark_gb10": ["gb10", "dgx-spark", "spark"],
    "epyc_9654": ["9654", "genoa-9654"],
    "gh200": ["grace-hopper"],
    "h100_pcie_80gb": ["h100-pcie"],
    "h100_sxm_80gb": ["h100", "h100-80gb", "h100-sxm"],
    "h200_sxm": ["h200"],
    "i5_1235u": ["core-i5-1235u"],
    "jetson_agx_orin_32gb": ["agx-orin-32gb", "orin-32gb"],
    "jetson_agx_orin_64gb": ["orin", "agx-orin", "jetson-orin", "jetson-agx-orin", "agx-orin-64gb", "orin-64gb"],
    "jetson_agx_orin_industrial": ["agx-orin-industrial", "orin-industrial"],
    "jetson_agx_thor_t5000": ["thor", "agx-thor", "jetson-thor", "jetson-agx-thor", "t5000", "thor-t5000"],
    "jetson_agx_xavier_32gb": ["xavier", "agx-xavier", "jetson-xavier", "jetson-agx-xavier"],
    "jetson_nano_4gb": ["jetson-nano"],
    "jetson_orin_nano_4gb": ["orin-nano-4gb"],
    "jetson_orin_nano_8gb": ["orin-nano", "orin-nano-8gb", "jetson-orin-nano"],
    "jetson_orin_nano_8gb_super": ["orin-nano-super", "jetson-orin-nano-super", "orin-nano-8gb-super"],
    "jetson_orin_nx_16gb": ["orin-nx", "orin-nx-16gb", "jetson-orin-nx"],
    "jetson_orin_nx_8gb": ["orin-nx-8gb"],
    "jetson_thor_t4000": ["t4000", "thor-t4000", "jetson-t4000"],
    "jetson_tx2": ["tx2"],
    "jetson_xavier_nx_8gb": ["xavier-nx", "jetson-xavier-nx"],
    "l4": ["nvidia-l4"],
    "mi250": ["instinct-mi250"],
    "mi250x": ["instinct-mi250x"],
    "mi300x": ["instinct-mi300x"],
    "pixel_6a": ["tensor-g1"],
    "raspberry_pi_4b": ["raspberry-pi-4", "rpi4", "pi4", "raspberry-pi-400", "pi400"],
    "raspberry_pi_5": ["rpi5", "pi5"],
    "rtx_3060_12gb": ["3060", "rtx-3060"],
    "rtx_3070_mobile": ["3070-mobile", "3070-laptop", "rtx-3070-laptop"],
    "rtx_3500_ada_laptop": ["3500-ada", "rtx-3500-ada"],
    "rtx_a6000": ["a6000"],
    "rtx_pro_6000_server": ["rtx-pro-6000", "rtx-pro-6000-blackwell"],
    "snapdragon_8_gen3": ["8-gen-3", "sd-8-gen-3"],
    "t4": ["tesla-t4"],
    "v100_sxm2_32gb": ["v100", "v100-32gb", "v100-sxm2"],
    "xeon_8480plus": ["xeon-8480+", "8480+"],
}

CPU_GENERATIONS = {
    "epyc_9654": ("x86-avx512", "cpu-x86"),
    "i5_1235u": ("x86-avx2", "cpu-x86"),
    "pixel_6a": ("cortex-x1", "cpu-arm"),
    "raspberry_pi_4b": ("cortex-a72", "cpu-arm"),
    "raspberry_pi_5": ("cortex-a76", "cpu-arm"),
    "snapdragon_8_gen3": ("cortex-x4", "cpu-arm"),
    "xeon_8480plus": ("x86-amx", "cpu-x86"),
}

_NEON = (
    "fp32 FLOP/clk from the number of 128-bit FMA pipes (8 FLOP each; the pipe counts are unverified); "
    "fp16 is 2x fp32; int8 (SDOT) is 4x fp32"
)

# 16-bit peaks that the tables do not hold, in units of 1e12 per second, and the columns that go with them.
ESTIMATES: dict[str, dict[str, Any]] = {
    "epyc_9654": {
        "peaks": {"fp16": "7.37"},
        "peak": "fp16 estimated: Zen 4 has no fp16 arithmetic; weights are converted and computed at the fp32 rate",
        "mem_capacity_gb": "384",
        "memory": "assumed configuration: one 32 GB module on each of 12 channels; the socket takes more",
    },
    "i5_1235u": {
        "sm_or_cu": "10",
        "peaks": {"fp32": "0.704", "fp16": "0.704", "int8": "2.816"},
        "peak": "estimated: 2 P-cores x 32 fp32 FLOP/clk (2 x 256-bit FMA) x 4.4 GHz + 8 E-cores x 16 (2 x 128-bit) x "
        "3.3 GHz = 0.704e12; no fp16 arithmetic, so fp16 at the fp32 rate; int8 (AVX-VNNI) is 4x. Turbo clocks on all "
        "cores at once: 15 W does not sustain them; FLOP/clk unverified",
        "spec": "cores, clocks, TDP and memory types: https://www.notebookcheck.net/"
        "i5-1235U-vs-SD-X1-26-100_14078_18623.247596.0.html (DDR4-3200 x 2 channels x 8 B = 51.2 GB/s)",
        "tdp_w": "15",
        "mem_capacity_gb": "16",
        "memory": "assumed configuration: 16 GB laptop; the capacity of the measured machine is not stated",
    },
    "jetson_thor_t4000": {
        "peaks": {"fp32": "4.69", "fp16": "150", "bf16": "150", "fp8": "300", "fp4": "600"},
        "peak": "estimated: the headline is 1200 sparse FP4 TFLOPS (unverified), 600 dense; fp8 is 1/2 and fp16 "
        "1/4 of dense fp4 (rates of this SM). It implies 600e12 / (12 SM x 32768 FLOP/clk) = 1.526 GHz; "
        "fp32 = 12 x 256 x that",
    },
    "pixel_6a": {
        "sm_or_cu": "8",
        "peaks": {"fp32": "0.309", "fp16": "0.618", "int8": "1.236"},
        "peak": "estimated (CPU only): 2 Cortex-X1 x 32 FLOP/clk x 2.802 GHz + 2 Cortex-A76 x 16 x 2.253 GHz + "
        "4 Cortex-A55 x 8 x 1.803 GHz = 0.309e12 fp32. " + _NEON,
        "spec": "cores and clocks: https://pocketnow.com/google-pixel-6-cpu-configuration; 6 GB: "
        "https://wccftech.com/pixel-6a-ram-chip-gpu-details-leaked/; "
        "bandwidth (LPDDR5, 64 bits at 6400 MT/s): unverified",
        "mem_capacity_gb": "6",
    },
    "raspberry_pi_4b": {
        "peaks": {"fp16": "0.048"},
        "peak": "fp16 estimated: Cortex-A72 (Armv8.0) has no fp16 arithmetic; computed at the fp32 rate",
    },
    "snapdragon_8_gen3": {
        "sm_or_cu": "6",
        "peaks": {"fp32": "0.355", "fp16": "0.71", "int8": "1.42"},
        "drop": ["int8_tops_dense"],
        "peak": "estimated (CPU only, without the two small cores): 1 Cortex-X4 x 32 FLOP/clk x 3.3 GHz + 3 "
        "Cortex-A720 x 16 x 3.2 GHz + 2 Cortex-A720 x 16 x 3.0 GHz = 0.355e12 fp32. " + _NEON,
        "spec": "cores and clocks: https://knowtechie.com/qualcomm-unveils-snapdragon-8-elite/; bandwidth: LPDDR5X at "
        "4800 MHz, 64 bits",
        "mem_capacity_gb": "12",
        "memory": "assumed configuration: a 12 GB phone",
        "notes": "CPU inference. NPU TOPS are not published by Qualcomm for phones; a third-party figure of 45 "
        "int8 TOPS is not used.",
    },
    "xeon_8480plus": {
        "peaks": {"fp32": "7.17", "fp16": "14.3"},
        "peak": "fp16 estimated: 56 cores x 128 FLOP/clk (2 x 512-bit AVX512-FP16 FMA) x 2.0 GHz; fp32 half of it. AMX "
        "takes bf16 and int8, not fp16: use bf16 for the matrix unit",
        "mem_capacity_gb": "512",
        "memory": "assumed configuration: one 64 GB module on each of 8 channels; the socket takes more",
    },
}

REWORD = [
    (r"recalled NVIDIA module spec \((.*?)\); not confirmed by a page here", r"NVIDIA module spec (\1), unverified"),
    (r"\(brief says 4\)", "(the Technical Brief says 4)"),
    (r" \(value in notes\)", ""),
    (r"HF msrp", "Hugging Face hardware list"),
    (r"^recalled; ", "unverified: "),
    (r"; recalled$", "; unverified"),
    (r"is recalled, not read here", "is unverified"),
    (r"are recalled", "are unverified"),
    (r"\brecalled\b", "unverified"),
    (r"NOT settled here", "not settled"),
    (r"other Thor modes \(120W etc\.\) not found here", "other Thor modes (120W etc.) are not listed"),
    (r"clocks there are wrong, so no peak is given", "its clocks are wrong"),
    (r" in the only source that uses it", " in the only published measurements"),
    (r"[;,\s]+$", ""),
]

GEFORCE_NOTE = (
    "fp16 is the tensor rate with fp16 accumulation; bf16 is the rate with fp32 accumulation, half of it, and what "
    "most engines reach in fp16 too."
)

MEMORY_RESERVED = {
    "apple": "rule: Metal's recommendedMaxWorkingSetSize, printed by llama.cpp as 22906.50 MB on 32 GiB (2/3) and "
    "51539.61 MB on 64 GiB (3/4): one third is kept up to 36 GB, one quarter above",
    "cpu": "rule: 0.3 GB for a headless system; a desktop or a phone keeps more",
    "unified": (
        "rule: 5 % of the capacity for carve-outs and kernel, plus 0.8 GB for a headless system and the CUDA context; on the "
        "safe side of what boards show: 'free' on a headless Orin Nano 8 GB has 6.6 GiB (7.1e9 B) available (issue 342 of "
        "dusty-nv/jetson-containers), the rule leaves 6.8e9; tegrastats on AGX Orin 64 GB has a total of 62841 MiB (65.9e9 B), "
        "the rule leaves 60e9"
    ),
    "discrete": "rule: none; the runtime's own context is not counted",
}


def memory_reserved(row: dict[str, str], kind: str) -> tuple[Decimal, str]:
    """Bytes that the system keeps of the memory, and why: the one place with this rule.

    Unified NVIDIA boards: 0.05 x capacity + 0.8e9. Apple: 1/3 of the capacity up to 36 GB, else 1/4. CPUs: 0.3e9.
    Discrete GPUs: 0.
    """
    capacity_B = Decimal(row["mem_capacity_gb"]) * 10**9
    if kind == "cpu":
        return Decimal(3 * 10**8), MEMORY_RESERVED["cpu"]
    if row["vendor"] == "Apple":
        kept = capacity_B / 3 if capacity_B <= 36 * 10**9 else capacity_B / 4
        return kept.quantize(Decimal("1E6")), MEMORY_RESERVED["apple"]
    if row["unified_memory"] == "yes":
        return capacity_B / 20 + 8 * 10**8, MEMORY_RESERVED["unified"]
    return Decimal(0), MEMORY_RESERVED["discrete"]


def reword(text: str) -> str:
    """Say where a number comes from in the product's own words."""
    for pattern, replacement in REWORD:
        text = re.sub(pattern, replacement, text.strip())
    return text


def number(value: Decimal, exponent: int = 0) -> str:
    """Write `value` x 10**`exponent` as a TOML number that parses to the nearest float.

    Example:
        >>> number(Decimal("42.63"), 12), number(Decimal("204.8"), 9)
        ('42.63e12', '204.8e9')
    """
    value = value * 10 ** (exponent % 3)
    exponent -= exponent % 3
    while value != 0 and abs(value) >= 1000:
        value, exponent = value / 1000, exponent + 3
    while value != 0 and abs(value) < 1 and exponent > 0:
        value, exponent = value * 1000, exponent - 3
    if exponent == 3:
        value, exponent = value * 1000, 0
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text}e{exponent}" if exponent else (text if "." in text else f"{text}.0")


def quoted(text: str) -> str:
    """Write a TOML basic string (JSON's escapes are a subset of TOML's)."""
    return json.dumps(text, ensure_ascii=False)


def listed(texts: list[str]) -> str:
    """Write a TOML array of strings."""
    return "[" + ", ".join(quoted(text) for text in texts) + "]"


def generation(row: dict[str, str]) -> tuple[str, str, str]:
    """Generation, family and kind of one row."""
    name, arch = row["device_id"], row["gpu_arch"]
    if name in CPU_GENERATIONS:
        return (*CPU_GENERATIONS[name], "cpu")
    if row["vendor"] == "Apple":
        return "apple", "apple", "gpu"
    slug = arch.lower().replace(" sm_", "-sm")
    if row["vendor"] == "AMD":
        return slug, "amd", "gpu"
    if name.startswith("jetson_"):
        return slug, "nvidia-jetson", "gpu"
    is_desktop = (name.startswith("rtx_") and name != "rtx_pro_6000_server") or name == "dgx_spark_gb10"
    return slug, "nvidia-desktop" if is_desktop else "nvidia-datacenter", "gpu"


def aliases(name: str) -> list[str]:
    """Short names of a device; GeForce cards get theirs by rule."""
    found = list(ALIASES.get(name, []))
    if match := re.fullmatch(r"rtx_(\d{4}(?:_ti|_ada)?)", name):
        short = match[1].replace("_", "-")
        found += [short] if short.endswith("ada") else [short, f"geforce-rtx-{short}"]
    return found


def complete(row: dict[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Fill a row's gaps from `ESTIMATES`."""
    extra = ESTIMATES.get(row["device_id"], {})
    filled = dict(row)
    for column in extra.get("drop", []):
        filled[column] = ""
    for dtype, value in extra.get("peaks", {}).items():
        filled[PEAK_COLUMNS[dtype]] = filled[PEAK_COLUMNS[dtype]] or value
    for column in ("sm_or_cu", "tdp_w", "mem_capacity_gb"):
        filled[column] = filled[column] or extra.get(column, "")
    return filled, extra


def mode_name(stated: str) -> tuple[str, list[str]]:
    """The mode's name without what was written behind it, and that text as an alias."""
    match = re.fullmatch(r"(\S+) \((.*)\)", stated)
    if match is None:
        extra = {"MAXN_SUPER": ["Super", "MAXN SUPER"], "MaxN": ["MAXN"]}.get(stated, [])
        return stated, [alias for alias in extra if alias.upper() != stated.upper()]
    return match[1], [stated] + (["nvpmodel -m 0"] if "nvpmodel" in match[2] else [])


def nominal_mode(row: dict[str, str], modes: list[dict[str, str]]) -> dict[str, str] | None:
    """The mode that the device's own row describes: the first at its clock and SM count."""
    at_row = [
        m for m in modes if (float(m["gpu_max_mhz"]), m["active_sm"]) == (float(row["gpu_clock_mhz"]), row["sm_or_cu"])
    ]
    if modes and not at_row:
        raise SystemExit(f"{row['device_id']}: no power mode runs at {row['gpu_clock_mhz']} MHz")
    return at_row[0] if at_row else None


def mode_lines(row: dict[str, str], mode: dict[str, str], nominal: dict[str, str], only_one: bool) -> list[str]:
    """One [[power_modes]] table.

    Every peak is the device's, scaled by active SM x clock; bandwidth is the device's where the memory clock is, so
    that two roundings of one number cannot disagree. A printed fp16 figure must agree.
    """
    name, known_as = mode_name(mode["mode"])
    if only_one and name == "MAXN_SUPER":
        known_as.append("MAXN")
    scale = Decimal(mode["active_sm"]) * Decimal(mode["gpu_max_mhz"])
    scale /= Decimal(nominal["active_sm"]) * Decimal(nominal["gpu_max_mhz"])
    same_memory = mode["emc_max_mhz"] == nominal["emc_max_mhz"]
    bandwidth = row["mem_bw_gb_s"] if same_memory else mode["mem_bw_gb_s"]
    if mode["fp16_tflops_dense"]:
        ratio = float(mode["fp16_tflops_dense"]) / float(Decimal(row["fp16_tflops_dense"]) * scale)
        if abs(ratio - 1) > MODE_FLOP_TOLERANCE:
            raise SystemExit(f"{row['device_id']} {name}: the table's fp16 peak is {ratio:.4f} of SM x clock")
    budget, note = mode["power_budget_w"], mode["notes"]
    watts = re.fullmatch(r"(?:up to )?(\d+)", budget)
    if budget and watts is None:
        note = "; ".join(filter(None, [budget.replace("(~", "(about ").replace(")", " W)"), note]))
    lines = ["", "[[power_modes]]", f"name = {quoted(name)}"]
    if known_as:
        lines.append(f"aliases = {listed(known_as)}")
    if watts:
        lines.append(f"power_budget_W = {number(Decimal(watts[1]))}")
    lines += [f"n_sm = {mode['active_sm']}", f"clock_Hz = {number(Decimal(mode['gpu_max_mhz']), 6)}"]
    lines += [f"bandwidth_Bps = {number(Decimal(bandwidth), 9)}"]
    if mode["default"] == "yes":
        lines.append("is_default = true")
    lines.append(f"source = {quoted(reword(mode['source']))}")
    if note:
        lines.append(f"note = {quoted(reword(note))}")
    lines += ["", "[power_modes.peak_flop_per_s]"]
    for dtype, column in PEAK_COLUMNS.items():
        if row[column]:
            peak = Decimal(row[column]) * scale
            peak = peak if scale == 1 else peak.quantize(Decimal("0.0001"))
            lines.append(f"{dtype} = {number(peak, 12)}")
    return lines


def device_toml(row: dict[str, str], modes: list[dict[str, str]]) -> str:
    """The whole file of one device."""
    row, extra = complete(row)
    slug, family, kind = generation(row)
    nominal = nominal_mode(row, modes)
    is_geforce = row["name"].startswith("GeForce")
    notes = [reword(extra.get("notes", row["notes"])), GEFORCE_NOTE if is_geforce else ""]
    peak_source = row["peak_derivation"] if "None MHz" not in row["peak_derivation"] else ""
    peak_source = "; ".join(filter(None, [reword(peak_source) if not extra.get("drop") else "", extra.get("peak", "")]))
    spec = extra.get("spec") or reword(row["spec_source"])
    reserved_B, reserved_source = memory_reserved(row, kind)
    lines = [
        "# Written by tools/import_devices.py; edit that, not this. Peaks are dense.",
        "schema = 1",
        f"name = {quoted(row['device_id'])}",
        f"title = {quoted(row['name'])}",
        f"vendor = {quoted(row['vendor'] or row['name'].split()[0])}",
        f"generation = {quoted(slug)}",
        f"family = {quoted(family)}",
        f"kind = {quoted(kind)}",
        f"aliases = {listed(aliases(row['device_id']))}",
    ]
    if row["sm_or_cu"]:
        lines.append(f"n_sm = {row['sm_or_cu']}")
    if row["gpu_clock_mhz"]:
        lines.append(f"clock_Hz = {number(Decimal(row['gpu_clock_mhz']), 6)}")
    for key, column in (("tdp_W", "tdp_w"), ("price_usd", "price_usd")):
        if row[column]:
            lines.append(f"{key} = {number(Decimal(row[column]))}")
    if row["price_usd"]:
        lines.append(f"price_note = {quoted(reword(row['price_note']))}")
    if nominal:
        lines.append(f"power_mode = {quoted(mode_name(nominal['mode'])[0])}")
    lines.append(f"peak_is_estimated = {'true' if 'peaks' in extra else 'false'}")
    lines.append(f"confidence = {quoted(row['confidence'])}")
    lines.append(f"notes = {quoted(' '.join(note for note in notes if note))}")
    lines += ["", "[memory]", f"capacity_B = {number(Decimal(row['mem_capacity_gb']), 9)}"]
    lines.append(f"bandwidth_Bps = {number(Decimal(row['mem_bw_gb_s']), 9)}")
    if row["l2_cache_mb"]:
        lines.append(f"l2_B = {int(Decimal(row['l2_cache_mb']) * 2**20)}")
    lines.append(f"unified = {'true' if row['unified_memory'] == 'yes' else 'false'}")
    lines += [f"reserved_B = {number(reserved_B)}", f"reserved_source = {quoted(reserved_source)}"]
    lines += ["", "[peak_flop_per_s]"]
    lines += [f"{key} = {number(Decimal(row[column]), 12)}" for key, column in PEAK_COLUMNS.items() if row[column]]
    lines += ["", "[sources]", f"spec = {quoted(spec)}", f"peak = {quoted(peak_source)}"]
    if row["price_usd"]:
        where = (
            "huggingface.js packages/tasks/src/hardware*.ts (msrp)" if "HF msrp" in row["price_note"] else "see spec"
        )
        lines.append(f"price = {quoted(where)}")
    if "memory" in extra:
        lines.append(f"memory = {quoted(extra['memory'])}")
    for mode in modes if nominal else []:
        assert nominal is not None
        only_one = not any(mode_name(other["mode"])[0] == "MAXN" for other in modes)
        lines += mode_lines(row, mode, nominal, only_one)
    return "\n".join(lines) + "\n"


def catalogue(data: Path) -> dict[str, str]:
    """Every file of the catalogue: file name to content."""
    with (data / "devices.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["device_id"] not in LEFT_OUT]
    with (data / "power_modes.csv").open(newline="", encoding="utf-8") as file:
        modes = list(csv.DictReader(file))
    rows.sort(key=lambda row: row["device_id"])
    files = {
        f"{row['device_id']}.toml": device_toml(row, [m for m in modes if m["device_id"] == row["device_id"]])
        for row in rows
    }
    index = {"version": 1, "devices": {row["device_id"]: aliases(row["device_id"]) for row in rows}}
    return files | {"index.json": json.dumps(index, indent=1, ensure_ascii=False) + "\n"}


def main(arguments: list[str] | None = None) -> int:
    """Write the catalogue, or with ``--check`` say which files differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with devices.csv and power_modes.csv")
    default = Path(__file__).resolve().parents[1] / "codesign" / "devices" / "catalogue"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    options = parser.parse_args(arguments)
    files = catalogue(options.data)
    present = {path.name: path.read_text(encoding="utf-8") for path in options.out.glob("*") if path.is_file()}
    stale = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    if options.check:
        print("\n".join(stale) if stale else "the catalogue is up to date")
        return 1 if stale else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - files.keys():
        (options.out / name).unlink()
    for name, text in files.items():
        (options.out / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(files) - 1} devices written; left out: {'; '.join(f'{k} ({v})' for k, v in LEFT_OUT.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
