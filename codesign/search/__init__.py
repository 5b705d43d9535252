"""Search: the design space, its exact or heuristic exploration, and the frontier that comes out."""

from codesign.search.api import build_problem, search
from codesign.search.frontier import Baseline, Candidate, Frontier, Gap, read_frontier
from codesign.search.problem import OBJECTIVES, Problem
from codesign.search.space import DesignSpace
from codesign.search.spaces import default_space, load_space, paper_space

__all__ = [
    "OBJECTIVES",
    "Baseline",
    "Candidate",
    "DesignSpace",
    "Frontier",
    "Gap",
    "Problem",
    "build_problem",
    "default_space",
    "load_space",
    "paper_space",
    "read_frontier",
    "search",
]
