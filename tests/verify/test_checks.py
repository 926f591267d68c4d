"""Checks are registered: one from outside the package is run, reported and refused like any other."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loader import LoaderError, VerificationError, load_into
from loader.report.data import Check
from loader.runtime import terminable
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


@pytest.mark.parametrize("value", [False, 0, torch.tensor(False), torch.tensor(1.0).numpy() > 2])
def test_whatever_is_false_has_failed(value: Any, path: Path, registered: Callable[..., None]) -> None:
    registered(lambda _: [Check(NAME, value, "a comparison")])
    with pytest.raises(VerificationError, match=r"^no zeros: a comparison$"):
        carry_out("Two", path)


@pytest.mark.parametrize("value", [True, 1, torch.tensor(True), torch.tensor(3.0).numpy() > 2])
def test_whatever_is_true_has_passed_and_nothing_was_not_done(
    value: Any, path: Path, registered: Callable[..., None]
) -> None:
    registered(lambda _: [Check(NAME, value, ""), Check("other", None, "")])
    found = checks(carry_out("Two", path).report)
    assert found[NAME] is True
    assert found["other"] is None


FAULTS: dict[str, tuple[Any, str]] = {
    "raises": (lambda _: 1 / 0, "ZeroDivisionError: division by zero"),
    "exits": (lambda _: sys.exit(0), "SystemExit: 0"),
    "bare refusal": (lambda _: (_ for _ in ()).throw(LoaderError("boo")), "LoaderError: boo"),
    "returns nothing": (lambda _: None, "TypeError: 'NoneType' object is not iterable"),
    "returns a check": (lambda _: Check(NAME, True, ""), "TypeError: 'Check' object is not iterable"),
    "yields text": (lambda _: [NAME], "TypeError: it yielded str, expected Check"),
    "yields none": (lambda _: [], "TypeError: it yielded no Check"),
    "yields many values": (
        lambda _: [Check(NAME, torch.ones(2) > 0, "")],  # type: ignore[arg-type]  # the fault
        "RuntimeError: Boolean value of Tensor with more than one value is ambiguous",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_check_whose_code_fails_has_failed(case: str, path: Path, registered: Callable[..., None]) -> None:
    check, fault = FAULTS[case]
    registered(check, fixes=[Fix(note="mend the check")])
    with pytest.raises(VerificationError) as refusal:
        carry_out("Two", path)
    assert refusal.value.message == f"no zeros: the check of {__name__} failed with {fault}"
    assert refusal.value.hint == "mend the check"


def test_a_check_that_cannot_say_whether_it_applies_has_failed(path: Path, registered: Callable[..., None]) -> None:
    registered(applies=lambda _: 1 / 0)
    with pytest.raises(VerificationError, match=f"no zeros: the check of {__name__} failed with ZeroDivisionError"):
        carry_out("Two", path)


def test_a_refusal_that_a_check_raises_keeps_its_words(path: Path, registered: Callable[..., None]) -> None:
    def check(_: Subject) -> Iterator[Check]:
        raise VerificationError("the vocabulary differs")

    registered(check)
    with pytest.raises(VerificationError, match=f"^no zeros: the check of {__name__}: the vocabulary differs$"):
        carry_out("Two", path)


def test_a_termination_signal_is_not_the_fault_of_a_check(path: Path, registered: Callable[..., None]) -> None:
    registered(lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended, terminable():
        carry_out("Two", path)
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("fixes", "fault"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda *_: None, "ValueError: the fixes of a verification check are None, expected a list of Fix"),
    ],
)
def test_fixes_that_fail_leave_the_refusal_as_it_is(
    fixes: Any, fault: str, path: Path, registered: Callable[..., None]
) -> None:
    registered(lambda _: [Check(NAME, False, "some")], fixes=fixes)
    with pytest.raises(VerificationError) as refusal:
        carry_out("Two", path)
    assert refusal.value.message == "no zeros: some"
    assert refusal.value.hint == f"looking for fixes, the check of {__name__} failed with {fault}"


@pytest.mark.parametrize(
    ("name", "settings", "fault"),
    [
        (no_zeros, {}, "invalid name of a verification check: <function no_zeros"),
        (
            "mine",
            {"moment": "nope"},
            "the verification check 'mine' has the moment 'nope', expected one of loaded, run, end",
        ),
        ("mine", {"fixes": "abc"}, "the fixes of a verification check are 'abc', expected a list of Fix"),
    ],
)
def test_an_invalid_registration_is_refused(name: Any, settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        register(name, **settings)
