"""Checks are registered: one from outside the package is run, reported and refused like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loader import VerificationError, load_into
from loader.report.data import Check
from loader.text.lines import Fix
from loader.verify.checks import Function, Moment, Subject, register, unregister
from tests.jobs import carry_out, checks, save
from tests.models import Two, filled

NAME = "no zeros"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


def no_zeros(subject: Subject) -> Iterator[Check]:
    zeros = [name for name, parameter in subject.module.named_parameters() if bool((parameter == 0).any())]
    yield Check(NAME, not zeros, f"zeros in {', '.join(zeros)}" if zeros else "every parameter")


@pytest.fixture
def registered() -> Iterator[Callable[..., None]]:
    """Registers a check from outside the package, for one test."""

    def add(check: Function = no_zeros, **settings: Any) -> None:
        register(NAME, **settings)(check)

    yield add
    unregister(NAME)


def test_a_check_from_outside_is_reported(path: Path, registered: Callable[..., None]) -> None:
    registered()
    assert checks(carry_out("Two", path).report)[NAME]
    assert checks(load_into(Two(), path, verify={}))[NAME]


def test_a_check_from_outside_refuses_the_load(tmp_path: Path, registered: Callable[..., None]) -> None:
    registered(fixes=[Fix("model.sparse=true", "expects zeros")])
    state = filled(Two()).state_dict()
    state["second.bias"].zero_()
    path, live = save(state, tmp_path / "zeros.pt"), filled(Two(), 3)
    before = {key: value.clone() for key, value in live.state_dict().items()}

    for attempt in (lambda: carry_out("Two", path), lambda: load_into(live, path, verify={})):
        with pytest.raises(VerificationError) as refusal:
            attempt()
        assert refusal.value.message == "no zeros: zeros in second.bias"
        assert refusal.value.hint == "model.sparse=true   # expects zeros"
    assert all(torch.equal(value, before[key]) for key, value in live.state_dict().items())


def test_a_check_is_left_out_where_it_does_not_apply(path: Path, registered: Callable[..., None]) -> None:
    registered(applies=lambda subject: subject.job.seed == 7)
    assert NAME not in checks(carry_out("Two", path).report)
    assert NAME in checks(carry_out("Two", path, seed=7).report)


@pytest.mark.parametrize(("moment", "runs"), [("loaded", 0), ("run", 1), ("end", 0)])
def test_a_check_sees_the_forward_pass_at_its_moment_alone(
    moment: Moment, runs: int, path: Path, registered: Callable[..., None]
) -> None:
    seen: list[Subject] = []

    def look(subject: Subject) -> Iterator[Check]:
        seen.append(subject)
        yield Check(NAME, True, "")

    registered(look, moment=moment)
    carry_out("Two", path, verify={"input": {"shape": [1, 4]}})
    assert [subject.run is not None for subject in seen] == [bool(runs)]
    assert seen[0].prepared is not None
    assert seen[0].prepared.plan.loaded


def test_a_name_is_given_once(registered: Callable[..., None]) -> None:
    registered()
    with pytest.raises(ValueError, match="a verification check called 'no zeros' is registered already"):
        registered()
