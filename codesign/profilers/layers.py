"""Measured layers of one kind together: what a pass spends on attention, FFN and head, by operator."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codesign.trtexec_files import LayerTime

__all__ = ["over_layers"]

# Names that `codesign.models.onnx_graph` gives nodes, `layers.3.ffn/MatMul_35`; onnxruntime's operator in brackets behind.
_NODE = re.compile(r"^(?:layers\.\d+\.)?(\w+)/([A-Za-z]+)\S*(?: \((\w+)\))?$")


def over_layers(times: Sequence[LayerTime]) -> list[LayerTime]:
    """Sum equal parts of all layers, the most time first. Names of fused layers that say no part stay as they are.

    Example:
        >>> parts = over_layers([LayerTime(f"layers.{i}.ffn/MatMul_{i} (MatMul)", 1.0, 0.1, None, 0.5) for i in range(2)])
        >>> [(t.name, t.average_s, t.share) for t in parts]
        [('ffn: MatMul', 0.2, 1.0)]
    """
    groups: dict[str, list[LayerTime]] = {}
    for t in times:
        found = _NODE.match(t.name)
        groups.setdefault(f"{found[1]}: {found[3] or found[2]}" if found else t.name, []).append(t)
    summed = [
        LayerTime(
            name=name,
            time_s=sum(t.time_s for t in each),
            average_s=sum(t.average_s for t in each),
            median_s=None if any(t.median_s is None for t in each) else sum(t.median_s or 0.0 for t in each),
            share=sum(t.share for t in each),
        )
        for name, each in groups.items()
    ]
    return sorted(summed, key=lambda t: -t.time_s)
