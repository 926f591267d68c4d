from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.config.globs import expand_glob
from loader.config.rewrite import rewrite
from loader.errors import ConfigError
from loader.files.path import natural


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("1/last.ckpt", "2/last.ckpt", "10/last.ckpt", "10/best.pt", "10/deep/epoch=3-step=10.ckpt"):
        file = tmp_path / "runs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "runs" / "10" / "best.golden.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("glob(runs/*/last.ckpt)", ["runs/1/last.ckpt", "runs/2/last.ckpt", "runs/10/last.ckpt"]),
        ("glob( runs/10/*.ckpt , runs/1*/last.ckpt )", ["runs/1/last.ckpt", "runs/10/last.ckpt"]),
        ("glob([runs/1/*,runs/2/*])", ["runs/1/last.ckpt", "runs/2/last.ckpt"]),
        ("glob(runs/*/last.ckpt,exclude=runs/1*)", ["runs/2/last.ckpt"]),
        ("glob(runs/*/last.ckpt,exclude=[runs/1/*,runs/2/*])", ["runs/10/last.ckpt"]),
        ("glob(runs/**/epoch=*.ckpt)", ["runs/10/deep/epoch=3-step=10.ckpt"]),
        ("glob('runs/**/*=3*.ckpt')", ["runs/10/deep/epoch=3-step=10.ckpt"]),
        ("glob(runs/[12]/last.ckpt)", ["runs/1/last.ckpt", "runs/2/last.ckpt"]),
        ("glob(runs/10/best.*)", ["runs/10/best.pt"]),
        ("glob(runs/10/*.golden.safetensors)", ["runs/10/best.golden.safetensors"]),
        ("glob(runs/1/last.ckpt)", ["runs/1/last.ckpt"]),
        ("glob(include=runs/1/*)", ["runs/1/last.ckpt"]),
        # A name is excluded in any folder; a pattern with a slash is about the path.
        ("glob(runs/**/*, exclude=[last.*,*.golden.*,epoch*,[0-9]*,deep])", ["runs/10/best.pt"]),
        ("glob(runs/*/*.ckpt,exclude=*1*)", ["runs/1/last.ckpt", "runs/2/last.ckpt", "runs/10/last.ckpt"]),
        ("glob(runs/*/*.ckpt,exclude=*/1/*)", ["runs/2/last.ckpt", "runs/10/last.ckpt"]),
        ("glob(runs/*/last.ckpt,last=2)", ["runs/2/last.ckpt", "runs/10/last.ckpt"]),
        ("glob(runs/*/last.ckpt,last=9)", ["runs/1/last.ckpt", "runs/2/last.ckpt", "runs/10/last.ckpt"]),
        ("glob(runs/*/last.ckpt, every = 2)", ["runs/1/last.ckpt", "runs/10/last.ckpt"]),
        ("glob(runs/*/last.ckpt,every=3)", ["runs/10/last.ckpt"]),
        ("glob(runs/*/last.ckpt,every=2,last=1)", ["runs/10/last.ckpt"]),
        ("glob(last=1,every=1,runs/*/last.ckpt)", ["runs/10/last.ckpt"]),
        ("glob(runs/*/last.ckpt,exclude=runs/10/*,every=2,last=5)", ["runs/2/last.ckpt"]),
    ],
)
def test_files_come_in_natural_order(runs: Path, call: str, found: list[str]) -> None:
    assert expand_glob("checkpoint.path", call) == found


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 12))
def test_every_counts_from_the_last_file_and_last_comes_after_it(count: int, every: int, last: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for step in range(count):
            (Path(name) / f"step={step}.pt").touch()
        found = expand_glob("checkpoint.path", f"glob({name}/*.pt,every={every},last={last})")
    kept = [step for step in range(count) if (count - 1 - step) % every == 0][-last:]
    assert found == [f"{name}/step={step}.pt" for step in kept]


def test_files_of_a_package_are_found_without_importing_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = runs / "my_weights"
    (package / "tiny").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for name in ("tiny/step=2.pt", "tiny/step=10.pt", "best.pt"):
        (package / name).touch()
    monkeypatch.syspath_prepend(str(runs))
    found = expand_glob("checkpoint.path", "glob(pkg://my_weights/tiny/*.pt)")
    assert found == ["pkg://my_weights/tiny/step=2.pt", "pkg://my_weights/tiny/step=10.pt"]
    assert expand_glob("checkpoint.path", "glob(pkg://my_weights/**/*.pt,exclude=step*)") == [
        "pkg://my_weights/best.pt"
    ]
    for call, searched in (
        ("glob(pkg://my_weights/*.ckpt)", str(package)),
        ("glob(pkg://my_weights/../*.pt)", str(package)),
        ("glob(pkg://no_such/*.pt)", "pkg://no_such, which is not installed"),
    ):
        with pytest.raises(ConfigError) as caught:
            expand_glob("checkpoint.path", call)
        assert caught.value.message == f"no file matches '{call[5:-1]}' for checkpoint.path (searched {searched})"


ARGUMENTS = "expected patterns, exclude=PATTERN, last=N, every=N"


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        ("glob(runs/*, last=0)", "'last=0' in '{}' is not a whole number of at least 1", "glob(runs/*, last=1)"),
        ("glob(runs/*,last=-3)", "'last=-3' in '{}' is not a whole number of at least 1", "glob(runs/*,last=1)"),
        ("glob(runs/*,every=x)", "'every=x' in '{}' is not a whole number of at least 1", "glob(runs/*,every=1)"),
        (
            "glob(runs/*,lastt=3)",
            f"glob(...) has no argument 'lastt' (did you mean 'last'?): '{{}}'; {ARGUMENTS}",
            "glob(runs/*,last=3)",
        ),
        (
            "glob(runs/*,exlude=[a*,b*])",
            f"glob(...) has no argument 'exlude' (did you mean 'exclude'?): '{{}}'; {ARGUMENTS}",
            "glob(runs/*,exclude=[a*,b*])",
        ),
        ("glob(runs/*,first=3)", f"glob(...) has no argument 'first': '{{}}'; {ARGUMENTS}", "glob(runs/*,last=3)"),
        (
            "glob(runs/*/last.ckpt,exclude=*.ckpt)",
            "exclude='*.ckpt' leaves out all of the 3 files for checkpoint.path",
            "glob(runs/*/last.ckpt)'   # all of them",
        ),
    ],
)
@pytest.mark.usefixtures("runs")
def test_an_invalid_argument_is_refused_with_the_line_that_has_it_right(call: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_glob("checkpoint.path", call)
    assert caught.value.message == message.format(f"checkpoint.path={call}")
    assert caught.value.hint == f"'checkpoint.path={hint}" + ("" if "#" in hint else "'")
    assert caught.value.exit_code == 2


def test_home_and_absolute_folders_are_found(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(runs))
    assert expand_glob("checkpoint.path", "glob(~/runs/1/*)") == [f"{runs}/runs/1/last.ckpt"]


def test_no_match_names_the_pattern_and_the_folder(runs: Path) -> None:
    expected = f"no file matches 'runs/*/nope.ckpt' for checkpoint.path (searched {runs}/runs)"
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        expand_glob("checkpoint.path", "glob(runs/*/nope.ckpt)")
    assert caught.value.message == expected
    assert caught.value.hint == "'checkpoint.path=glob(FOLDER/*.pt)'"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "glob(nowhere/*.pt)",
            "no file matches 'nowhere/*.pt' for parts.a.path (searched {}/nowhere, which does not exist)",
        ),
        ("glob(*.pt,runs/*.pt)", "no file matches '*.pt', 'runs/*.pt' for parts.a.path (searched {0} and {0}/runs)"),
        ("glob(plain.pt)", "no file matches 'plain.pt' for parts.a.path (searched {})"),
        ("glob()", "no file matches glob() without a pattern for parts.a.path"),
    ],
)
def test_other_ways_to_match_nothing(runs: Path, call: str, message: str) -> None:
    with pytest.raises(ConfigError, match="no file matches") as caught:
        expand_glob("parts.a.path", call)
    assert caught.value.message == message.format(runs)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_order_as_numbers(numbers: list[int]) -> None:
    names = [f"runs/epoch={number}-last.ckpt" for number in numbers]
    assert sorted(names, key=natural) == [f"runs/epoch={number}-last.ckpt" for number in sorted(numbers)]


@settings(deadline=None)
@given(st.data(), st.lists(st.text(max_size=8)))
def test_any_names_have_one_order(data: st.DataObject, names: list[str]) -> None:
    assert sorted(data.draw(st.permutations(names)), key=natural) == sorted(names, key=natural)


@pytest.mark.parametrize(
    ("typed", "rewritten"),
    [
        ("checkpoint.path=glob(runs/1*/*.pt)", 'checkpoint.path="runs/10/best.pt"'),
        ("parts.head.path=glob(runs/1*/*.pt)", '++parts.head.path="runs/10/best.pt"'),
        ("verify.golden=glob(runs/10/*.safetensors)", 'verify.golden="runs/10/best.golden.safetensors"'),
        ("verify.input.x.path=glob(runs/1*/*.pt)", '++verify.input.x.path="runs/10/best.pt"'),
        ("replay.path=glob(runs/2*)", 'replay.path="runs/2"'),
        ("model=glob(*)", "model=glob(*)"),
        ("seed=glob(*)", "seed=glob(*)"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_keys_that_name_files_to_read_take_a_glob(typed: str, rewritten: str) -> None:
    assert rewrite([typed]) == [rewritten]
