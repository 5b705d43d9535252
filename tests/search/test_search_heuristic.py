"""Evolutionary search: ask/tell, bounds on hypervolume (no snapshots), state files of both searches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_problems import middle_space, problem, space

from codesign.errors import SchemaError
from codesign.search import DesignSpace, Problem, default_space, search
from codesign.search import evolve as evolve_module
from codesign.search import space as space_module
from codesign.search.api import EXACT_LIMIT
from codesign.search.enumerate import Progress, SearchResult, enumerate_space, fingerprint
from codesign.search.evolve import Evolution, evolve_space
from codesign.search.front import hypervolume


def share(found: SearchResult, exact: SearchResult) -> float:
    """Hypervolume over that of the exact front; the reference point lies 10 % beyond its worst values."""
    low, high = exact.front.points.min(axis=0), exact.front.points.max(axis=0)
    reference = high + 0.1 * (high - low)
    return hypervolume(found.front.points, reference) / hypervolume(exact.front.points, reference)


def test_ask_and_tell_alone_find_a_known_front() -> None:
    """Minimise (a, 30 - a + b + c): the front is b = c = 0, a from 0 to 30."""
    evolution = Evolution((31, 20, 20), n_objectives=2, seed=3, population=40)
    for _ in range(30):
        x = evolution.ask()
        assert x.min() >= 0 and (x < np.array([31, 20, 20])).all()
        evolution.tell(x, np.stack([x[:, 0], 30.0 - x[:, 0] + x[:, 1] + x[:, 2]], axis=1))
    points = evolution.front_points()
    assert len(points) >= 28 and (points.sum(axis=1) == 30).all()


def test_a_start_is_asked_first() -> None:
    start = np.array([[1, 2, 3], [3, 2, 1]])
    evolution = Evolution((5, 5, 5), n_objectives=2, seed=1, population=10, start=start)
    asked = evolution.ask()
    assert asked[:2].tolist() == start.tolist() and len(asked) == 10


@pytest.mark.parametrize(("lengths", "objectives"), [((1, 2, 2), 2), ((2, 2), 3), ((1, 1), 2)])
def test_spaces_smaller_than_the_population(
    lengths: tuple[int, ...], objectives: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing new is left to ask for, feasible or not: the search still ends and prints nothing."""
    for worst in (0.0, np.inf):
        evolution = Evolution(lengths, n_objectives=objectives, seed=1, population=8)
        for _ in range(4):
            x = evolution.ask()
            assert len(x)
            evolution.tell(x, np.full((len(x), objectives), worst) + x[:, :1])
    assert not capsys.readouterr().out


def test_a_search_where_nothing_is_feasible_ends() -> None:
    found = evolve_space(problem(latency_s=1e-6), evaluations=500, population=50)
    assert not len(found.front) and found.n_feasible == 0


@pytest.mark.parametrize("objectives", [("loss", "latency"), ("loss", "latency", "memory")])
def test_hypervolume_is_close_to_the_exact_one(objectives: tuple[str, ...]) -> None:
    p = problem(middle_space(), objectives=objectives)
    assert p.space.size > evolve_module.COARSE_POINTS
    exact = enumerate_space(p, workers=1)
    for seed in (1, 2):
        found = evolve_space(p, seed=seed, evaluations=4000)
        assert 0.97 <= share(found, exact) <= 1 + 1e-9
        assert not found.exact
        assert (
            found.certificate.startswith("heuristic: 4,000 different points of ")
            and f"seed {seed}" in found.certificate
        )


def test_the_warm_start_is_the_front_of_the_coarse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """With almost no evaluations the front is no worse than the coarse grid's, however many points that has."""
    monkeypatch.setattr(evolve_module, "COARSE_POINTS", 20_000)
    p = problem(middle_space(), objectives=("loss", "latency", "memory"))
    from dataclasses import replace

    coarse = enumerate_space(replace(p, space=p.space.coarser(20_000)), workers=1)
    found = evolve_space(p, evaluations=10, population=10)
    assert len(coarse.front) > 20, "more points than the population holds"
    assert share(found, coarse) >= 1 - 1e-12
    cold = Evolution(p.space.lengths, n_objectives=3, seed=1, population=10)
    assert len(cold.ask()) == 10


def test_no_point_is_evaluated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a space that is used up ends the search, with its exact frontier."""
    p = problem()
    assert evolve_space(p, evaluations=20_000).certificate == enumerate_space(p, workers=1).certificate
    monkeypatch.setattr(evolve_module, "COARSE_POINTS", 200)
    asked: list[np.ndarray] = []
    real = evolve_module.evaluate_points

    def counted(given: Problem, indices: np.ndarray) -> Any:
        asked.append(indices)
        return real(given, indices)

    monkeypatch.setattr(evolve_module, "evaluate_points", counted)
    found = evolve_space(p, evaluations=20_000)
    points = np.concatenate(asked)
    assert len(np.unique(points, axis=0)) == len(points) == found.n_evaluated < p.space.size
    assert share(found, enumerate_space(p, workers=1)) > 0.999
    few = evolve_space(p, evaluations=333)
    assert few.n_evaluated == 333 and "333 different points of 5,760" in few.certificate


def test_the_coarse_grid_is_a_subset() -> None:
    full = default_space(("fp16", "int8"))
    coarse = full.coarser(200_000)
    assert coarse.size <= 200_000
    assert all(set(coarse.axes[axis]) <= set(full.axes[axis]) for axis in full.axes)
    assert full.coarser(1e9).axes == full.axes


def test_the_same_seed_gives_the_same_result() -> None:
    p = problem(middle_space(), objectives=("loss", "latency", "memory"))
    a, b = (evolve_space(p, seed=5, evaluations=1500) for _ in range(2))
    other = evolve_space(p, seed=6, evaluations=1500)
    assert a.front.index.tolist() == b.front.index.tolist() and a.certificate == b.certificate
    assert a.front.index.tolist() != other.front.index.tolist()


# ---- state files


class Stop(Exception):
    """A search is stopped here."""


def stop_after(calls: int) -> Callable[[Progress], None]:
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        assert 0 < progress.done <= progress.total
        if len(seen) == calls:
            raise Stop

    return on_progress


def same(a: SearchResult, b: SearchResult) -> bool:
    return (
        a.front.index.tolist() == b.front.index.tolist()
        and np.array_equal(a.front.points, b.front.points)
        and a.certificate == b.certificate
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("objectives", [("loss", "latency"), ("loss", "latency", "energy")])
def test_a_stopped_exact_search_goes_on_identically(
    tmp_path: Path, workers: int, objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    p, state = problem(objectives=objectives), tmp_path / "state.json"
    if workers == 1:
        monkeypatch.setattr(space_module, "MAX_BLOCK", 60)
    whole = enumerate_space(p, workers=1)
    for calls in (2, 3):  # stopped twice
        with pytest.raises(Stop):
            enumerate_space(p, workers=workers, state=state, save_every_s=0, on_progress=stop_after(calls))
    assert 0 < json.loads(state.read_text())["blocks"] < p.space.n_blocks
    resumed = enumerate_space(p, workers=workers, state=state, save_every_s=0)
    assert same(resumed, whole)
    assert not state.exists() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("objectives", [("loss", "latency"), ("loss", "latency", "memory")])
def test_a_stopped_heuristic_search_goes_on_identically(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    p, state = problem(middle_space(), objectives=objectives), tmp_path / "state.json"
    whole = evolve_space(p, seed=2, evaluations=2500)
    for calls in (1, 3):
        with pytest.raises(Stop):
            evolve_space(p, seed=2, evaluations=2500, state=state, on_progress=stop_after(calls))
    seen = json.loads(state.read_text())["seen"]
    assert 0 < len(seen) == len(set(seen)) < 2500
    assert same(evolve_space(p, seed=2, evaluations=2500, state=state), whole)
    assert not state.exists()


CHANGES: dict[str, Callable[[], Problem]] = {
    "budget": lambda: problem(latency_s=0.013),
    "confidence": lambda: problem(latency_s=0.02, confidence=0.9),
    "space": lambda: problem(space(n_layers=(4, 7))),
    "tokens": lambda: problem(tokens=20e9),
    "objectives": lambda: problem(objectives=("loss", "energy")),
    "device": lambda: problem(device="orin-nano"),
    "engine": lambda: problem(engine="llama.cpp"),
    "power mode": lambda: problem(power_mode="30W"),
    "law": lambda: problem(law="openlm-grid"),
    "extrapolation": lambda: problem(allow_extrapolation=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_of_another_problem_is_ignored(tmp_path: Path, change: str) -> None:
    state = tmp_path / "state.json"
    with pytest.raises(Stop):
        enumerate_space(problem(), workers=1, state=state, save_every_s=0, on_progress=stop_after(3))
    other = CHANGES[change]()
    assert fingerprint(other) != fingerprint(problem())
    assert same(enumerate_space(other, workers=1, state=state), enumerate_space(other, workers=1))


def test_a_law_with_other_content_is_another_problem(tmp_path: Path) -> None:
    """Two files of one name: what the law predicts counts."""
    from dataclasses import replace

    p = problem()

    class Shifted:
        name = p.law.name
        meta = getattr(p.law, "meta", None)

        def predict(self, arch: Any, tokens: Any) -> Any:
            return p.law.predict(arch, tokens) + 0.1

    shifted: Any = Shifted()
    assert fingerprint(replace(p, law=shifted)) != fingerprint(p)
    assert fingerprint(p) == fingerprint(problem())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "\x00", "good-but-cut"])
@pytest.mark.parametrize("solver", [enumerate_space, evolve_space])
def test_a_corrupt_state_is_refused_in_one_line(
    tmp_path: Path, content: str, solver: Callable[..., SearchResult]
) -> None:
    state = tmp_path / "state.json"
    p = problem() if solver is enumerate_space else problem(middle_space())
    if content == "good-but-cut":
        slow = {"save_every_s": 0, "workers": 1} if solver is enumerate_space else {}
        with pytest.raises(Stop):
            solver(p, state=state, on_progress=stop_after(2), **slow)
        data = json.loads(state.read_text())
        state.write_text(json.dumps(data | {"points": data["points"][:-1]}))
    else:
        state.write_text(content)
    with pytest.raises(SchemaError, match="delete it") as caught:
        solver(p, state=state)
    assert "\n" not in str(caught.value)


def test_a_billion_points_go_to_the_heuristic_without_being_held() -> None:
    import tracemalloc

    axes = dict(default_space(("fp16", "int8", "w4a16")).axes)
    axes["d_model"] = tuple(range(256, 3073, 8))
    axes["ffn_ratio"] = tuple(2.75 + 0.05 * i for i in range(106))
    designs = DesignSpace(axes=axes)
    assert designs.size > 3e8 > EXACT_LIMIT
    p = problem(designs)
    tracemalloc.start()
    found = search(p, evaluations=600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.provenance["exact"] is False and found.provenance["certificate"].startswith(
        "heuristic: 600 different points of"
    )
    assert peak < 300e6
    assert len(found.candidates) > 10


def test_categories_are_exchanged_whole_and_reset_to_any() -> None:
    from codesign.search.evolve_operators import Exchange, Reset

    categories, lengths = np.array([True, False, True]), np.array([5, 40, 7])
    rng = np.random.default_rng(1)
    parents = rng.integers(0, lengths, size=(2, 200, 3)).astype(float)

    class Box:
        n_var, xl, xu = 3, np.zeros(3), lengths - 1.0

        def has_bounds(self) -> bool:
            return True

        def bounds(self) -> tuple[Any, Any]:
            return self.xl, self.xu

    children = Exchange(categories)._do(Box(), parents.copy(), random_state=rng)
    for column in (0, 2):
        assert (np.sort(children[:, :, column], axis=0) == np.sort(parents[:, :, column], axis=0)).all()
        assert (children[:, :, column] != parents[:, :, column]).any()
    mutated = Reset(categories, lengths)._do(Box(), parents[0].copy(), random_state=rng)
    changed = mutated[:, 2] != parents[0][:, 2]
    assert 0.15 < changed.mean() < 0.45 and set(mutated[:, 2]) <= set(range(7))
    assert np.abs(mutated[:, 2] - parents[0][:, 2])[changed].max() > 3


def test_neighbours_move_categories_to_any_value() -> None:
    evolution = Evolution((9, 9), n_objectives=2, seed=1, population=300, categories=[0])
    found = evolution._neighbours(np.random.default_rng(1), np.array([[4, 4]]))
    assert set(found[:, 0]) == set(range(9)) and found.min() >= 0 and set(found[:, 1]) <= set(range(1, 8))


def test_impossible_points_are_repaired_along_what_their_mixer_restricts() -> None:
    one = DesignSpace(
        axes={
            "precision": ("fp16",), "vocab_size": (50304,), "mixer": ("full", "mamba2:8", "mamba2:0", "gdn:4", "mla:64", "taper:4"),
            "experts": ((0, 0), (8, 2)), "d_head": (64, 128), "n_kv_heads": (1, 2, 8), "n_layers": tuple(range(4, 20)),
            "d_model": tuple(range(256, 1024, 64)), "ffn_ratio": (2.0, 4.0),
        }
    )  # fmt: skip
    rng = np.random.default_rng(2)
    points = rng.integers(0, one.lengths, size=(3000, len(one.lengths)))
    before, mended = one.possible(points), one.repaired(points)
    after = one.possible(mended)
    assert (mended[before] == points[before]).all()
    same = [
        i for i, axis in enumerate(space_module.AXES) if axis not in ("n_kv_heads", "d_head", "n_layers", "d_model")
    ]
    assert (mended[:, same] == points[:, same]).all()
    assert before.mean() < 0.6
    tapers_of_mixtures = (points[:, 2] == 5) & (points[:, 3] == 1)  # no such family: nothing mends it
    assert not after[tapers_of_mixtures].any() and after[~tapers_of_mixtures].mean() > 0.95


def test_a_coarser_grid_keeps_every_category() -> None:
    from codesign.search.mixers import family_axes

    experts, mixers = family_axes(["dense", "moe", "window", "hybrid", "recurrent"], default_space().axes["experts"])
    one = default_space().with_axis("experts", experts).with_axis("mixer", mixers)
    coarse = one.coarser(200_000)
    assert coarse.size <= 200_000 < one.size
    assert coarse.axes["mixer"] == mixers and coarse.axes["experts"] == experts
