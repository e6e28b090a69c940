"""`roost export` and `roost import`: documents or whole logs as JSON Lines, to and from a running server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, TypeVar

import msgspec
import typer

from roost.cli.output import PANEL, examples, fail, say, silence_stdout
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url, resolve

if TYPE_CHECKING:
    from roost.cli.exporter import ExportState
    from roost.cli.importer import BadLine, ImportState
    from roost.client.exchange import Token as Bearer

SAVE_INTERVAL_S = 0.5

Logs = Annotated[
    bool, typer.Option("--logs", help="Whole logs, an event a line, instead of documents as they are now.")
]
Concurrency = Annotated[int, typer.Option(help="How many users at once.", min=1, max=64)]
State = TypeVar("State")


def export(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to; else standard output.", show_default=False)
    ] = None,
    *,
    logs: Logs = False,
    user: Annotated[list[str] | None, typer.Option(help="Only this user; may be repeated.", show_default=False)] = None,
    concurrency: Concurrency = 8,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Write all users' documents, or with --logs their whole logs, as JSON Lines.

    An export into FILE that was interrupted goes on where it was when the same command is run again.
    """
    from roost.cli.exporter import ExportState

    state = ExportState(logs)
    state_file = None
    if file is not None:
        state_file = file.with_name(file.name + ".export-state")
        state = _resume_export(file, state_file, state)
    with contextlib.ExitStack() as stack:
        out: BinaryIO = sys.stdout.buffer
        if file is not None:
            with _file_errors():
                out = stack.enter_context(file.open("r+b" if state.size else "wb"))
                out.truncate(state.size)
                out.seek(state.size)
        with _endings("The same command goes on from here." if file and not user else ""):
            done = asyncio.run(_export(out, state, state_file, user, concurrency, (url, token, profile)))
    if state_file is not None:
        state_file.unlink(missing_ok=True)
    say(f"Exported {done.lines:,} {'events' if logs else 'documents'} of {done.users:,} users.")
    if done.holed:
        say(
            f"The logs of {done.holed:,} of them lack events that are not shown, such as how users log in: "
            "these can be read, but not imported. An export without --logs can."
        )


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to import; - reads standard input.")],
    *,
    logs: Logs = False,
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="Whether a line that is wrong ends it or is left out.")
    ] = "stop",
    resume: Annotated[
        Path | None,
        typer.Option(metavar="STATE", help="Where progress is kept.", show_default="FILE.import-state"),
    ] = None,
    concurrency: Concurrency = 8,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Read documents, or with --logs whole logs, from JSON Lines.

    A line is {"user", "collection", "key", "value"}, or with --logs {"user", "seq", "kind", …} as in an export.
    An import that was interrupted goes on where it was when the same command is run again within 24 hours, and
    applies nothing twice.
    """
    from roost.cli.connection import credential
    from roost.cli.importer import BadLine, Changed, ImportState

    found = resolve(url, token, profile)
    who = credential(found, profile)
    fresh = ImportState(uuid.uuid4().hex, found.url, logs)
    state_file = resume or (None if file == "-" else Path(file + ".import-state"))
    state = _load(state_file, ImportState, fresh)
    if (state.url, state.logs) != (fresh.url, logs):
        what = "logs" if state.logs else "documents"
        fail(f"{state_file} is about an import of {what} into {state.url}.", "Finish that one, or remove the file.")
    if state.size:
        say(f"Going on after line {state.lines:,}.")
    with contextlib.ExitStack() as stack:
        stream = sys.stdin.buffer
        if file != "-":
            with _file_errors():
                stream = stack.enter_context(Path(file).open("rb"))
        again = "The same command goes on from here." if state_file else ""
        try:
            with _endings(again):
                asyncio.run(_import(stream, state, state_file, on_error == "skip", concurrency, who))
        except BadLine as error:
            fail(f"{error} All before it is in.", f"Mend that line, or add --on-error skip. {again}")
        except Changed:
            fail(
                f"The first {state.lines:,} lines of {file} are not those that were imported.",
                f"Put them back, or remove {state_file} to start over.",
            )
    if state_file is not None:
        state_file.unlink(missing_ok=True)


Server = tuple[str | None, str | None, str]


async def _export(
    out: BinaryIO,
    state: ExportState,
    state_file: Path | None,
    users: list[str] | None,
    concurrency: int,
    server: Server,
) -> ExportState:
    from roost.cli.connection import connect_async
    from roost.cli.exporter import export_user, export_users

    with _progress("Exporting", None) as (advance, _):
        async with connect_async(*server) as client:
            if not users:

                def saved(now: ExportState) -> None:
                    advance(now.lines, f"{now.users:,} users")
                    if state_file is not None:
                        _save(state_file, now)

                return await export_users(client, out, state, concurrency=concurrency, saved=saved)
            for user in users:
                done = await export_user(client, out, user, logs=state.logs)
                lines, holed = state.lines + done.lines, state.holed + done.holed
                state = msgspec.structs.replace(state, users=state.users + 1, lines=lines, holed=holed)
                advance(state.lines, f"{state.users:,} users")
            return state


async def _import(
    stream: BinaryIO, state: ImportState, state_file: Path | None, skip: bool, concurrency: int, token: Bearer
) -> None:
    from roost.cli.importer import Import, Reader
    from roost.cli.refusals import JOB
    from roost.client import Client

    size = os.fstat(stream.fileno()).st_size or None  # a pipe has none
    began = saved_at = time.monotonic()
    # On disk before anything is sent: whoever repeats this import after a kill needs its id.
    if state_file is not None:
        _save(state_file, state)
    with _progress("Importing", size) as (advance, print_line):

        def report(error: BadLine) -> None:
            print_line(f"roost: {error} It is left out.")

        def saved(now: ImportState) -> None:
            nonlocal saved_at
            advance(now.size, f"line {now.lines:,}")
            if state_file is not None and time.monotonic() - saved_at >= SAVE_INTERVAL_S:
                saved_at = time.monotonic()
                _save(state_file, now)

        async with Client(state.url, token, limits=JOB) as client:
            work = Import(client, state, skip=skip, report=report, saved=saved)
            try:
                await work.run(Reader(stream, state, work.bad), concurrency=concurrency)
            finally:
                if state_file is not None:
                    _save(state_file, work.state)
    took = time.monotonic() - began
    say(
        f"Imported {work.items:,} {'events' if state.logs else 'documents'} in {took:.1f} s"
        + (f"; {work.skipped:,} lines were left out." if work.skipped else ".")
    )


def _resume_export(file: Path, state_file: Path, fresh: ExportState) -> ExportState:
    from roost.cli.exporter import ExportState

    if not state_file.exists():
        if file.exists():
            fail(f"{file} exists.", "Remove it, or choose another name.")
        return fresh
    state = _load(state_file, ExportState, fresh)
    if state.logs != fresh.logs or not file.exists() or file.stat().st_size < state.size:
        fail(f"{file} is not the export that {state_file} is about.", "Remove both to start over.")
    say(f"Going on after {state.users:,} users.")
    return state


def _load(path: Path | None, kind: type[State], fresh: State) -> State:
    try:
        return fresh if path is None else msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return fresh
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        fail(f"{path} cannot be read: {error}.", "Remove it to start over.")


def _save(path: Path, state: object) -> None:
    """Replace a state file in one step, so that a kill leaves the old one or the new one."""
    new = path.with_name(path.name + ".new")
    with _file_errors():
        new.write_bytes(msgspec.json.encode(state) + b"\n")
        new.replace(path)


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}.", "Is the path right, and may it be read and written?")


@contextlib.contextmanager
def _endings(again: str) -> Iterator[None]:
    """End the command with one line where the server refuses or a person has had enough."""
    from roost.cli.refusals import next_step, sentence
    from roost.client import RoostError

    try:
        yield
    except RoostError as error:
        fail(sentence(error), f"{next_step(error)} {again}")
    except BrokenPipeError:
        silence_stdout()
        sys.exit(0)
    except KeyboardInterrupt:
        fail("Interrupted.", again, code=130)


@contextlib.contextmanager
def _progress(what: str, total: int | None) -> Iterator[tuple[Callable[[int, str], None], Callable[[str], None]]]:
    """A progress bar on standard error, for a person only; and a way to print lines without breaking it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total, note="")
        yield (
            lambda completed, note: bar.update(task, completed=completed, note=note),
            lambda line: console.print(line, markup=False),
        )


def register(app: typer.Typer) -> None:
    """Add `export` and `import`."""
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "roost export shop.jsonl", "roost export --logs logs.jsonl", "roost export --user ada | jq .value"
        ),
    )(export)
    app.command(
        "import",
        rich_help_panel=PANEL,
        epilog=examples(
            "roost import shop.jsonl",
            "roost import --logs logs.jsonl --url http://127.0.0.1:9000",
            "zcat shop.jsonl.gz | roost import - --resume shop.state",
        ),
    )(import_)
