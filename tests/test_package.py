"""What importing loads, and what the wheel holds."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import codesign

ROOT = Path(codesign.__file__).parents[1]
HEAVY = ("torch", "onnxruntime", "matplotlib", "transformers", "sklearn", "pandas")


def loaded(code: str) -> set[str]:
    """Top-level modules in memory after some code ran in a fresh interpreter."""
    ask = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=120, check=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import codesign",
        "import codesign.search, codesign.report, codesign.roofline, codesign.predictors",
        "from codesign.cli import main\nmain(['search', '--help'])",
        "from codesign.cli import main\nmain(['devices'])",
        "import os, tempfile\nos.chdir(tempfile.mkdtemp())\nfrom codesign.cli import main\n"
        "assert main(['search', '--device', 'orin', '--latency', '20ms', '--space', 'paper', '--no-plot']) == 0",
    ],
    ids=["import", "packages", "help", "devices", "search"],
)  # fmt: skip
def test_nothing_heavy_is_imported(code: str) -> None:
    assert not loaded(code) & set(HEAVY)


@pytest.mark.parametrize("arguments", ["['--help']", "['search', '--help']", "['--version']"])
def test_help_does_not_import_numpy(arguments: str) -> None:
    modules = loaded(f"from codesign.cli import main\nmain({arguments})")
    assert not modules & {*HEAVY, "numpy", "scipy", "moocore", "pymoo"}


def test_an_exact_search_does_not_import_pymoo() -> None:
    code = (
        "import os, tempfile\nos.chdir(tempfile.mkdtemp())\nfrom codesign.cli import main\n"
        "main(['search', '--device', 'orin', '--latency', '20ms', '--space', 'paper', '--no-plot'])"
    )
    assert "pymoo" not in loaded(code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built without a network."""
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("not a source tree")
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheels_only_top_level_package_is_codesign(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"codesign"}


def test_the_wheel_has_the_data(wheel: zipfile.ZipFile) -> None:
    """Every file of the package that git would keep, so that nothing works from a checkout alone."""
    names = set(wheel.namelist())
    for name in ("codesign/py.typed", "codesign/roofline/calibration.json", "codesign/roofline/energy.json",
                 "codesign/search/frontier.schema.json", "codesign/cli/search.py"):  # fmt: skip
        assert name in names
    for folder, suffix, least in (
        ("devices", ".toml", 60),
        ("predictors/laws", ".json", 6),
        ("known_models", ".json", 20),
    ):
        found = [n for n in names if n.startswith(f"codesign/{folder}") and n.endswith(suffix)]
        assert len(found) >= least, (folder, len(found))
    here = {
        str(p.relative_to(ROOT)) for p in (ROOT / "codesign").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert {n for n in names if n.startswith("codesign/")} == here
    assert not [n for n in names if "__pycache__" in n or n.startswith("tests")]


def test_the_wheel_has_both_commands_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (entry,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(entry).decode())
    assert dict(parser["console_scripts"]) == {"codesign": "codesign.cli:main", "llm-codesign": "codesign.cli:main"}
    assert [n for n in wheel.namelist() if n.endswith("licenses/LICENSE")]


def test_the_wheel_runs_from_elsewhere(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked beside nothing else: catalogue, laws and calibration are found."""
    wheel.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "codesign", "search", "--device", "orin", "--latency", "20ms", "--space", "paper", "--json"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["schema"] == "codesign.frontier"


def test_the_public_names_exist() -> None:
    for name in codesign.__all__:
        assert getattr(codesign, name) is not None
