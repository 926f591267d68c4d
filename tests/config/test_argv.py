from __future__ import annotations

import pytest

from loader.config.argv import Arguments, parse_arguments
from loader.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "flags", "typed", "sweep"),
    [
        (["a=1", "-m", "b=2"], ["-m"], ["a=1", "b=2"], True),
        (["--multirun", "a=1"], ["--multirun"], ["a=1"], True),
        (["--multi", "a=1"], ["--multi"], ["a=1"], True),
        (["hydra.mode=MULTIRUN"], [], ["hydra.mode=MULTIRUN"], True),
        (["--cfg", "job", "a=1", "-p", "model", "b=2"], ["--cfg", "job", "-p", "model"], ["a=1", "b=2"], False),
        (["--cfg=job", "a=1"], ["--cfg=job"], ["a=1"], False),
        (["--info", "a=1"], ["--info"], ["a=1"], False),
        (["--info", "defaults", "a=1"], ["--info", "defaults"], ["a=1"], False),
        (["-cn", "mine", "-cd", "conf", "a=1"], ["-cn", "mine", "-cd", "conf"], ["a=1"], False),
        (["-cn"], ["-cn"], [], False),
        ([], [], [], False),
    ],
)
def test_flags_and_overrides_are_separated(
    arguments: list[str], flags: list[str], typed: list[str], sweep: bool
) -> None:
    parsed = parse_arguments(arguments)
    assert (parsed.flags, parsed.typed, parsed.sweep) == (flags, typed, sweep)


def test_a_note_behind_a_pasted_line_is_ignored() -> None:
    parsed = parse_arguments(["mode=plan", "--cfg", "job", "#", "lists,", "-m", "--json", "only", "#"])
    assert parsed == Arguments(["--cfg", "job"], ["mode=plan"], sweep=False, completion=False)
    assert parse_arguments(["-cd", "#", "conf"]).typed == []
    assert parse_arguments(["#"]).typed == []
    assert parse_arguments(["x=#", "#y", "y=# 1"]).typed == ["x=#", "#y", "y=# 1"]


def test_json_is_the_loaders_own_flag_and_hydra_never_sees_it() -> None:
    parsed = parse_arguments(["mode=inspect", "--json", "--cfg", "job"])
    assert (parsed.json, parsed.flags, parsed.typed) == (True, ["--cfg", "job"], ["mode=inspect"])
    assert not parse_arguments(["mode=inspect"]).json


@pytest.mark.parametrize("sweep", ["-m", "--multirun", "hydra.mode=MULTIRUN"])
def test_json_of_a_sweep_is_refused(sweep: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_arguments([sweep, "device=cpu,meta", "--json"])
    assert refusal.value.message == "--json prints the report of one run, and a sweep has several"
    assert refusal.value.hint == (
        "the same line without --json: summary.json in the sweep's folder names the report.json of each job"
    )
