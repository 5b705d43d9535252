"""Whole models from two shallow ones: latency is additive over equal layers.

    t(L) = t(a) + (L - a) / (b - a) * (t(b) - t(a))

for depths a < b of one shape, timed in one visit. results/host_cpu.md shows the error against models run as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codesign.architecture import Architecture
from codesign.errors import MeasurementError
from codesign.measurement import Measurement, epoch_medians
from codesign.models.features import is_stack

__all__ = ["can_compose", "compose"]


def can_compose(arch: Architecture) -> bool:
    """Whether all layers are alike: no mix of windows, of dense and expert layers, or of mixers."""
    return (
        not is_stack(arch)
        and arch.n_window_layers in (0, arch.n_layers)
        and not (arch.n_experts and arch.n_dense_layers)
    )


def compose(records: Sequence[Measurement], whole: Architecture) -> list[Measurement]:
    """Records of the whole model, one a pass, from those of two depths.

    Times of each clock are composed of the medians (a clock that does not count is left out where its noise makes that
    negative); peak memory likewise; energy likewise where both have it. They carry the flag "composed" and the flags of
    both.

    Raises:
        MeasurementError: a pass that was not measured at two depths, or a deeper model that was not slower.
    """
    passes: dict[tuple[object, ...], list[Measurement]] = {}
    for record in records:
        key = (record.phase, record.batch_size, record.tokens, record.context_tokens)
        passes.setdefault(key, []).append(record)
    out = []
    for pair in passes.values():
        depths = [m.architecture.n_layers for m in pair]
        if len(pair) != 2 or depths[0] >= depths[1]:
            raise MeasurementError(f"composition needs two rising depths of each pass, not {depths}")
        shallow, deep = pair
        steps = (whole.n_layers - depths[0]) / (depths[1] - depths[0])

        def extend(low: float | None, high: float | None, steps: float = steps) -> float | None:
            return None if low is None or high is None else low + steps * (high - low)

        def times(name: str, low: Measurement = shallow, high: Measurement = deep) -> tuple[float, ...]:
            a, b = getattr(low, name), getattr(high, name)
            lowest = [min(epoch_medians(v, m.epochs)) if v else None for v, m in ((a, low), (b, high))]
            composed = extend(lowest[0], lowest[1])
            return (composed,) if composed is not None and composed > 0 else ()

        if deep.seconds <= shallow.seconds:
            raise MeasurementError(
                f"{deep.label()} took no longer than with {depths[0]} layer(s): the machine is too noisy to compose whole "
                "models; measure again, or measure whole models"
            )
        energy = extend(shallow.energy_J, deep.energy_J)
        peak = extend(shallow.peak_memory_B, deep.peak_memory_B)
        out.append(
            replace(
                deep,
                architecture=whole,
                wall_s=times("wall_s"),
                cpu_s=times("cpu_s"),
                device_s=times("device_s"),
                energy_J=energy if energy is not None and energy > 0 else None,
                peak_memory_B=peak if peak is not None and peak > 0 else None,
                epochs=(),
                flags=tuple(dict.fromkeys(("composed", *shallow.flags, *deep.flags))),
            )
        )
    return out
