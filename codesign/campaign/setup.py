"""From what a user asks to campaigns that can run: device, engine, architectures, passes, priors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from codesign.architecture import Architecture
from codesign.campaign.fleet import Fleet
from codesign.campaign.fleet_worker import Worker
from codesign.campaign.local import run_here
from codesign.campaign.plan import candidate_pool
from codesign.campaign.run import Campaign, Execute
from codesign.campaign.target import target_device
from codesign.devices import Device, load_device, user_devices
from codesign.errors import SpecError
from codesign.hf_config import read_config
from codesign.measurement import machine_name
from codesign.operators import Phase
from codesign.profilers import Engine, Point
from codesign.profilers.base import uses_accelerator
from codesign.profilers.engines import open_engine
from codesign.profilers.host import detect_host
from codesign.roofline.calibration import load_calibration
from codesign.roofline.device_fit import Prior, catalogue_prior, probed_prior
from codesign.search.spaces import load_space
from codesign.workload import PRECISIONS, Workload, parse_precision

__all__ = [
    "Setup",
    "build_campaigns",
    "calibrated_options",
    "check_choice",
    "implied_options",
    "open_fleet",
    "phase_priors",
    "points_of",
]

_VOCABULARIES = (32000, 50304, 100352)  # so that the output head's cost is told from the layers'
_MEMORY_SHARE = 0.6
_LARGEST = {"cpu": 150e6, "gpu": 1.5e9}  # active parameters: a visit takes seconds, a campaign minutes
_PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Campaigns, one a precision; the open engine (None where others run it); priors by precision."""

    device: Device
    campaigns: tuple[Campaign, ...]
    engine: Engine | None
    priors: Mapping[str, Mapping[Phase, Prior]] = field(hash=False)


def check_choice(plan: int | None, random: int | None, models: Sequence[str]) -> None:
    """Exactly one way to choose architectures.

    Raises:
        SpecError: none or several, or a number below 1.
    """
    given = [
        name
        for name, value in (("--plan", plan), ("--random", random), ("--models", models or None))
        if value is not None
    ]
    if len(given) != 1:
        raise SpecError(
            f"give one of --plan N, --random N and --models NAME, not {' and '.join(given) or 'none'}: which architectures are "
            "to be measured? For example --plan 20"
        )
    for name, count in (("--plan", plan), ("--random", random)):
        if count is not None and count < 1:
            raise SpecError(f"{name} {count} must be at least 1")


def points_of(workload: Workload) -> tuple[Point, ...]:
    """Passes that a workload is profiled by: its prompt and a quarter of it; decode at its mean context and at a quarter
    of its prompt.
    """
    prompt, batch = max(workload.prompt_tokens, 1), workload.batch_size
    short = max(prompt // 4, 1)
    context = max(round(workload.mean_context_tokens) - 1, 1)
    lengths = dict.fromkeys((short, prompt))
    contexts = dict.fromkeys((short, context))
    return (
        *(Point.prefill(tokens, batch) for tokens in lengths),
        *(Point.decode(tokens, batch) for tokens in contexts),
    )


def phase_priors(device: Device, engine: str, precision: str, batch_size: int = 1) -> dict[Phase, Prior]:
    """What is believed of a device before it is measured: its peaks for a host, the catalogue's calibration else."""
    form = PRECISIONS[precision]
    if device.name == "host" or device.kind == "cpu":
        return {phase: probed_prior(device, form) for phase in _PHASES}
    rates = load_calibration().rates(device, engine, form, batch_size)
    return {
        phase: probed_prior(device, form) if rates.of(phase).terms else catalogue_prior(device, form, rates.of(phase))
        for phase in _PHASES
    }


def build_campaigns(
    *,
    device: str,
    power_mode: str | None,
    engine: str,
    options: Mapping[str, str],
    threads: int,
    models: Sequence[str],
    space: str,
    plan: int | None,
    random: int | None,
    max_params: float | None,
    precisions: Sequence[str],
    prompt: int,
    generate: int,
    batch: int,
    phase: str | None,
    visits: int,
    compose: bool,
    name: str | None,
    seed: int,
    remote: bool,
    force: bool,
    energy: bool = True,
) -> Setup:
    """Everything that a campaign needs, or the reason why it cannot run, before anything is measured.

    Raises:
        CodesignError: a device, engine, option, model, space or precision that is not possible here.
    """
    if prompt == 0:  # a workload may have no prompt; all else is the workload's to refuse
        raise SpecError("--prompt 0 must be at least 1")
    local: Engine | None = None
    options = {**implied_options(engine, options, threads, batch), **options}
    if remote:
        if device.strip().lower() == "host":
            raise SpecError(
                "--device host is this machine; with --on, --hosts or --scheduler name what the boards are: a device of the catalogue "
                "or a device file"
            )
        target = load_device(device, power_mode)
        allowed: tuple[str, ...] = tuple(PRECISIONS)
    else:
        local = open_engine(engine, options)
        options, allowed = dict(local.options), local.precisions
        accelerator = uses_accelerator(local)
        target = target_device(device, power_mode, threads=threads, accelerator=accelerator, force=force)
    order = ("fp32", "fp16") if local is not None and not uses_accelerator(local) else ("fp16", "fp32")
    usual = next((name for name in order if name in allowed), allowed[0])
    forms = list(dict.fromkeys(parse_precision(text).name for text in precisions or [usual]))
    if bad := [form for form in forms if form not in allowed]:
        raise SpecError(f"engine {engine} does not run {', '.join(bad)} here; allowed: {', '.join(allowed)}")
    largest = max_params or (_LARGEST["cpu"] if target.kind == "cpu" else _LARGEST["gpu"])
    points = points_of(Workload(prompt_tokens=prompt, output_tokens=generate, batch_size=batch))
    memory = (
        _MEMORY_SHARE * target.memory_B
    )  # of all memory, not of what is free now: the choice must be the same again
    rng = np.random.default_rng(seed)
    if phase not in (None, *_PHASES):
        raise SpecError(f"--phase '{phase}' is neither prefill nor decode; leave it out for both")
    here = machine_name(detect_host().summary()) if local is not None and target.name == "host" else ""
    timed = tuple(point for point in points if phase in (None, point.phase))
    campaigns = []
    for form in forms:
        archs = [read_config(model) for model in models]
        kind, pool = "models", [repr(arch) for arch in archs]
        if not archs:
            designs = load_space(space, [form], 50304)
            bundled = space in ("dense", "default")
            designs = designs.with_axis("vocab_size", _VOCABULARIES) if bundled else designs
            archs = candidate_pool(designs, form, points, memory_B=memory, max_params=largest, rng=rng)
            if bundled:
                archs = [_without_qk_norm(arch) if i % 2 else arch for i, arch in enumerate(archs)]
            kind = "plan"
            pool = [repr(arch) for arch in archs]
            if random is not None:
                kind = "random"
                archs = [archs[int(i)] for i in rng.permutation(len(archs))[:random]]
        campaigns.append(
            Campaign(
                name=f"{name}-{form}" if name and len(forms) > 1 else name or _name(target, engine, form, (target.power_mode, sorted(options.items()), timed, kind, pool, compose, here)),
                architectures=archs, plan=plan, precision=form, engine=engine, engine_options=options, device=target.name,
                power_mode=target.power_mode, points=timed, machine=here, force=force, energy=energy,
                engine_version=local.version if local else "", visits=visits, compose=compose, seed=seed,
            )
        )  # fmt: skip
    priors = {form: phase_priors(target, engine, form, batch) for form in forms}
    return Setup(device=target, campaigns=tuple(campaigns), engine=local, priors=priors)


def _without_qk_norm(arch: Architecture) -> Architecture:
    """A dense design as Llama and Qwen2.5 are: half of what is measured, so that the norms' cost is told from the layers', and
    known models, most of which have none, are predicted as well (results/h100.md).
    """
    return arch.evolve(qk_norm="none", family="llama") if arch.family == "qwen3" else arch


def implied_options(engine: str, options: Mapping[str, str], threads: int, batch: int) -> dict[str, str]:
    """Options that follow from others: threads of engines on the CPU, the largest batch of a TensorRT engine."""
    if engine == "tensorrt":
        return {"max_batch": str(batch)} if batch > 1 else {}
    on_cpu = options.get("provider", "cpu") == "cpu"
    return {"threads": str(threads)} if on_cpu and engine in ("onnxruntime", "torch") else {}


def calibrated_options(
    device: str, power_mode: str | None, engine: str, precision: str, asked: Mapping[str, str], batch: int
) -> dict[str, str]:
    """Options to open an engine with, so that it runs as the device's calibration was made: what was asked for goes first,
    then the calibration's, then what is implied.
    """
    fit = None
    is_host = device.strip().lower() == "host"
    if not is_host or (user_devices() / "host.toml").is_file():
        fit = load_device(device, None if is_host else power_mode).fit_for(engine, precision)
    had = {name: value for name, value in fit.options.items() if name != "nvpmodel"} if fit else {}
    merged = {**had, **asked}
    return {**implied_options(engine, merged, 1, batch), **merged}


def _name(device: Device, engine: str, form: str, what: object) -> str:
    """Equal campaigns share a name, and so their records; more of the same pool continue fewer."""
    return f"{device.name}-{engine}-{form}-{hashlib.sha256(repr(what).encode()).hexdigest()[:8]}"


@contextmanager
def open_fleet(
    setup: Setup, on: Sequence[str], hosts: str | None, scheduler: str | None, resource: str | None
) -> Iterator[Execute]:
    """What runs the tasks: this process, boards over ssh, or Dask workers; closed at the end.

    Raises:
        SpecError: ssh boards and a Dask scheduler at once, or a bad hosts file.
    """
    if setup.engine is not None:
        yield run_here(setup.engine)
        return
    if scheduler and (on or hosts):
        raise SpecError("--scheduler does not go with --on and --hosts: Dask schedules all boards, or ssh does")
    workers: Sequence[Worker]
    if scheduler:
        from codesign.campaign.dask_fleet import dask_workers

        device = setup.device
        workers = dask_workers(scheduler, resource or device.name, device=device.name, power_mode=device.power_mode)
    else:
        from codesign.campaign.fleet_hosts import find_hosts
        from codesign.campaign.ssh import ssh_workers

        workers = ssh_workers(find_hosts(on, hosts))
    with Fleet(workers) as fleet:
        yield fleet.execute
