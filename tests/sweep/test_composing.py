"""Jobs are composed when it is their turn: one that cannot be is a failed row; what is mistyped is refused before."""

from __future__ import annotations

from pathlib import Path

import pytest

from loader.cli.main import run_command
from tests.sweep.sweeping import make_folder, sweep

BROKEN = {
    "broken": "# @package _global_\ndefaults: [override /model: no_such_model]\n",
    "not_yaml": "# @package _global_\nseed: [1\n",
    "good": "# @package _global_\nseed: 5\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_folder(tmp_path)
    (made / "conf" / "experiment").mkdir(parents=True)
    for name, text in BROKEN.items():
        (made / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    return made


def test_a_job_that_cannot_be_composed_is_one_failed_row(folder: Path) -> None:
    done = sweep(
        "checkpoint.path=epoch=2.pth",
        "experiment=broken,not_yaml,good",
        "hydra.sweep.subdir=job-${seed}",
        "--config-dir=conf",
        cwd=folder,
    )
    assert done.code == 2, done.err
    assert done.statuses == ["failed", "failed", "ok"]
    first, second, last = done.summary["jobs"]
    assert first["error"]["message"] == (
        "the config group 'model' has no option 'no_such_model'; "
        "there are: custom, embedded, linear, sequential, simple_net, two_linear"
    )
    assert "not valid YAML" in second["error"]["message"]
    assert first["overrides"][-1] == "experiment=broken"
    for row, place in ((first, "refused-0"), (second, "refused-1"), (last, "job-5")):
        assert (done.folder / place / "report.json").is_file()
        assert Path(row["output_dir"]).name == place


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model=linear,lineer"], "the config group 'model' has no option 'lineer' (did you mean 'linear'?)"),
        (["experiment=good,god", "--config-dir=conf"], "the config group 'experiment' has no option 'god'"),
        (["rules=[ddp],[dpd]"], "the config group 'rules' has no option 'dpd'"),
        (["sed=1,2"], "unknown config key 'sed' (did you mean 'seed'?)"),
    ],
)
def test_what_is_mistyped_is_refused_before_the_first_job(folder: Path, typed: list[str], message: str) -> None:
    done = sweep(*typed, cwd=folder)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not done.folder.exists()


def test_a_shared_folder_is_refused_whatever_the_time_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run_command(["-m", "seed=1,2", "hydra.sweep.subdir=same"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "error  hydra.sweep.subdir=same is one folder for jobs 0 and 1; expected one folder per job\n"
    )
    assert not (folder / "multirun").exists()
