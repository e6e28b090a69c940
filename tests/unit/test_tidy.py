"""The habits of the house that no linter knows, as ordinary tests.

Each test goes over the tracked files (or, before they are tracked, those that would be) and names the offenders.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
GENERATED = ("requirements/",)
"""Written by programs, so no limit on their length."""
CODE = (".py", ".sql", ".sh", ".lua", ".ts", ".js", ".css", ".html")

REGISTRY = re.compile(
    r"https?://[^\s\"']*(?:pypi|pythonhosted|npmjs|yarnpkg|crates\.io|maven|golang|debian)|"
    r"^\s*--?(?:extra-|)(?:index-url|find-links)\b|^\s*registry\s*=\s*https?:"
)
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:root|home|Users|opt|work)/")

STATEMENT = re.compile(r"\s*(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|CREATE|ALTER|DROP|LOCK|TRUNCATE|COPY)\s+\S")
SQL_IN_CODE: dict[str, str] = {}
"""Files whose SQL cannot stand in a `.sql` file, each with the reason."""
IMPURE_SQL = re.compile(
    r"\b(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|random|gen_random_uuid|uuidv[47])\s*\(|"
    r"\bcurrent_(timestamp|date|time)\b|\blocaltime(stamp)?\b",
    re.IGNORECASE,
)


@cache
def tracked() -> tuple[str, ...]:
    """Paths from the root, of files that are in the repository or would be added to it."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    return tuple(sorted(name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()))


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="ignore")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(text(name), name)


def python(*folders: str) -> list[str]:
    return [name for name in tracked() if name.endswith(".py") and name.startswith(folders)]


def without_sql_comments(sql: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.DOTALL)


def docstrings(module: ast.Module) -> set[int]:
    """Ids of the nodes that are docstrings, of attributes too: prose, whatever it begins with."""
    return {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def literals(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every piece of text in the code but docstrings, with its line."""
    prose = docstrings(module)
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_no_file_is_long() -> None:
    long = {
        name: n
        for name in tracked()
        if name.endswith(CODE) and not name.startswith(GENERATED) and (n := text(name).count("\n")) > FILE_LINES_MAX
    }
    assert not long


def test_no_function_is_long() -> None:
    long = {
        f"{name}:{node.lineno} {node.name}": lines
        for name in python("roost/", "tests/", "bench/", "clients/")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long


def test_each_file_says_why_it_exists() -> None:
    silent = [
        name for name in python("roost/", "tests/", "bench/") if tree(name).body and not ast.get_docstring(tree(name))
    ]
    assert not silent


def test_no_registry_and_no_machine_is_named() -> None:
    this = Path(__file__).relative_to(ROOT).as_posix()
    named = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in tracked()
        if name != this
        for number, line in enumerate(text(name).splitlines(), 1)
        if REGISTRY.search(line) or MACHINE_PATH.search(line)
    ]
    assert not named


def test_sql_stands_in_sql_files() -> None:
    strays = [
        f"{name}:{line}: {literal.strip()[:60]}"
        for name in python("roost/")
        if name not in SQL_IN_CODE
        for line, literal in literals(tree(name))
        if STATEMENT.match(literal)
    ]
    assert not strays


def test_every_exception_to_the_sql_rule_is_needed() -> None:
    idle = [
        name
        for name in SQL_IN_CODE
        if name not in tracked() or not any(STATEMENT.match(literal) for _, literal in literals(tree(name)))
    ]
    assert not idle


def test_sql_has_no_clock_and_no_chance_of_its_own() -> None:
    impure = [
        f"{name}: {found.group()}"
        for name in tracked()
        if name.startswith("roost/")
        and name.endswith(".sql")
        and (found := IMPURE_SQL.search(without_sql_comments(text(name))))
    ]
    assert not impure
