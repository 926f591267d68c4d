"""The swept keys of a sweep, and their values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.config.rewrite import readable, rewrite
from loader.config.zips import packed
from loader.sweep.swept import swept_by_config, swept_in, swept_values
from loader.text.lines import quoted


def test_a_key_is_swept_if_its_value_differs_between_jobs() -> None:
    jobs = {0: ["seed=1", "+model.width=2", "device=cpu"], 1: ["seed=1", "+model.width=3", "device=cpu"]}
    assert swept_values(jobs) == {0: {"model.width": 2}, 1: {"model.width": 3}}


def test_a_key_that_only_some_jobs_have_is_swept() -> None:
    assert swept_values({4: ["seed=1"], 7: ["seed=1", "dtype=float16"]}) == {4: {}, 7: {"dtype": "float16"}}


def test_of_a_single_job_nothing_is_swept() -> None:
    assert swept_values({0: ["seed=1", "device=cpu"]}) == {0: {}}


def test_settings_of_the_sweep_are_never_swept() -> None:
    settings = ["sweep.resume", "sweep", "hydra.job.name", "hydra/job_logging", "track.mlflow"]
    jobs = {job: [f"{key}={job}" for key in (*settings, "tracker", "seed")] for job in (0, 1)}
    assert [list(values) for values in swept_values(jobs, settings).values()] == [["tracker", "seed"]] * 2


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("seed=1,2", ["seed"]),
        ("+seed=1,1", ["seed"]),
        ("seed=1", []),
        ("verify.input={shape: [1, 2]}", []),
        ("model.name='a,b'", []),
        ("seed=int(1)", []),
        ("seed=range(0,1)", ["seed"]),
        ("model.scale=interval(0, 1)", ["model.scale"]),
        ("checkpoint.path=glob(*.pt)", ["checkpoint.path"]),
        ("checkpoint.path=glob(1).pt", []),
        ("device=cuda:*", ["device"]),
        ("pairs=zip(seed=[1], +model.width=[2])", ["seed", "model.width"]),
        ("pairs=zip(seed=[1], model.width=[2, 3])", []),
        ("sweep.resume=first", []),
        ("~evaluate", []),
    ],
)
def test_a_value_for_several_jobs_is_swept_even_by_one(override: str, keys: list[str]) -> None:
    assert swept_in([override]) == keys


def test_a_config_sweeps_its_parameters_and_the_keys_of_its_zips() -> None:
    zipped = packed("pairs", [["seed=1", "+model.width=2"], ["seed=3", "+model.width=4"]])
    key, _, value = zipped.partition("=")
    assert swept_by_config({"dtype": "float16", "+a": "1,2", key: value}) == ["dtype", "a", "seed", "model.width"]


def test_a_key_may_be_known_to_be_swept() -> None:
    assert swept_values({0: ["seed=1", "device=cpu"]}, ["seed"]) == {0: {"seed": 1}}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("checkpoint.path=epoch=2.pth", "epoch=2.pth"),
        ("checkpoint.path=1e5", "1e5"),
        ("++model.width=3", 3),
        ("model.scale=-0.5", -0.5),
        ("checkpoint.mmap=false", False),
        ("dtype=null", None),
        ("rules=[ddp]", "[ddp]"),
        ("rules=[]", "[]"),
        ("model=resnet", "resnet"),
        ("model={_target_: a.B}", "{_target_: a.B}"),
        ("+db/server=mine", "mine"),
        ("verify.input={shape: [1, 2]}", {"shape": [1, 2]}),
        ("checkpoint.path=${nope}", "${nope}"),
        ("model.name='a,b'", "a,b"),
    ],
)
def test_values_have_types(override: str, value: Any) -> None:
    key = override.lstrip("+").partition("=")[0]
    assert swept_values({0: [override], 1: ["other=1"]})[0][key] == value


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_path_is_its_own_value(path: str) -> None:
    typed = readable(rewrite([f"checkpoint.path={quoted(path)}"]))
    assert swept_values({0: typed}, ["checkpoint.path"]) == {0: {"checkpoint.path": path}}
