"""What benchmarks/table_search.py compares: a pair of quality and device, and the methods that ask its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from codesign.search.table import Bound, CandidateTable, parse_goal, read_candidates
from codesign.search.table_features import Features, features_of, parse_cell
from codesign.search.table_score import TrueFront, front_of
from codesign.search.table_search import replay

EDGES = ("e01", "e02", "e12", "e03", "e13", "e23")
#: Accuracy at or below twice that of guessing: a cell through which no signal passes. It is no part of the front.
CHANCE = {"cifar10_test": 10.0, "cifar100_test": 1.0, "in16_test": 100 / 120}
GATE = ("cifar100_test", "raspi4")
FIRST, BATCH = 20, 10
Method = Callable[["Pair", int, int], list[int]]


class Pair:
    """A quality and a device: the rows, the true front, and what every method may see."""

    def __init__(self, data: str, quality: str, device: str) -> None:
        latency = f"lat_ms_{device}"
        least = np.nextafter(2 * CHANCE[quality], 100)
        bounds = [Bound(quality, float(least), True), Bound(latency, 0.5, True)]
        self.name = f"{quality}-{device}"
        self.table: CandidateTable = read_candidates(
            data, parse_goal(f"{quality}:max", "--quality"), [parse_goal(latency, "--cost", "min")], bounds
        )
        self.cells = np.stack([np.array(self.table.column(edge), dtype=int) for edge in EDGES], axis=1)
        self.row = {tuple(cell): i for i, cell in enumerate(self.cells.tolist())}
        self.truth = TrueFront(self.table, self.table.value)
        self.loose = _all_rows_regret(self.table)

    @property
    def features(self) -> Features:
        return features_of(self.table, EDGES, cell=parse_cell("none=0,layers=2+3"))

    def objectives(self, rows: list[int]) -> np.ndarray:
        return np.column_stack([self.table.cost[rows, 0], self.table.value[rows]])


def _all_rows_regret(rows: CandidateTable) -> Callable[[Any], float]:
    """The other definition: objectives scaled by all usable rows, reference at their worst values (1, 1)."""
    from codesign.search.front import hypervolume

    points = np.column_stack([rows.cost[:, 0], rows.value])
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    whole = hypervolume(points, np.ones(2))
    return lambda asked: 1.0 - hypervolume(points[np.asarray(asked)], np.ones(2)) / whole


def random_choice(pair: Pair, seed: int, evaluations: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).permutation(len(pair.table))[:evaluations]]


def codesign(pair: Pair, seed: int, evaluations: int) -> list[int]:
    return replay(pair.table, pair.features, evaluations, batch_size=BATCH, seed=seed, first=FIRST).order


def codesign_plain(pair: Pair, seed: int, evaluations: int) -> list[int]:
    """Without the counts along the cell's paths: operations as labels only."""
    plain = features_of(pair.table, EDGES, labels=EDGES)
    return replay(pair.table, plain, evaluations, batch_size=BATCH, seed=seed, first=FIRST).order


def nsga2(pair: Pair, seed: int, evaluations: int) -> list[int]:
    """pymoo, population 20, 10 offspring a generation, operations as choices; a cell asked again or dropped costs nothing."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating, MixedVariableSampling
    from pymoo.core.problem import Problem
    from pymoo.core.variable import Choice
    from pymoo.problems.static import StaticProblem

    problem = Problem(vars={edge: Choice(options=list(range(5))) for edge in EDGES}, n_obj=2)
    apart = MixedVariableDuplicateElimination()
    algorithm = NSGA2(
        pop_size=FIRST, n_offsprings=BATCH, sampling=MixedVariableSampling(),
        mating=MixedVariableMating(eliminate_duplicates=apart), eliminate_duplicates=apart,
    )  # fmt: skip
    algorithm.setup(problem, termination=("n_gen", 10**6), seed=seed, verbose=False)
    asked: dict[int, None] = {}
    worst = np.array([pair.table.cost.max(), pair.table.value.max()])
    while len(asked) < evaluations and algorithm.has_next():
        batch = algorithm.ask()
        rows = [pair.row.get(tuple(int(one.X[edge]) for edge in EDGES)) for one in batch]
        values = [worst if row is None else pair.objectives([row])[0] for row in rows]
        Evaluator().eval(StaticProblem(problem, F=np.array(values)), batch)
        algorithm.tell(infills=batch)
        asked |= dict.fromkeys(row for row in rows if row is not None and row not in asked)
    return list(asked)[:evaluations]


def tpe(pair: Pair, seed: int, evaluations: int) -> list[int]:
    """Optuna's multi-objective TPE, operations as categories, 20 random cells first; a cell suggested again costs nothing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        directions=["minimize", "minimize"],
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST, multivariate=True),
    )
    asked: dict[int, None] = {}
    for _ in range(10 * evaluations):
        trial = study.ask()
        row = pair.row.get(tuple(trial.suggest_categorical(edge, list(range(5))) for edge in EDGES))
        if row is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        study.tell(trial, pair.objectives([row])[0].tolist())
        asked.setdefault(row)
        if len(asked) >= evaluations:
            break
    return list(asked)[:evaluations]


def qlognehvi(pair: Pair, seed: int, evaluations: int) -> list[int]:
    """botorch's qLogNEHVI: one Gaussian process on one-hot operations for the error, one for the latency, its own priors; reference at
    10 % beyond the observed front; batches of 10, greedily, from 1,000 random cells not yet asked (a fresh thousand each batch).
    """
    import warnings

    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import SumMarginalLogLikelihood

    warnings.simplefilter("ignore")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    hot = torch.tensor(np.concatenate([pair.cells == k for k in range(5)], axis=1), dtype=torch.double)
    asked = [int(i) for i in rng.permutation(len(pair.table))[:FIRST]]
    while len(asked) < evaluations:
        x, y = hot[asked], torch.tensor(-pair.objectives(asked))
        model = ModelListGP(*(SingleTaskGP(x, y[:, k : k + 1], outcome_transform=Standardize(1)) for k in range(2)))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        front = -pair.objectives([int(i) for i in front_of(pair.table, pair.table.value, np.array(asked))])
        reference = front.min(axis=0) - 0.1 * np.ptp(front, axis=0)
        gain = qLogNoisyExpectedHypervolumeImprovement(
            model, ref_point=reference.tolist(), X_baseline=x, prune_baseline=True,
            sampler=SobolQMCNormalSampler(torch.Size([32]), seed=seed),
        )  # fmt: skip
        free = np.setdiff1d(np.arange(len(pair.table)), asked)
        some = rng.choice(free, min(1000, len(free)), replace=False)
        best, _ = optimize_acqf_discrete(gain, min(BATCH, evaluations - len(asked)), hot[some], max_batch_size=512)
        where = [int(torch.nonzero((hot[some] == one).all(dim=1))[0]) for one in best]
        asked += [int(some[i]) for i in where]
    return asked


METHODS: dict[str, tuple[str, Method]] = {
    "random": ("random", random_choice),
    "nsga2": ("NSGA-II (pymoo)", nsga2),
    "tpe": ("TPE (Optuna)", tpe),
    "qlognehvi": ("qLogNEHVI (botorch), up to 100", qlognehvi),
    "codesign-plain": ("codesign, operations only", codesign_plain),
    "codesign": ("codesign", codesign),
}
