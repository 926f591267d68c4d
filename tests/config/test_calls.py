"""A mistyped call of a function is refused with the line that has it right."""

from __future__ import annotations

from pathlib import Path

import pytest

from loader.config.rewrite import rewrite
from loader.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        (
            "checkpoint.path=globb(runs/*.pt)",
            "'globb' is not a function (did you mean 'glob'?): 'checkpoint.path=globb(runs/*.pt)'",
            "'checkpoint.path=glob(runs/*.pt)'",
        ),
        (
            "seed=rangee(1,3)",
            "'rangee' is not a function (did you mean 'range'?): 'seed=rangee(1,3)'",
            "'seed=range(1,3)'",
        ),
        (
            "pairs=zipp(seed=[1,2])",
            "'zipp' is not a function (did you mean 'zip'?): 'pairs=zipp(seed=[1,2])'",
            "'pairs=zip(seed=[1,2])'",
        ),
        (
            "checkpoint.path=glob(runs/*.pt",
            "'checkpoint.path=glob(runs/*.pt' does not close the bracket of glob(",
            "'checkpoint.path=glob(runs/*.pt)'",
        ),
        (
            "model=globe(*)",
            "'globe' is not a function (did you mean 'glob'?): 'model=globe(*)'",
            "'model=glob(*)'",
        ),
        (
            "experiment=glob(a*, last=2,exclude=ab*)",
            "last and every count files, and 'experiment=glob(a*, last=2,exclude=ab*)' is over the options of a group",
            "'experiment=glob(a*,exclude=ab*)'   # all of them",
        ),
        (
            "pairs=zip(seed=[1,2]",
            "'pairs=zip(seed=[1,2]' does not close the bracket of zip(",
            "'pairs=zip(seed=[1,2])'",
        ),
    ],
)
def test_a_mistyped_call_is_refused(typed: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rewrite([typed], sweep=True)
    assert caught.value.message == message
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "typed", ["checkpoint.path=model(1).pt", "checkpoint.path=weights(final)", "seed=choice(1,2)", "model.act=relu(1)"]
)
def test_other_brackets_are_left_alone(typed: str) -> None:
    assert rewrite([typed], sweep=True)


def test_a_file_with_such_a_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("globe(1)").touch()
    assert rewrite(["checkpoint.path=globe(1)"]) == ['checkpoint.path="globe(1)"']
