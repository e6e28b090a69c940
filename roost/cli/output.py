"""How commands speak: results as JSON on standard output, everything else on standard error.

A single value is indented and coloured for a person and compact for a program; a sequence is one JSON value a line
for both. A refusal is one line that ends with what to do next.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import msgspec
import typer

PANEL = "Against a running server"
"""Where `roost --help` lists these commands."""


def show(value: Any) -> None:
    """Print one JSON value."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        _print_coloured(msgspec.json.format(text).decode())
    else:
        sys.stdout.buffer.write(text + b"\n")
        sys.stdout.flush()


def show_line(value: Any) -> None:
    """Print one JSON value of a sequence, on a line of its own, at once."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        _print_coloured(text.decode())
    else:
        sys.stdout.buffer.write(text + b"\n")
        sys.stdout.flush()


def say(text: str) -> None:
    """Tell a person something that is no result."""
    typer.echo(text, err=True)


def fail(what: str, next_step: str = "", *, code: int = 1) -> NoReturn:
    """End the command with one line: what went wrong, and what to do next."""
    line = " ".join(f"roost: {what} {next_step}".split())
    typer.echo(line, err=True)
    raise typer.Exit(code)


def examples(*lines: str) -> str:
    """Examples for the end of a command's help, a line each."""
    # Help is rich markup, where a bracket begins a style.
    return "\n".join(["Examples:", *("$ " + line.replace("[", "\\[") for line in lines)])


def silence_stdout() -> None:
    """After the reader of our output has gone: let nothing more be written to it, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_coloured(text: str) -> None:
    from rich.console import Console
    from rich.highlighter import JSONHighlighter

    console = Console(soft_wrap=True)
    console.print(JSONHighlighter()(text))
