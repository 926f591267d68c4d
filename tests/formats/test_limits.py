"""The limits on hostile files, and the page that quotes them."""

from __future__ import annotations

import ast
from pathlib import Path

from loader.formats import limits

_PAGE = Path(__file__).parents[2] / "SECURITY.md"


def table() -> str:
    """The table of SECURITY.md, made from the constants and the texts below them."""
    source = Path(limits.__file__).read_text()
    tree = ast.parse(source)
    rows = ["| limit | value | why |", "|---|---|---|"]
    for node, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.Assign):
            assert isinstance(text, ast.Expr), f"{ast.unparse(node)} has no reason"
            reason = " ".join(str(ast.literal_eval(text.value)).split())
            value = ast.get_source_segment(source, node.value)
            rows.append(f"| `{ast.unparse(node.targets[0])}` | `{str(value).replace('_', ',')}` | {reason} |")
    return "\n".join(rows)


def test_security_md_quotes_the_limits() -> None:
    assert table() in _PAGE.read_text(), f"put this into SECURITY.md:\n\n{table()}"


def test_limits_are_plain_constants_without_imports() -> None:
    tree = ast.parse(Path(limits.__file__).read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == ["from __future__ import annotations"]
    assert all(type(value) is int for name, value in vars(limits).items() if name.isupper())
