"""The application: commands, and how errors reach people: one line, exit code 2; Ctrl-C: 130."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from codesign.cli.agent import agent
from codesign.cli.bits import bits
from codesign.cli.calibrate import calibrate
from codesign.cli.compare import compare
from codesign.cli.compose import compose
from codesign.cli.dashboard import dashboard
from codesign.cli.devices import devices
from codesign.cli.export import export
from codesign.cli.fit import fit
from codesign.cli.measurements import measurements
from codesign.cli.predict import predict
from codesign.cli.predictors import predictors
from codesign.cli.profile import profile
from codesign.cli.report import report
from codesign.cli.search import search
from codesign.cli.train import train
from codesign.cli.validate import validate
from codesign.errors import CodesignError

__all__ = ["app", "main"]

app = typer.Typer(
    name="codesign",
    help="Find language-model architectures for a device: predicted loss against predicted latency, memory and energy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(search)
app.command()(predict)
app.command()(devices)
app.command()(profile)
app.command()(calibrate)
app.command()(validate)
app.command()(report)
app.command()(compare)
app.command()(train)
app.command()(compose)
app.command()(bits)
app.command()(fit)
app.command()(export)
app.command(hidden=True)(agent)
app.command()(measurements)
app.command()(predictors)
app.command()(dashboard)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"codesign {version('codesign-llm')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error and log details.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:  # understood after the command too
        arguments = ["--debug", *(text for text in arguments if text != "--debug")]
    if arguments in ([], ["--debug"]):
        arguments = ["--help"]
    if sys.stdout is None:  # closed by the caller
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        code = typer.main.get_command(app)(args=arguments, prog_name="codesign", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # how typer reports Ctrl-C
            _say_interrupted(arguments)
        return int(code or 0)
    except CodesignError as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        _say_interrupted(arguments)
        return 130
    except typer.Exit as stop:
        return int(stop.exit_code)
    except BrokenPipeError:  # the reader of a pipe left: not an error of ours
        _discard_output()
        return 0
    except OSError as error:  # such as a full disk
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        _discard_output()
        return 2
    except Exception as error:
        told = getattr(error, "format_message", None)  # a usage error, of click's or of typer's own copy of click
        if told is None or debug:
            raise
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context is not None else ""
        print(f"error: {' '.join(told().split()).rstrip('.')}{hint}", file=sys.stderr)
        return 2


def _say_interrupted(arguments: Sequence[str]) -> None:
    more = (
        "; the same command goes on from what is done"
        if {"train", "profile", "bits", "compose"} & set(arguments[:2])
        else ""
    )
    print(f"interrupted{more}", file=sys.stderr)


def _discard_output() -> None:
    """What is still buffered would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
