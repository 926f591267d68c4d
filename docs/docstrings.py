"""Reads the docstrings of records and their fields, for the pages and the JSON Schemas that are generated from them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from typing import Any


def doc(thing: Any) -> str:
    """Returns the first paragraph of a docstring, on one line and in Markdown."""
    return markdown((inspect.getdoc(thing) or "").partition("\n\n")[0])


def attribute_docs(record: type) -> dict[str, str]:
    """Returns the docstrings of a dataclass's fields, inherited ones included."""
    inherited = (attribute_docs(base) for base in record.__bases__ if dataclasses.is_dataclass(base))
    docs = {name: text for one in inherited for name, text in one.items()}
    body = ast.parse(textwrap.dedent(inspect.getsource(record))).body[0].body  # type: ignore[attr-defined]
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            docs[statement.target.id] = markdown(after.value.value) if is_doc else ""
    return docs


def markdown(text: str) -> str:
    """Returns a text on one line, with Markdown's marks for code."""
    return " ".join(text.split()).replace("``", "`")
