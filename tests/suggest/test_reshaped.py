"""What people paste for tensors that differ must be true: every line offered for a corpus of pairs is carried out."""

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
from loader.suggest.tensors.proposed import DOUBT
from tests.jobs import carry_out, save
from tests.suggest.reshaped import Pair, State, pairs

PAIRS = pairs()
BELONGING = [pair for pair in PAIRS if pair.right is not None]
STRANGERS = [pair for pair in PAIRS if pair.right is None]
named = pytest.mark.parametrize
_KINDS = ("rules", "checkpoint.", "allow.", "model.")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found must not depend on how busy the machine is; the number of builds stays bounded."""
    monkeypatch.setattr(alternatives, "_MOST_SECONDS", 600)


def test_the_corpus_is_large_enough_and_its_names_are_unique() -> None:
    assert len(BELONGING) >= 40
    assert len(STRANGERS) >= 10
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)


def node(pair: Pair) -> dict[str, str]:
    return {"_target_": "tests.suggest.reshaped.made", "name": pair.name}


def lines(pair: Pair, path: Path) -> list[str]:
    """The lines to type of the refusal."""
    with pytest.raises(loader.LoaderError) as refused:
        carry_out(node(pair), path)
    found = [fix.line and str(fix) for fix in refused.value.fixes if fix.line.strip("'").startswith(_KINDS)]
    return [fix for fix in found if "…" not in fix]


def pasted(pair: Pair, path: Path, line: str) -> State | None:
    """What the model holds after the job was run with the pasted line; None where it still does not load."""
    quoted = pair.name.replace('"', "")
    model = f'model={{_target_: tests.suggest.reshaped.made, name: "{quoted}"}}'
    own = [model, f"checkpoint.path={path}", "device=cpu", "verify.forward=false"]
    try:
        return dict(loader.load([*own, *shlex.split(line, comments=True)]).model.state_dict())
    except loader.LoaderError:
        return None


def holds(state: Mapping[str, torch.Tensor], right: State, tolerance: float) -> bool:
    """Whether tensors are equal, of some the first rows alone."""
    for key, value in right.items():
        own = state.get(key)
        if own is None or own.shape[1:] != value.shape[1:] or len(own) < len(value):
            return False
        if not torch.allclose(own[: len(value)], value, rtol=0, atol=tolerance):
            return False
    return True


def by_line(pair: Pair, path: Path) -> str:
    """What became of a pair by the lines to type."""
    found = lines(pair, path)
    if pair.right is None:
        # Whole modules may stay out, as without any rule for tensors.
        return "refused" if all(shlex.split(line)[0].startswith("allow.") for line in found) else "wrong"
    states = [(line, pasted(pair, path, line)) for line in found]
    right = [state is not None and holds(state, pair.right, pair.tolerance) for _, state in states]
    for (line, state), is_right in zip(states, right, strict=True):
        other = state is not None and any(holds(state, other, 0) for other in pair.others)
        if state is None or not (is_right or other or line.endswith(DOUBT)):
            return "wrong"
    if not any(right):
        return "not solved"
    doubted = any(line.endswith(DOUBT) for (line, _), is_right in zip(states, right, strict=True) if is_right)
    return "solved" if doubted != (pair.auto or pair.defined) else "said wrongly"


def by_auto(pair: Pair, path: Path) -> str:
    """What became of a pair by auto."""
    settings: dict[str, Any] = {"checkpoint": {"key": "auto"}, "rules": "auto"}
    try:
        loaded = carry_out(node(pair), path, **settings)
    except loader.LoaderError:
        return "auto does nothing" if pair.auto else "held back"
    if pair.right is None or not pair.auto or not holds(loaded.model.state_dict(), pair.right, pair.tolerance):
        return "auto is wrong"
    again = pasted(pair, path, " ".join(loaded.report.parts[""].applied))
    return "auto" if again is not None and holds(again, pair.right, pair.tolerance) else "auto is wrong"


def judged(pair: Pair, folder: Path) -> tuple[str, str]:
    path = save(pair.file, folder / "file.pt")
    return by_line(pair, path), by_auto(pair, path)


@pytest.mark.slow
def test_the_lines_to_type_and_auto_solve_the_corpus(tmp_path: Path) -> None:
    counts: dict[str, Counter[str]] = {}
    failed: list[str] = []
    for pair in PAIRS:
        outcome = judged(pair, tmp_path)
        counts.setdefault(pair.cause, Counter()).update(outcome)
        failed += [f"{pair.name}: {one}" for one in outcome if one not in ("solved", "refused", "auto", "held back")]
    sys.stdout.write("".join(f"\n{cause:<16}{dict(count)}" for cause, count in counts.items()))
    total = sum(counts.values(), Counter())

    assert total["wrong"] + total["auto is wrong"] + total["said wrongly"] == 0, failed
    assert total["refused"] == len(STRANGERS), failed
    assert total["solved"] == len(BELONGING), failed
    assert total["auto"] == sum(pair.auto for pair in PAIRS), failed
