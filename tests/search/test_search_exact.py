"""The exact search against brute force written here with one `Architecture` at a time."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import SMALL_AXES, problem, space

from codesign.architecture import Architecture
from codesign.search import DesignSpace, Problem, default_space
from codesign.search import space as space_module
from codesign.search.enumerate import enumerate_space
from codesign.search.front import Front, hypervolume
from codesign.search.problem import metric
from codesign.workload import PRECISIONS


def build(values: dict[str, Any]) -> Architecture | None:
    """The architecture of axis values, written anew from the space's docstring; None where it is impossible."""
    d, head = values["d_model"], values["d_head"]
    if d % head:
        return None
    heads = d // head
    kv = values["n_kv_heads"] or heads
    if kv > heads or heads % kv:
        return None
    experts, active = values["experts"]
    width = max(round(values["ffn_ratio"] * d / (max(active, 1) * 64)), 1) * 64
    shape = {"n_layers": values["n_layers"], "d_model": d, "n_heads": heads, "n_kv_heads": kv, "d_head": head}
    common = {"vocab_size": values["vocab_size"], "qk_norm": "head"}
    if not experts:
        return Architecture(**shape, **common, d_ff=width, family="qwen3")
    return Architecture(
        **shape, **common, d_ff=0, n_experts=experts, n_active_experts=active, d_ff_expert=width, family="qwen3_moe"
    )


def every_point(designs: DesignSpace) -> list[dict[str, Any]]:
    """Axis values in the order of linear indices."""
    names = ("precision", "vocab_size", "experts", "d_head", "n_kv_heads", "n_layers", "d_model", "ffn_ratio")
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*(designs.axes[n] for n in names))]


def brute_force(p: Problem) -> tuple[dict[int, tuple[float, ...]], int, int]:
    """Objectives of the non-dominated points by linear index, how many are possible and how many feasible."""
    feasible: dict[int, tuple[float, ...]] = {}
    possible = 0
    for linear, values in enumerate(every_point(p.space)):
        arch = build(values)
        if arch is None:
            continue
        possible += 1
        estimate = p.models[values["precision"]].estimate(arch, p.workload, PRECISIONS[values["precision"]])
        bounds = {"memory": p.memory_B}
        for name, bound in p.budget.bounds().items():
            kind = name.rsplit("_", 1)[0]
            bounds[kind] = min(bound, bounds.get(kind, math.inf))
        if any(float(metric(kind, arch, estimate)) > bound for kind, bound in bounds.items()):
            continue
        outside = p.law.outside(arch, p.tokens)
        if any(bool(flag) for name, flag in outside.items() if name != "vocab"):
            continue
        form = PRECISIONS[values["precision"]]
        if any(bool(f) for n, f in p.latency_outside(arch, values["precision"]).items() if not n.endswith("_here")):
            continue
        row = [
            float(p.loss(arch, form)) if kind == "loss" else float(metric(kind, arch, estimate))
            for kind in p.objectives
        ]
        feasible[linear] = tuple(row)
    front: dict[int, tuple[float, ...]] = {}
    for linear, row in sorted(feasible.items()):
        beaten = any(
            all(a <= b for a, b in zip(other, row, strict=True)) and (other != row or index < linear)
            for index, other in feasible.items()
            if index != linear
        )
        if not beaten:
            front[linear] = row
    return front, possible, len(feasible)


@pytest.mark.parametrize(
    ("objectives", "bounds"),
    [
        (("loss", "latency"), {"latency_s": 0.012}),
        (("loss", "latency", "memory"), {"latency_s": 0.02, "memory_B": 3e9}),
        (("loss", "energy"), {"energy_J": 0.4}),
    ],
)
def test_the_frontier_is_that_of_brute_force(objectives: tuple[str, ...], bounds: dict[str, float]) -> None:
    """Exactly the same set of points, counts and (to rounding) objectives."""
    p = problem(space(d_model=(512, 768, 1024), n_layers=(4, 9, 18, 30)), objectives=objectives, **bounds)
    front, possible, feasible = brute_force(p)
    found = enumerate_space(p, workers=1)
    assert found.front.index.tolist() == sorted(front)
    assert (found.n_evaluated, found.n_feasible) == (possible, feasible)
    assert feasible > 100 and len(front) > 5
    np.testing.assert_allclose(found.front.points, [front[i] for i in sorted(front)], rtol=1e-12)
    assert found.exact and found.certificate.startswith(f"exact: {possible:,} evaluated, {feasible:,} feasible")


def test_the_front_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(objectives=("loss", "latency", "memory"))
    whole = enumerate_space(p, workers=1)
    for size in (1, 20, 57, 1000):
        monkeypatch.setattr(space_module, "MAX_BLOCK", size)
        part = enumerate_space(p, workers=1)
        assert part.front.index.tolist() == whole.front.index.tolist()
        assert np.array_equal(part.front.points, whole.front.points)
        assert (part.n_evaluated, part.n_feasible) == (whole.n_evaluated, whole.n_feasible)


def test_two_workers_find_what_one_finds() -> None:
    p = problem()
    one, two = enumerate_space(p, workers=1), enumerate_space(p, workers=2)
    assert one.front.index.tolist() == two.front.index.tolist()
    assert np.array_equal(one.front.points, two.front.points)
    assert one.certificate == two.certificate


@pytest.mark.parametrize("size", [1, 7, 60, 1 << 18])
def test_blocks_cover_each_point_once_and_agree_with_point(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "MAX_BLOCK", size)
    designs = space(n_layers=(4, 7, 12), d_model=(512, 640), d_head=(128, 64), experts=((0, 0), (8, 2)))
    seen: list[int] = []
    blocks = list(designs.blocks())
    assert len(blocks) == designs.n_blocks
    points = every_point(designs)
    for block in blocks:
        count = math.prod(block.shape)
        seen += range(block.start, block.start + count)
        for offset in range(count):
            linear = block.start + offset
            position = np.unravel_index(offset, block.shape)
            expected = build(points[linear])
            assert bool(block.valid[position]) == (expected is not None)
            if expected is None:
                with pytest.raises(ValueError, match="not a possible architecture"):
                    designs.point(linear)
                continue
            assert designs.point(linear) == (block.precision, expected)
            assert block.arch.pick(position) == expected
            assert designs.linear(designs.indices(linear)) == linear
    assert seen == list(range(designs.size))


def test_flat_batches_agree_with_points() -> None:
    designs = space()
    rng = np.random.default_rng(1)
    indices = rng.integers(0, designs.lengths, size=(200, len(designs.lengths)))
    found: set[int] = set()
    points = every_point(designs)
    for precision, rows, arch, valid in designs.flat(indices):
        found |= set(rows.tolist())
        for i, row in enumerate(rows.tolist()):
            values = points[designs.linear(indices[row].tolist())]
            expected = build(values)
            assert precision == values["precision"] and bool(np.broadcast_to(valid, rows.shape)[i]) == (
                expected is not None
            )
            if expected is not None:
                assert arch.pick((i,)) == expected
    assert found == set(range(200))


def peak_B(p: Problem) -> int:
    tracemalloc.start()
    enumerate_space(p, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "MAX_BLOCK", 1 << 14)
    base = dict(default_space().axes) | {"d_head": (64,), "n_kv_heads": (4,)}
    small = DesignSpace(axes=base | {"experts": ((0, 0),)})
    pairs = tuple((e, k) for e in (0, 8, 16, 32, 64) for k in ((1, 2) if e else (0,)))
    large = DesignSpace(axes=base | {"experts": (*pairs, (128, 1))})
    assert large.size == 10 * small.size
    enumerate_space(problem(small), workers=1)  # what is loaded once
    assert peak_B(problem(large)) <= 1.5 * peak_B(problem(small))


# ---- the running front


def nondominated(rows: list[tuple[float, ...]]) -> list[int]:
    """Positions of non-dominated rows, the first of equals, by the definition."""
    keep = []
    for i, row in enumerate(rows):
        beaten = any(
            all(a <= b for a, b in zip(other, row, strict=True)) and (other != row or j < i)
            for j, other in enumerate(rows)
            if j != i
        )
        if not beaten:
            keep.append(i)
    return keep


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_front_is_the_definition_in_any_order_and_parts(data: st.DataObject) -> None:
    """Few distinct values: ties in one objective and duplicates are common."""
    k = data.draw(st.sampled_from([2, 3]))
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, 4).map(float)] * k), min_size=1, max_size=30))
    order = data.draw(st.permutations(range(len(rows))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    front = Front(k)
    for low, high in itertools.pairwise([0, *cuts, len(rows)]):
        part = list(order[low:high])
        front.add(np.array([rows[i] for i in part]).reshape(len(part), k), np.array(part, dtype=np.int64))
    assert front.index.tolist() == nondominated(rows)
    assert front.points.tolist() == [list(rows[i]) for i in front.index]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_adding_a_front_to_itself_changes_nothing(rows: list[tuple[float, float]]) -> None:
    front = Front(2)
    points, index = np.array(rows), np.arange(len(rows))
    front.add(points, index)
    once = front.index.tolist()
    front.add(points, index)
    assert front.index.tolist() == once
    assert front.index.tolist() == nondominated(rows)


def test_hypervolume_by_hand() -> None:
    """Two boxes below (4, 4): from (1, 3) it is 3 x 1, from (2, 1) 2 x 3, shared 2 x 1: 7. Points outside count nothing."""
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 1.0], [5.0, 0.0]]), np.array([4.0, 4.0])) == pytest.approx(7.0)
    assert hypervolume(np.array([[5.0, 5.0]]), np.array([4.0, 4.0])) == 0.0


def test_the_small_space_has_every_axis() -> None:
    assert space().size == math.prod(len(values) for values in SMALL_AXES.values()) == 11_520 // 2
