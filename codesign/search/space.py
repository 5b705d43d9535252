"""The design space: axes of values, their product, and the architectures at its points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.errors import SpecError
from codesign.search.experts import expert_counts, experts_name
from codesign.search.mixers import parse_mixer, with_mixer

__all__ = ["AXES", "CATEGORIES", "MAX_BLOCK", "Block", "DesignSpace"]

Index = NDArray[np.int64]

#: Axes of every space, outermost first; the last three span the mesh of a block.
AXES = ("precision", "vocab_size", "mixer", "experts", "d_head", "n_kv_heads", "n_layers", "d_model", "ffn_ratio")
_MESH = AXES[-3:]
#: Axes whose values have no order.
CATEGORIES = ("precision", "mixer", "experts")
MAX_BLOCK = 1 << 18
_MAX_VALUE = 10**9  # products of the largest axis values stay finite
_MAX_SHARED = 1024
_MAX_SIZE = 1 << 62  # linear indices are 64-bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One slab of the space: a precision, a mixer, an open mesh of architectures, their validity and their index.

    `arch` has the broadcast shape `shape`; `valid` is a mask of that shape; `start` the linear index of the first point,
    points of the block following one another.
    """

    precision: str
    mixer: str
    arch: ArchitectureBatch
    shape: tuple[int, ...]
    valid: NDArray[np.bool_]
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignSpace:
    """The product of axes.

    Args:
        axes: values by axis name (`AXES`). ffn_ratio is the *activated* FFN width over d_model: for K of E experts each is
            ffn_ratio * d_model / K wide. experts: values of `codesign.search.experts`, (0, 0) for a dense FFN. n_kv_heads 0 means as many as
            query heads. mixer: values of `codesign.search.mixers`; full attention alone where the axis is not given.
        ff_multiple: FFN widths are rounded to this multiple (the hardware's granularity).
        tied_embeddings, ffn_gated: of every design. family: config.json family of (dense, mixture) designs.
        name: shown in reports.

    Raises:
        SpecError: an unknown or empty axis, a value out of range, or duplicate values.
    """

    axes: Mapping[str, tuple[Any, ...]] = field(hash=False)
    ff_multiple: int = 64
    tied_embeddings: bool = True
    ffn_gated: bool = True
    name: str = "custom"

    def __post_init__(self) -> None:
        if "mixer" not in self.axes:
            object.__setattr__(self, "axes", {**self.axes, "mixer": ("full",)})
        mixers = [parse_mixer(value) for value in self.axes["mixer"]]
        if not self.ffn_gated and any(mixer.kind != "full" for mixer in mixers):
            raise SpecError("a plain FFN (ffn_gated = false) goes with mixer 'full' only")
        for axis in AXES:
            values = self.axes.get(axis, ())
            if not values:
                raise SpecError(f"the design space has no values for '{axis}'; axes: {', '.join(AXES)}")
            if len({repr(value) for value in values}) != len(values):
                raise SpecError(f"axis '{axis}' of the design space holds a value twice")
        for axis, low in (("vocab_size", 1), ("d_head", 1), ("n_kv_heads", 0), ("n_layers", 1), ("d_model", 1)):
            for value in self.axes[axis]:
                if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _MAX_VALUE:
                    raise SpecError(
                        f"axis '{axis}': {value!r} is not a whole number of at least {low} (at most {_MAX_VALUE:g})"
                    )
        for ratio in self.axes["ffn_ratio"]:
            number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
            if not (number and 0 < ratio <= _MAX_VALUE):
                raise SpecError(f"axis 'ffn_ratio': {ratio!r} is not a number above zero (at most {_MAX_VALUE:g})")
        if not self.ffn_gated and any(value[0] for value in self.axes["experts"]):
            raise SpecError(
                "a plain FFN (ffn_gated = false) with experts has no known model family; make experts dense only"
            )
        if self.size > _MAX_SIZE:
            raise SpecError(
                f"the design space has {self.size:.3g} points; at most {_MAX_SIZE:.3g} can be numbered: shorten an axis"
            )
        for value in self.axes["experts"]:
            experts, active, shared = expert_counts(value)
            if not (experts == active == shared == 0 or 1 <= active <= experts <= _MAX_VALUE) or shared > _MAX_SHARED:
                raise SpecError(
                    f"axis 'experts': {experts}x{active}{f'+{shared}' if shared else ''} is not E experts with 1 to E active and at most {_MAX_SHARED} shared"
                )

    @property
    def size(self) -> int:
        """Points of the product, valid or not."""
        return math.prod(len(self.axes[axis]) for axis in AXES)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of values of each axis, in the order of `AXES`."""
        return tuple(len(self.axes[axis]) for axis in AXES)

    @property
    def n_blocks(self) -> int:
        """Number of slabs that `blocks` yields."""
        outer = math.prod(len(self.axes[axis]) for axis in AXES[:-3])
        return outer * -(-len(self.axes["n_layers"]) // self._layers_per_block)

    @property
    def _layers_per_block(self) -> int:
        return max(1, MAX_BLOCK // (len(self.axes["d_model"]) * len(self.axes["ffn_ratio"])))

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks first to stop - 1 in order; each has at most about MAX_BLOCK points and every outer axis fixed."""
        layers, widths, ratios = (self.axes[axis] for axis in _MESH)
        per_layer = len(widths) * len(ratios)
        step = self._layers_per_block
        parts = -(-len(layers) // step)
        outer = self.lengths[:-3]
        for number in range(first, min(stop if stop is not None else self.n_blocks, self.n_blocks)):
            index = np.unravel_index(number // parts, outer)
            fixed = {axis: self.axes[axis][int(i)] for axis, i in zip(AXES[:-3], index, strict=True)}
            low = number % parts * step
            part = layers[low : low + step]
            mesh = np.ix_(*(np.asarray(values, dtype=np.float64) for values in (part, widths, ratios)))
            arch, valid = self.build(fixed, *mesh)
            shape = (len(part), len(widths), len(ratios))
            start = (number // parts * len(layers) + low) * per_layer
            yield Block(
                precision=fixed["precision"],
                mixer=fixed["mixer"],
                arch=arch,
                shape=shape,
                valid=np.broadcast_to(valid, shape),
                start=start,
            )

    def build(self, fixed: Mapping[str, Any], l: Any, d: Any, r: Any) -> tuple[ArchitectureBatch, Any]:
        """Architectures at given values (scalars or arrays) and which of them are possible."""
        experts, active, shared = expert_counts(fixed["experts"])
        mixer = parse_mixer(fixed["mixer"])
        d_head = fixed["d_head"]
        heads = d / d_head
        given = fixed["n_kv_heads"]
        kv = np.where(np.asarray(given) == 0, heads, given)
        whole = heads == np.floor(heads)
        valid = whole & (kv <= heads) & (np.mod(heads, kv) == 0)
        width = np.maximum(np.round(r * d / (max(active + shared, 1) * self.ff_multiple)), 1.0) * self.ff_multiple
        mixture = experts > 0
        fields: dict[str, Any] = {
            "n_layers": l, "d_model": d, "n_heads": heads, "n_kv_heads": kv, "d_head": d_head,
            "d_ff": 0 if mixture else width, "vocab_size": fixed["vocab_size"],
            "tied_embeddings": self.tied_embeddings, "ffn_gated": self.ffn_gated,
            "n_experts": experts, "n_active_experts": active, "d_ff_expert": width if mixture else 0,
            "qk_norm": "head" if self.ffn_gated else "none", "norm_bias": not self.ffn_gated,
            "family": ("qwen3_moe" if mixture else "qwen3") if self.ffn_gated else "nemotron",
        }  # fmt: skip
        if shared:  # one expert of their summed width, which computes the same; Qwen1.5-MoE's family has it, with a gate and biases
            fields |= {"n_shared_experts": 1, "d_ff_shared": shared * width}
            if mixer.kind == "full":
                fields |= {"family": "qwen2_moe", "qkv_bias": True, "qk_norm": "none", "shared_expert_gate": True}
        if mixer.kind != "full":
            first = {axis: np.asarray(fixed[axis]) == self.axes[axis][0] for axis in ("n_kv_heads", "d_head")}
            if mixer.kind == "mla":  # every head has keys and values of its own, whatever the axis of KV heads says
                valid = whole
            fields, possible = with_mixer(fields, mixer, first, self.ff_multiple)
            if fields["n_heads"] is not heads:
                valid = np.True_
            valid = valid & possible
        return ArchitectureBatch(**fields), valid

    def indices(self, linear: int) -> tuple[int, ...]:
        """Axis indices of a linear index."""
        return tuple(int(i) for i in np.unravel_index(linear, self.lengths))

    def linear(self, indices: Sequence[int]) -> int:
        """Linear index of axis indices."""
        return int(np.ravel_multi_index(tuple(indices), self.lengths))

    def point(self, linear: int) -> tuple[str, Architecture]:
        """The precision's name and the architecture at a linear index.

        Raises:
            SpecError: the point is not a possible architecture (heads that the width or the KV heads do not divide).
        """
        values = {axis: self.axes[axis][i] for axis, i in zip(AXES, self.indices(linear), strict=True)}
        arch, valid = self.build(
            values, float(values["n_layers"]), float(values["d_model"]), float(values["ffn_ratio"])
        )
        if not bool(np.all(valid)):
            raise SpecError(f"point {linear} of the design space is not a possible architecture")
        return str(values["precision"]), arch.pick(())

    def flat(self, indices: Index) -> Iterator[tuple[str, NDArray[np.int64], ArchitectureBatch, Any]]:
        """Batches of arbitrary points, grouped by the values that a batch must share (precision, mixer and experts).

        Args:
            indices: (n, axes) axis indices.

        Yields:
            Precision, positions in `indices` (m,), architectures of shape (m,), validity (m,).
        """
        keys = indices[:, [AXES.index("precision"), AXES.index("mixer"), AXES.index("experts")]]
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        for k, (p, m, e) in enumerate(unique):
            rows = np.flatnonzero(inverse.reshape(-1) == k)
            chosen = indices[rows]
            values: dict[str, Any] = {}
            for axis in ("vocab_size", "d_head", "n_kv_heads", "n_layers", "d_model", "ffn_ratio"):
                column = np.asarray(self.axes[axis], dtype=np.float64)
                values[axis] = column[chosen[:, AXES.index(axis)]]
            values |= {"experts": self.axes["experts"][int(e)], "mixer": self.axes["mixer"][int(m)]}
            arch, valid = self.build(values, values["n_layers"], values["d_model"], values["ffn_ratio"])
            yield self.axes["precision"][int(p)], rows, arch, valid

    def possible(self, indices: Index) -> NDArray[np.bool_]:
        """Which points (n, axes) are architectures, (n,)."""
        found = np.zeros(len(indices), dtype=bool)
        for _, rows, _, valid in self.flat(indices):
            found[rows] = valid
        return found

    def repaired(self, indices: Index) -> Index:
        """Points (n, axes), impossible ones moved along axes that their mixer restricts until they are possible, if they become so.

        In turn: the first KV heads and head size (a stack without attention has those alone), the next deeper model (a period needs
        as many layers), the next wider or narrower one (heads and states divide the width). What none of these mends stays.
        """
        points = np.array(indices, dtype=np.int64)
        broken = np.flatnonzero(~self.possible(points))
        for moves in _REPAIRS:
            if not len(broken):
                break
            tried = points[broken]
            for axis, step in moves:
                column, last = AXES.index(axis), len(self.axes[axis]) - 1
                tried[:, column] = 0 if step is None else np.clip(tried[:, column] + step, 0, last)
            good = self.possible(tried)
            points[broken[good]] = tried[good]
            broken = broken[~good]
        return points

    def impossible_mixers(self) -> tuple[str, ...]:
        """Mixers that no design of the space can have: too few layers for a period, a width below the rank, experts alone for a taper."""
        deep = replace(
            self, axes={**self.axes, "n_layers": (max(self.axes["n_layers"]),), "precision": self.axes["precision"][:1]}
        )
        return tuple(
            mixer
            for mixer in self.axes["mixer"]
            if not any(block.valid.any() for block in deep.with_axis("mixer", (mixer,)).blocks())
        )

    def coarser(self, limit: float) -> DesignSpace:
        """A subset whose size is at most `limit`: every second value of the longest axis is dropped in turn.

        Precisions, mixers and experts have no order and all stay, as long as the other axes have values to drop.
        """
        axes = {axis: tuple(values) for axis, values in self.axes.items()}
        while math.prod(len(values) for values in axes.values()) > limit:
            ordered = [axis for axis in AXES if axis not in CATEGORIES and len(axes[axis]) > 2]
            longest = max(ordered or AXES, key=lambda axis: len(axes[axis]))
            if len(axes[longest]) < 3:
                break
            axes[longest] = axes[longest][::2]
        return DesignSpace(axes=axes, ff_multiple=self.ff_multiple, tied_embeddings=self.tied_embeddings,
                           ffn_gated=self.ffn_gated, name=f"{self.name} (coarse)")  # fmt: skip

    def with_axis(self, axis: str, values: tuple[Any, ...]) -> DesignSpace:
        """This space with other values of one axis."""
        return replace(self, axes={**self.axes, axis: values})

    def to_dict(self) -> dict[str, Any]:
        """Axes and options as JSON values (experts as "ExK" strings)."""
        axes: dict[str, Any] = {axis: list(self.axes[axis]) for axis in AXES}
        axes["experts"] = [experts_name(value) for value in self.axes["experts"]]
        if axes["mixer"] == ["full"]:
            del axes["mixer"]
        return {"name": self.name, "axes": axes, "ff_multiple": self.ff_multiple, "tied_embeddings": self.tied_embeddings,
                "ffn_gated": self.ffn_gated}  # fmt: skip


_FIRST = (("n_kv_heads", None), ("d_head", None))
_WIDTHS = (1, -1, 2, -2, 3, -3)
#: What `DesignSpace.repaired` tries, each a list of axes and steps (None: to the first value).
_REPAIRS: tuple[tuple[tuple[str, int | None], ...], ...] = (
    (("n_kv_heads", None),),
    _FIRST,
    *((("n_layers", step),) for step in (1, 2, 4)),
    *((("d_model", step),) for step in _WIDTHS),
    *((*_FIRST, ("d_model", step)) for step in _WIDTHS),
)
