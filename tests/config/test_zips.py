"""zip(...) moves keys together, whatever their values are, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.config import devices
from loader.config.rewrite import rewrite
from loader.config.zips import spread
from loader.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


def jobs_of(*typed: str) -> list[list[str]]:
    """The overrides of each job of one zip, as Hydra's sweeper would hand them out."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides(rewrite(typed, sweep=True))
    return [spread(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]


@pytest.mark.parametrize(
    ("typed", "jobs"),
    [
        (["pairs=zip(seed=[1,2],device=[cpu,meta])"], [["seed=1", "device=cpu"], ["seed=2", "device=meta"]]),
        (
            ["+pairs=zip( seed = [1, 2] , dtype = [null,float16] )"],
            [["seed=1", "dtype=null"], ["seed=2", "dtype=float16"]],
        ),
        (["pairs=zip(seed=range(1,3))"], [["seed=1"], ["seed=2"]]),
        (["pairs=zip(seed=[range(1,3),7])"], [["seed=1"], ["seed=2"], ["seed=7"]]),
        (["pairs=zip(seed=choice(4,5))"], [["seed=4"], ["seed=5"]]),
        (
            ["pairs=zip(model.kernel=[[3,3],[5,5]])"],
            [["++model.kernel=null", f"+model.kernel=[{size},{size}]"] for size in (3, 5)],
        ),
        (["pairs=zip(+my.key=[{a: 1},{b: [2]}])"], [["+my.key={a: 1}"], ["+my.key={b: [2]}"]]),
        (["pairs=zip(rules=[[ddp],[ddp,compile]])"], [["rules=[ddp]"], ["rules=[ddp,compile]"]]),
        (
            ["pairs=zip(checkpoint.path=[a=1.pt,'b, c.pt'],verify.golden=[null,auto])"],
            [
                ['checkpoint.path="a=1.pt"', "verify.golden=null"],
                ["checkpoint.path='b, c.pt'", "verify.golden=auto"],
            ],
        ),
        (
            ["pairs=zip(model=[linear,{_target_: my.Net}],seed=[1,2])"],
            [
                ["model=linear", "seed=1"],
                ["+hydra/clear=[model,verify.input]", "++model={_target_: my.Net}", "seed=2"],
            ],
        ),
        (["pairs=zip(seed=[1],device=[cpu])"], [["seed=1", "device=cpu"]]),
        (
            ["dtype=float16,null", "pairs=zip(seed=[1,2],device=[cpu,meta])"],
            [
                [dtype, *pair]
                for dtype in ("dtype=float16", "dtype=null")
                for pair in (["seed=1", "device=cpu"], ["seed=2", "device=meta"])
            ],
        ),
    ],
)
def test_the_jobs_of_a_zip(typed: list[str], jobs: list[list[str]]) -> None:
    assert jobs_of(*typed) == jobs


def test_files_and_devices_stand_for_all_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("step=2.pt", "step=10.pt"):
        Path(name).touch()
    monkeypatch.setattr(devices, "cuda_devices", lambda: 2)
    zipped = "pairs=zip(checkpoint.path=glob(*.pt),seed=[5,6],device=[cuda:*])"
    assert jobs_of(zipped) == [
        ['checkpoint.path="step=2.pt"', "seed=5", "device=cuda:0"],
        ['checkpoint.path="step=10.pt"', "seed=6", "device=cuda:1"],
    ]


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_any_text_arrives_as_it_is(texts: list[str]) -> None:
    from loader.config.grammar import parse_value
    from loader.text.lines import quoted_key

    values = ",".join(map(quoted_key, texts))
    jobs = jobs_of(f"pairs=zip(my_key=[{values}],seed=[{','.join(['1'] * len(texts))}])")
    assert [parse_value(job[0].partition("=")[2]).text for job in jobs] == texts


EXPECTED = "; expected NAME=zip(KEY=[A,B],OTHER=[X,Y])"
UNEVEN = """\
-m 'pairs=zip(seed=[1,2],device=[cpu,meta])'   # the first 2 of each
-m seed=1,2,3 device=cpu,meta   # every combination"""
EXAMPLE = "-m 'pairs=zip(checkpoint.path=[FILE,OTHER],seed=[0,1])'   # for example"


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        (
            "seed=zip(device=[cpu,meta])",
            "'seed' is a key of the config; expected a free name for the zip(...)",
            "-m 'pairs=zip(device=[cpu,meta])'",
        ),
        (
            "checkpoint.path=zip(device=[cpu,meta])",
            "'checkpoint.path' is a key of the config; expected a free name for the zip(...)",
            "-m 'pairs=zip(device=[cpu,meta])'",
        ),
        (
            "a.b=zip(device=[cpu,meta])",
            "'a.b' is not a name for a zip(...); expected one word",
            "-m 'pairs=zip(device=[cpu,meta])'",
        ),
        ("pairs=zip()", f"'pairs=zip()' cannot be read: it has no values{EXPECTED}", EXAMPLE),
        ("pairs=zip(seed=[])", f"'pairs=zip(seed=[])' cannot be read: it has no values{EXPECTED}", EXAMPLE),
        ("pairs=zip(1,2)", f"'pairs=zip(1,2)' cannot be read: '1' is not KEY=[VALUES]{EXPECTED}", EXAMPLE),
        ("pairs=zip(seed=1)", f"'pairs=zip(seed=1)' cannot be read: 'seed=1' is not a list{EXPECTED}", EXAMPLE),
        (
            "pairs=zip(seed=[1],+seed=[2])",
            f"'pairs=zip(seed=[1],+seed=[2])' cannot be read: '+seed' is there twice{EXPECTED}",
            EXAMPLE,
        ),
        (
            "pairs=zip(model=glob(*))",
            f"'pairs=zip(model=glob(*))' cannot be read: 'model=glob(*)' stands for no values known here{EXPECTED}",
            EXAMPLE,
        ),
        (
            "pairs=zip(seed=[1,2,3],device=[cpu,meta])",
            "the lists of pairs=zip(...) differ in length: seed has 3 values, device has 2 values",
            UNEVEN,
        ),
    ],
)
def test_what_is_wrong_is_refused(typed: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rewrite([typed], sweep=True)
    assert caught.value.message == message
    assert caught.value.hint == hint
    assert caught.value.exit_code == 2


def test_several_values_need_a_sweep() -> None:
    typed = "pairs=zip(seed=[1,2],device=[cpu,meta])"
    with pytest.raises(ConfigError) as caught:
        rewrite([typed])
    assert caught.value.message == f"'{typed}' has 2 values for each key, but a single run accepts one"
    assert caught.value.hint == f"-m '{typed}'   # one job for each"
    assert rewrite(["pairs=zip(seed=[1],device=[cpu])"]) == ["seed=1", "device=cpu"]


@pytest.mark.parametrize(
    ("typed", "other", "by"),
    [
        (["pairs=zip(seed=[1,2])", "seed=3"], "pairs", "seed=3"),
        (["seed=3,4", "pairs=zip(seed=[1,2])"], "pairs", "seed=3"),
        (["pairs=zip(model=[a,b])", "+model=c,d"], "pairs", "model=c"),
        (["pairs=zip(seed=[1,2])", "more=zip(seed=[3,4])"], "pairs", "more=zip(...)"),
    ],
)
def test_a_key_has_one_place_for_its_values(typed: list[str], other: str, by: str) -> None:
    with pytest.raises(ConfigError) as caught:
        jobs_of(*typed)
    key = "model" if "model" in typed[0] else "seed"
    assert caught.value.message == f"'{key}' is in {other}=zip(...), and set by '{by}' as well"
    assert caught.value.hint == f"the same line without {by}"
