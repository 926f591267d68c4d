"""The values of a sweep, as typed and in a config, through whole sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loader.cli.main import run_command
from tests.command import run
from tests.sweep.sweeping import RUN, TARGET, Swept, make_folder, sweep

CONFIG = """
defaults: [config, _self_]
mine: {key: 1}
hydra:
  mode: MULTIRUN
  sweep: {dir: sweep}
  sweeper:
    params:
      checkpoint.path: glob(epoch=*.pth, exclude='*{}*', last=1)
      pairs: zip(model.behave=[well,raises],seed=[3,4])
      device: cpu,cuda:*
"""

NO_CUDA = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def overrides(done: Swept) -> list[str]:
    return [" ".join(one for one in job["overrides"] if one != TARGET) for job in done.summary["jobs"]]


EXPECTED = [
    f"checkpoint.path=epoch=10.pth model.behave={behave} seed={seed} device={device}"
    for behave, seed in (("well", 3), ("raises", 4))
    for device in ("cpu", "cuda:*")
]
STATUSES = [("ok", 0), ("failed", 6), ("failed", 2), ("failed", 6)]


def test_every_kind_of_value_at_once(folder: Path) -> None:
    done = sweep(
        "checkpoint.path=glob(epoch=*.pth, exclude=*=2*)",
        "pairs=zip(model.behave=[well,raises],seed=[3,4])",
        "device=cpu,cuda:*",
        cwd=folder,
        **NO_CUDA,
    )
    assert done.code == 6, done.err
    assert overrides(done) == EXPECTED
    assert [(job["status"], job["exit_code"]) for job in done.summary["jobs"]] == STATUSES
    absent = done.summary["jobs"][1]["error"]
    assert absent["message"] == "device 'cuda:*' is not on this machine; available: cpu, meta"
    assert absent["hint"].endswith("-m 'sweep.skip=[cuda*]'   # leaves the jobs without their device out of a sweep")


def test_a_config_means_what_the_command_line_means(folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "conf" / "swept.yaml").write_text(CONFIG.replace("{}", "=2"))
    command = [*RUN[:-1], "--config-dir=conf", "--config-name=swept", TARGET]
    done = run(*command, cwd=folder, **NO_CUDA)
    swept = Swept(done.returncode, done.stdout, done.stderr, folder / "sweep")
    assert (swept.code, overrides(swept)) == (6, EXPECTED)
    assert [(job["status"], job["exit_code"]) for job in swept.summary["jobs"]] == STATUSES
    # A zip that is typed replaces the one of the config; its name is no key of the user's own either.
    again = run(*command, "pairs=zip(seed=[5])", "device=cpu", "hydra.sweep.dir=again", cwd=folder)
    assert overrides(Swept(0, "", "", folder / "again")) == ["checkpoint.path=epoch=10.pth seed=5 device=cpu"], again
    for typed, message in (
        ("mine=zip(dtype=[null,float16])", "'mine' is a key of the config; expected a free name for the zip(...)"),
        ("seed=5", "'seed' is in pairs=zip(...), and set by 'seed=5' as well"),
    ):
        refused = run(*command, typed, "hydra.sweep.dir=none", cwd=folder)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert message in refused.stderr
        assert not (folder / "none").exists()


def test_models_and_names_are_moved_together(folder: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "odd ${x}, ü.pth")
    models, files = "{_target_: own_models.Net},linear", "'odd \\${x}, ü.pth',epoch=2.pth"
    zipped = f"pairs=zip(model=[{models}],checkpoint.path=[{files}])"
    done = run(*RUN, zipped, "hydra.sweep.dir=sweep", cwd=folder)
    swept = Swept(done.returncode, done.stdout, done.stderr, folder / "sweep")
    first, second = swept.summary["jobs"]
    assert (first["status"], second["status"]) == ("ok", "failed"), done.stderr
    assert first["overrides"] == [
        "model={_target_: own_models.Net}",
        "checkpoint.path='odd \\${x}, ü.pth'",
    ]
    assert second["overrides"] == ["model=linear", "checkpoint.path=epoch=2.pth"]


@pytest.mark.slow
def test_another_launcher_spreads_a_zip_and_fails_one_job_alone(folder: Path) -> None:
    (folder / "conf" / "experiment").mkdir(parents=True)
    for name, text in (("broken", "defaults: [override /model: no_such_model]"), ("good", "seed: 5")):
        (folder / "conf" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "--config-dir=conf"]
    done = sweep(*joblib, "pairs=zip(experiment=[broken,good],checkpoint.path=glob(*.pth))", cwd=folder)
    assert done.code == 2
    assert [(job["status"], job["overrides"][1:]) for job in done.summary["jobs"]] == [
        ("failed", ["experiment=broken", "checkpoint.path=epoch=2.pth"]),
        ("ok", ["experiment=good", "checkpoint.path=epoch=10.pth"]),
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (
            ["seed=1,2", "sweep.compare.reference=2"],
            (
                "error  'sweep.compare.reference' is 2, expected the number of one of this sweep's jobs, from 0 to 1\n"
                "  try  sweep.compare.reference=1\n"
            ),
        ),
        (
            ["seed=1", "sweep.compare.reference=99", "sweep.dry_run=true"],
            (
                "error  'sweep.compare.reference' is 99, expected 0, this sweep's only job\n"
                "  try  sweep.compare.reference=0\n"
            ),
        ),
        (
            ["seed=1,2", "sweep.compare.reference=-1"],
            (
                "error  'sweep.compare.reference' is '-1', expected the number of a job, from 0\n"
                "  try  sweep.compare.reference=0\n"
            ),
        ),
    ],
)
def test_a_reference_that_is_no_job_of_the_sweep_is_refused_before_the_first_job(
    typed: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["-m", "device=meta", *typed, "hydra.sweep.dir=new"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", expected)
    assert not (tmp_path / "new").exists()
