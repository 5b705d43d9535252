from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_arch import Arch

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.errors import SchemaError, SpecError, UnknownNameError
from codesign.predictors import DIMENSIONS, LossLaw, dump_law, law_names, load_law
from codesign.predictors.priors import equivalent_experts

NAMES = ("gemstones", "deepmind-moe", "llama-2k", "openlm-grid", "paper", "steplaw")
FITTED = tuple(n for n in NAMES if n != "paper")


def moe(**changes: Any) -> Arch:
    base = Arch(n_experts=8, n_active_experts=1, d_ff_expert=4096)
    return base.evolve(**changes)


def test_catalogue() -> None:
    assert law_names() == NAMES
    assert load_law().name == "gemstones"
    with pytest.raises(UnknownNameError, match="did you mean 'gemstones'"):
        load_law("gemstone")
    with pytest.raises(UnknownNameError, match="no law file"):
        load_law("nowhere/law.json")


@pytest.mark.parametrize("name", NAMES)
def test_file_round_trips(name: str, tmp_path: Path, arch: Arch) -> None:
    law = load_law(name)
    path = tmp_path / "own.json"
    path.write_text(dump_law(law), encoding="utf-8")
    again = load_law(path)
    assert dump_law(again) == dump_law(law)
    np.testing.assert_allclose(again.predict(arch, 2e10, True), law.predict(arch, 2e10, True), rtol=1e-6)
    assert name in law.summary()
    assert "\n" not in law.summary()
    assert {"mae", "rel_err_pct", "spearman", "coverage80", "coverage90", "n_train", "n_test"} <= set(
        next(iter(law.held_out.values()))
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.update(schema="other"), "not a loss law"),
        (lambda d: d.pop("ranges"), "lacks ranges"),
        (lambda d: d["core"].pop("draws"), "corrupt"),
        (lambda d: d["core"]["draws"].append([1.0]), "corrupt"),
        (lambda d: d["core"]["parameters"].update(a=float("nan")), "not finite"),
        (lambda d: d["ranges"].update(n_layers=[9, 3]), "bad range"),
    ],
)
def test_bad_files_are_one_clear_line(change: Any, text: str, tmp_path: Path) -> None:
    data = json.loads(dump_law(load_law("gemstones")))
    change(data)
    path = tmp_path / "law.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SchemaError, match=text) as caught:
        load_law(path)
    assert "\n" not in str(caught.value)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text(dump_law(load_law("gemstones"))[:500], encoding="utf-8")
    with pytest.raises(SchemaError, match="not valid JSON"):
        load_law(str(path))


@pytest.mark.parametrize("name", NAMES)
def test_open_mesh_equals_flat(name: str) -> None:
    law = load_law(name)
    axes = (np.array([8, 16, 24.0]), np.array([768, 1024.0]), np.array([4, 8.0]))
    depth, width, kv = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    mesh = Arch(n_layers=depth, d_model=width, n_kv_heads=kv, d_ff=4 * width, n_experts=8, n_active_experts=1,
                d_ff_expert=4 * width)  # fmt: skip
    l, d, k = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    flat = Arch(
        n_layers=l,
        d_model=d,
        n_kv_heads=k,
        d_ff=4 * d,
        n_experts=8 * np.ones(12),
        n_active_experts=1,
        d_ff_expert=4 * d,
    )
    mean, std = law.predict(mesh, 1e10, return_std=True)
    want, want_std = law.predict(flat, 1e10, return_std=True)
    assert mean.shape == std.shape == (3, 2, 2)
    np.testing.assert_allclose(mean.ravel(), want, rtol=1e-12)
    np.testing.assert_allclose(std.ravel(), want_std, rtol=1e-9)
    # a vector of tokens goes the other way round the GP and must agree
    np.testing.assert_allclose(law.predict(flat, np.full(12, 1e10)), want, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_difference(name: str) -> None:
    law = load_law(name)
    for one in (Arch(), moe()):
        mean, std = law.difference(one, one, 2e10)
        assert mean == 0.0
        assert std == 0.0
    a, b = Arch(), Arch(n_layers=np.array([16, 17, 24]))
    mean, std = law.difference(a, b, 2e10)
    np.testing.assert_allclose(mean, law.predict(a, 2e10) - law.predict(b, 2e10))
    assert std.shape == (3,)
    assert std[0] == 0.0
    assert (std[1:] > 0).all()
    if name != "paper":  # what neighbours share cancels
        alone = np.hypot(law.predict(a, 2e10, True)[1], law.predict(b, 2e10, True)[1])
        assert (std <= alone * 1.001).all()


def test_difference_of_distant_designs_is_less_sure_than_of_neighbours(arch: Arch) -> None:
    _, std = load_law().difference(arch, Arch(n_layers=np.array([17, 64]), d_model=np.array([1024, 2560])), 2e10)
    assert std[1] > std[0]


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(FITTED), depth=st.floats(6, 40), aspect=st.floats(12, 120), more=st.floats(1.0, 3.0),
    tokens=st.floats(1e9, 1e11),
)  # fmt: skip
def test_larger_at_fixed_aspect_is_never_worse(
    name: str, depth: float, aspect: float, more: float, tokens: float
) -> None:
    law = load_law(name)
    l = depth * np.array([1.0, more])
    arch = Arch(
        n_layers=l, d_model=aspect * l, n_heads=aspect * l / 128, n_kv_heads=aspect * l / 256, d_ff=4 * aspect * l
    )
    assert law.core is not None
    losses = law.core.law(law._logs(arch, tokens))
    assert losses[1] <= losses[0] + 1e-12


@pytest.mark.parametrize("tokens", [1e10, 5e10, 1e11])
def test_a_search_finds_no_bump(tokens: float) -> None:
    """With the GP: neither depth nor width nor tokens ever raises the default law's loss by more than its noise."""
    depth, width = np.unique(np.round(np.geomspace(3, 80, 50))), np.arange(256, 3073, 64.0)
    l, d = depth[:, None], width[None, :]
    law = load_law()
    arch = Arch(n_layers=l, d_model=d, n_heads=d / 128, n_kv_heads=d / 256, d_ff=4 * d)
    mean = law.predict(arch, tokens)
    assert law.core is not None
    noise = law.core.gp.hyper.group_std
    for axis in (0, 1):
        assert (mean - np.minimum.accumulate(mean, axis)).max() < noise
    assert (law.predict(arch, 1.1 * tokens) - mean).max() < noise


def test_interval_widens_beyond_the_data(arch: Arch) -> None:
    law = load_law()
    big = Arch(n_layers=np.array([16, 32, 60, 80]), d_model=np.array([1024, 2048, 4096, 8192]), n_heads=32, n_kv_heads=16,
               d_ff=4 * np.array([1024, 2048, 4096, 8192]))  # fmt: skip
    std = law.predict(big, 2e10, return_std=True)[1]
    assert std[-1] > std[2] > std[0]


def test_outside_and_its_slack(arch: Arch) -> None:
    law = load_law()
    flags = law.outside(arch, 1e10)  # the data start at 11.0B: 10 % of slack
    assert set(flags) == set(DIMENSIONS)
    assert not any(bool(v.any()) for v in flags.values())
    assert bool(law.outside(arch, 9e9)["tokens"])
    wrong = law.outside(arch.evolve(d_model=8192, n_layers=2, d_ff=1024, vocab_size=150_000, d_head=16), 1e10)
    for name in ("n_layers", "d_model", "aspect", "ffn_ratio", "vocab", "d_head"):
        assert bool(wrong[name]), name
    assert bool(law.outside(moe(n_experts=4096), 1e10)["experts"])
    assert bool(load_law("deepmind-moe").outside(arch, 1e11)["tokens"])
    assert bool(load_law("openlm-grid").outside(arch, 8e9 * 20)["tokens"])
    assert law.range("n_layers") == (3.0, 80.0)
    with pytest.raises(SpecError, match="known: params_active"):
        law.range("depth")


def test_priors_are_zero_at_the_data_and_labelled_elsewhere(arch: Arch) -> None:
    law = load_law()
    assert not any(bool(v.any()) for v in law.priors(arch).values())
    for change, name in (
        ({"n_kv_heads": 1}, "kv"), ({"d_head": 64, "n_heads": 16, "n_kv_heads": 8}, "d_head"),
        ({"d_ff": 2816}, "ffn_ratio"), ({"vocab_size": 32000}, "vocab"),
    ):  # fmt: skip
        flags = law.priors(arch.evolve(**change))
        assert [k for k, v in flags.items() if v.any()] == [name]
    assert bool(law.priors(moe())["moe"])
    assert law.compares_vocabularies is False


def test_kv_prior_by_hand(arch: Arch) -> None:
    # d_model 1024: the data have d_m = 512; one KV head has d_m = 128:
    # 0.20 (128^-0.05 - 512^-0.05) = 0.20 (2^-0.35 - 2^-0.45) = 0.20 (0.784584 - 0.732043) = 0.010508
    law = load_law()
    narrow = arch.evolve(n_kv_heads=1)
    assert law.core is not None
    bare = law.core.mean(law._logs(narrow, 2e10))
    assert law.predict(narrow, 2e10) - bare == pytest.approx(0.010508, abs=1e-6)
    assert law.predict(narrow, 2e10, True)[1] > law.predict(arch, 2e10, True)[1]


def test_fine_grained_mixture_counts_stored_over_used() -> None:
    # 4 layers, d = 64, 1 of 8 experts of width 32, gated: idle = 7 * 4 * 3 * 64 * 32 = 172032; with 100000 used and a
    # fraction of 0.3 that is 1 + 172032 / 30000 = 6.7344 equivalent experts.
    fine = moe(n_layers=4, d_model=64, d_ff_expert=32)
    assert float(equivalent_experts(fine, 1e5, 0.3)) == pytest.approx(6.7344)
    assert equivalent_experts(Arch(), 1e5, 0.3) == 1.0


@pytest.mark.parametrize("name", FITTED)
def test_mixtures(name: str) -> None:
    law = load_law(name)
    # one expert of one is the dense model (exactly, but for the router that this Arch does not count)
    one = moe(n_experts=1)
    assert law.predict(one, 2e10) == pytest.approx(float(law.predict(Arch(), 2e10)), abs=1e-12)
    losses = law.predict(moe(n_experts=np.array([1, 2, 8, 64, 512, 4096, 10**6])), 2e10)
    assert (np.diff(losses) <= 1e-12).all()
    if name != "deepmind-moe":
        assert losses[-1] == pytest.approx(losses[-2])  # capped: more experts than were fitted gain nothing
    # a fifth of the active parameters with any number of experts does not reach the gain of infinitely many
    assert losses[-1] > law.core.p[0]  # type: ignore[union-attr]


def test_paper_law_is_eq2(arch: Arch) -> None:
    law = load_law("paper")
    mix = moe(n_experts=16, n_active_experts=2, d_ff_expert=2048)
    # l 16, d 1024, d_m 512, r = 2 * 2048 / 1024 = 4, rho = 2/16
    want = 9.96 / 16**1.63 + 0.031 * 0.125**1.09 / (4**0.17 * 1024**-0.33) + 500 / (4**0.17 * 1024**0.97)
    want += 0.20 / 512**0.05 + 2.53
    assert law.predict(mix, 1e10) == pytest.approx(want, abs=1e-12)
    assert bool(law.outside(arch.evolve(n_layers=64), 1e10)["n_layers"])


def test_real_architectures() -> None:
    fields = {
        "n_layers": 16,
        "d_model": 1024,
        "n_heads": 8,
        "n_kv_heads": 4,
        "d_head": 128,
        "d_ff": 4096,
        "vocab_size": 50304,
    }
    one = Architecture(**fields)
    batch = ArchitectureBatch.of([one, one.evolve(n_layers=20)])
    for name in NAMES:
        law = load_law(name)
        assert law.predict(batch, 2e10)[0] == pytest.approx(float(law.predict(one, 2e10)), rel=1e-12)


def test_errors(arch: Arch) -> None:
    with pytest.raises(SpecError, match="tokens must be positive"):
        load_law().predict(arch, 0.0)
    with pytest.raises(SpecError, match="no layers"):
        load_law().predict(arch.evolve(n_layers=0), 1e10)


def test_mean_is_fast_enough() -> None:
    """Ten times below what was measured (6 million a second), so that a busy machine passes."""
    rng, n, law = np.random.default_rng(0), 16384, load_law()
    d = 64.0 * rng.integers(4, 48, n)
    arch = Arch(
        n_layers=rng.integers(3, 80, n).astype(float), d_model=d, n_heads=d / 128, n_kv_heads=d / 256, d_ff=4 * d
    )
    law.predict(arch, 1e10)
    start = time.perf_counter()
    for _ in range(5):
        law.predict(arch, 1e10)
    assert 5 * n / (time.perf_counter() - start) > 6e5


def test_prediction_never_imports_scipy() -> None:
    code = "import sys; from codesign.predictors import load_law; load_law(); assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_law_is_a_value() -> None:
    assert isinstance(load_law(), LossLaw)
    with pytest.raises(AttributeError):
        load_law().name = "other"  # type: ignore[misc]


def test_uneven_layers_lose_what_their_mean_layer_does() -> None:
    """783 trained models tell no difference; the spread is twice the standard error of that."""
    law = load_law("gemstones")
    base: dict[str, Any] = {
        "n_layers": 4,
        "d_model": 1024,
        "n_heads": 8,
        "n_kv_heads": 8,
        "d_head": 128,
        "vocab_size": 50304,
    }
    even = Architecture(**base, d_ff=4096)
    uneven = Architecture(**base, d_ff=6144, ffn_widths=(2048, 3072, 5120, 6144))
    batch = ArchitectureBatch.of([even, uneven])
    mean, std = law.predict(batch, 1e10, return_std=True)
    assert mean[0] == pytest.approx(mean[1], rel=1e-9) and std[1] ** 2 - std[0] ** 2 == pytest.approx(
        0.0028**2, rel=1e-3
    )
    assert law.priors(batch)["uneven"].tolist() == [False, True]
    assert "uneven" not in law.priors(even)
