"""How often the line to type is right, over pairs with a known answer; `pytest -s` shows the table."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.suggest import alternatives
from tests.jobs import carry_out, save
from tests.suggest.corpus import Case, State, cases

CASES = list(cases())
HEADER = ("cause", "pairs", "solved", "auto", "refused", "wrong")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found must not depend on how busy the machine is; the number of builds stays bounded."""
    monkeypatch.setattr(alternatives, "_MOST_SECONDS", 600)


def test_the_corpus_is_large_enough_and_its_names_are_unique() -> None:
    assert sum(bool(case.answers) for case in CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.slow
def test_the_line_to_type_and_auto_solve_the_corpus(tmp_path: Path) -> None:
    counts: dict[str, Counter[str]] = {}
    failed: list[str] = []
    for number, case in enumerate(CASES):
        path = save(case.file, tmp_path / f"{number}.pt")
        outcome = judged(case, path)
        counts.setdefault(case.cause, Counter()).update(outcome)
        failed += [f"{case.name} ({case.cause}): {outcome[0]}"] if outcome[0] not in ("solved", "refused") else []
        failed += [f"{case.name} ({case.cause}): {outcome[1]}"] if outcome[1] not in ("auto", "held back") else []
        path.unlink()
    sys.stdout.write(f"\n{table(counts)}\n")
    total = sum(counts.values(), Counter())
    belonging = sum(bool(case.answers) for case in CASES)

    assert total["wrong"] + total["auto is wrong"] == 0, failed
    assert total["solved"] >= 0.95 * belonging, failed
    assert total["refused"] == len(CASES) - belonging, failed
    assert total["auto"] >= 0.95 * sum(case.auto and bool(case.answers) for case in CASES), failed


def judged(case: Case, path: Path) -> tuple[str, str]:
    """What became of a pair: by the line to type, and by auto."""
    return by_line(case, path), by_auto(case, path)


def by_line(case: Case, path: Path) -> str:
    with pytest.raises(loader.FitError) as refused:
        carry_out(case.node, path, **case.given)
    lines = (
        [shlex.split(line, comments=True) for line in refused.value.hint.splitlines()]
        if typed(refused.value.hint)
        else []
    )
    if not lines:
        return "not solved" if case.answers else "refused"
    if not case.answers:
        return "wrong"
    found = [pasted(case, path, line) for line in lines]
    if None in found:
        return "wrong"
    right = [any(holds(state or {}, answer) for state in found) for answer in case.answers]
    return "solved" if all(right) and len(found) == len(case.answers) else "wrong"


def by_auto(case: Case, path: Path) -> str:
    settings: dict[str, Any] = {key: value for key, value in case.given.items() if key == "allow"}
    try:
        loaded = carry_out(case.node, path, checkpoint={"key": "auto"}, rules="auto", **settings)
    except loader.FitError:
        return "auto does nothing" if case.auto and case.answers else "held back"
    if len(case.answers) != 1 or not holds(loaded.model.state_dict(), case.answers[0]):
        return "auto is wrong"
    again = pasted(case, path, [o for line in loaded.report.parts[""].applied for o in shlex.split(line)])
    return "auto" if again is not None and holds(again, case.answers[0]) else "auto is wrong"


def pasted(case: Case, path: Path, line: list[str]) -> Mapping[str, torch.Tensor] | None:
    """What the model holds after the job was run with the pasted line; None where it still does not load."""
    typed = [
        f"model={{{', '.join(f'{key}: {value}' for key, value in case.node.items())}}}",
        f"checkpoint.path={path}", "device=cpu", "verify.forward=false",
    ]  # fmt: skip
    allowed = case.given.get("allow", {})
    typed += [f"allow.{name}=[{','.join(globs)}]" for name, globs in allowed.items()]
    key = case.given.get("checkpoint", {}).get("key")
    typed += [f"checkpoint.key={key}"] if key else []
    try:
        return loader.load([*typed, *line]).model.state_dict()
    except loader.LoaderError:
        return None


def typed(hint: str) -> bool:
    """Whether a hint is a line to paste: none that leaves the file, or the base of an adapter, to be filled in."""
    return bool(hint) and not hint.startswith(("checkpoint.path=…", "checkpoint.path=BASE "))


def holds(state: Mapping[str, torch.Tensor], answer: State) -> bool:
    return all(key in state and torch.equal(state[key], value) for key, value in answer.items())


def table(counts: Mapping[str, Counter[str]]) -> str:
    rows: list[tuple[Any, ...]] = [
        (cause, sum(c.values()) // 2, c["solved"], c["auto"], c["refused"], c["wrong"] + c["auto is wrong"])
        for cause, c in counts.items()
    ]
    total = ("all", *(sum(row[at] for row in rows) for at in range(1, len(HEADER))))
    return "\n".join(f"{row[0]:<16}" + "".join(f"{cell!s:>9}" for cell in row[1:]) for row in (HEADER, *rows, total))
