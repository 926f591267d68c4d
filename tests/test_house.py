"""The house rules that a machine can check: budgets of files and functions, and the worst patterns of English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import REPOSITORY

PACKAGE = REPOSITORY / "loader"
MODULES = sorted((*PACKAGE.rglob("*.py"), *(REPOSITORY / "hydra_loader").rglob("*.py")))
PAGES = sorted(
    (
        *(REPOSITORY / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "conf").rglob("*.yaml"),
    )
)

MOST_FILES, MOST_LOOSE, MOST_LINES, LONGEST_FUNCTION = 355, 8, 300, 60

REFUSED = {
    r"(?<!there )\b(?:is|are) no\b(?! (?:longer|more|other|better|later|earlier)\b)": "'is not a' or 'there is no'",
    r"\btold\b": "'reported', 'said', or the name of the text",
    r"\btells?\b(?! apart\b)": "'reports', 'says', 'shows'",
    r"\bthat (?:is|are) none\b": "what was expected instead",
    r"\bwhat is no\b": "a noun",
}
"""Patterns of the text that a user or a reader meets, and better words."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The strings of a module, docstrings among them, and its comments."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        if (comment := re.search(r"(?:^|\s)#\s(.*)", line)) is not None:
            yield number, comment[1]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def faults(text: str) -> list[str]:
    found = [
        (match, better) for pattern, better in REFUSED.items() for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    return [f"'{text[max(0, m.start() - 30) : m.end() + 20]}': write {better}" for m, better in found]


def test_the_package_keeps_its_budgets() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) <= MOST_FILES
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_LOOSE


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_module_fits(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno is not None}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_modules_text_is_plain_english(path: Path) -> None:
    assert [f"{line}: {fault}" for line, text in texts(path) for fault in faults(text)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_page_is_plain_english(path: Path) -> None:
    assert faults(path.read_text("utf-8")) == []


@pytest.mark.parametrize("text", ["a.pt is no regular file", "a place that is none", "the user is told", "it tells so"])
def test_the_patterns_are_found(text: str) -> None:
    assert faults(text) != []
    assert faults("a.pt is not a regular file; there is no such key; it is no longer there") == []
