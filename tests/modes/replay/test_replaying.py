"""A run that is repeated: what is compared, what counts as a difference, and what is only listed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loader
from loader import job
from loader.config.compose import compose
from loader.errors import ConfigError, VerificationError
from tests.command import REPOSITORY, run, run_loader
from tests.jobs import save
from tests.models import Two, filled
from tests.modes.replay.runs import TWO, Done, made, replayed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


@pytest.fixture
def recorded(path: Path, tmp_path: Path) -> Done:
    done = made(tmp_path / "first", *TWO, f"checkpoint.path={path}")
    assert done.code == 0
    return done


def write_other_weights(path: Path) -> None:
    """Replaces a file by one of the same size."""
    size = path.stat().st_size
    state = filled(Two()).state_dict()
    state["first.weight"][0, 0] += 1
    assert save(state, path).stat().st_size == size


def test_a_run_is_reproduced(recorded: Done, capsys: pytest.CaptureFixture[str]) -> None:
    done = replayed(recorded.folder)

    assert done.code == 0
    assert done.report["mode"] == "replay"
    replay = done.report["replay"]
    assert (replay["path"], replay["status"]) == (str(recorded.folder / "report.json"), "reproduced")
    assert done.compared == {"file": True, "keys": True, "fingerprint": True, "outputs": True}
    assert (replay["differences"], replay["environment"], replay["overrides"]) == ([], [], [])
    assert done.report["config"] == {**recorded.report["config"], "replay": {"path": None}}
    out = capsys.readouterr().out
    assert f"replay     {recorded.folder}/report.json: reproduced\n" in out
    assert "ok   keys: 4 keys loaded, all with the recorded outcome\n" in out


def test_a_report_and_a_replay_can_be_named_too(recorded: Done) -> None:
    first = replayed(recorded.folder / "report.json", to="first_again")
    second = replayed(first.folder, to="once_more")

    assert (first.code, second.code) == (0, 0)
    assert second.report["replay"]["path"] == str(first.folder / "report.json")


def test_from_python_a_replay_returns_the_model(recorded: Done, tmp_path: Path) -> None:
    again = loader.load(["mode=replay", f"replay.path={recorded.folder}", "dtype=float64"])
    given = loader.load({"mode": "replay", "replay": {"path": str(recorded.folder)}, "dtype": torch.float64})

    assert next(again.model.parameters()).dtype == torch.float64
    assert next(given.model.parameters()).dtype == torch.float64
    assert again.report.replay is not None
    assert given.report.replay is not None
    assert (again.report.replay.status, again.report.replay.overrides) == ("reproduced", ["dtype=float64"])
    assert given.report.replay.overrides == ["dtype=float64"]


def test_from_python_a_difference_is_raised(recorded: Done, path: Path) -> None:
    write_other_weights(path)

    with pytest.raises(VerificationError, match="is not reproduced: fingerprint: the weights are other ones"):
        loader.load(["mode=replay", f"replay.path={recorded.folder}"])


def test_other_weights_in_a_file_of_the_same_size_are_found_by_the_fingerprint(recorded: Done, path: Path) -> None:
    write_other_weights(path)

    done = replayed(recorded.folder)

    assert done.code == 5
    assert done.compared["file"] is True
    assert "written since, which decides nothing" in done.detail("file")
    assert done.compared["fingerprint"] is False
    assert "is not reproduced: fingerprint: the weights are other ones" in done.error
    assert done.report["replay"]["status"] == "different"
    named = [difference["name"] for difference in done.report["replay"]["differences"]]
    assert named == ["fingerprint", "outputs"]
    assert done.report["error"]["type"] == "VerificationError"


def test_a_file_that_was_only_touched_reproduces(recorded: Done, path: Path) -> None:
    os.utime(path, (1, 1))

    done = replayed(recorded.folder)

    assert done.code == 0
    assert done.detail("file").endswith("as recorded; written since, which decides nothing")


def test_a_file_of_another_size_is_the_first_difference(recorded: Done, path: Path) -> None:
    save({"state_dict": torch.load(path), "epoch": 3}, path)

    done = replayed(recorded.folder, "checkpoint.key=state_dict")

    assert done.code == 5
    assert "is not reproduced: file: two.pt: " in done.error
    assert ", recorded 2," in done.error
    assert done.compared["fingerprint"] is True


def test_a_recorded_digest_decides_about_the_file(path: Path, tmp_path: Path) -> None:
    recorded = made(tmp_path / "first", *TWO, f"checkpoint.path={path}", "checkpoint.check=full")
    assert replayed(recorded.folder).code == 0

    write_other_weights(path)
    done = replayed(recorded.folder, to="changed")

    assert done.code == 5
    assert "is not reproduced: file: two.pt: sha256 " in done.error


def test_a_pinned_file_that_changed_is_a_difference(path: Path, tmp_path: Path) -> None:
    full = made(tmp_path / "full", *TWO, f"checkpoint.path={path}", "checkpoint.check=full")
    digest = full.report["parts"][""]["sha256"]
    recorded = made(tmp_path / "first", *TWO, f"checkpoint.path={path}", f"checkpoint.sha256={digest}")
    write_other_weights(path)

    done = replayed(recorded.folder)

    assert done.code == 5
    assert "is not reproduced: run: refused, where the recorded one ended well: " in done.error
    assert "is not the expected file: its sha256 is" in done.error


def test_a_model_that_no_longer_fits_is_a_difference(recorded: Done) -> None:
    done = replayed(recorded.folder, "model._target_=tests.models.Pair")

    assert done.code == 5
    assert "is not reproduced: run: refused, where the recorded one ended well: " in done.error
    assert "does not fit the model" in done.error
    assert done.compared == {"file": True, "run": False}


def test_a_file_that_is_gone_keeps_its_own_refusal(recorded: Done, path: Path) -> None:
    path.unlink()

    done = replayed(recorded.folder)

    assert done.code == 3
    assert done.error.startswith(f"no such file: {path}")
    assert done.report["replay"]["status"] == "not compared"


def test_overrides_are_laid_over_and_named(recorded: Done, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = replayed(recorded.folder, "dtype=bfloat16", "verify.rtol=0.5", "verify.atol=0.5")

    assert done.code == 0
    assert done.report["config"]["dtype"] == "bfloat16"
    assert done.report["model"]["dtypes"] == ["bfloat16"]
    assert done.report["replay"]["overrides"] == ["dtype=bfloat16", "verify.rtol=0.5", "verify.atol=0.5"]
    assert "laid over it: dtype=bfloat16, verify.rtol=0.5, verify.atol=0.5\n" in capsys.readouterr().out


def test_an_override_can_restore_a_default(path: Path, tmp_path: Path) -> None:
    recorded = made(tmp_path / "first", *TWO, f"checkpoint.path={path}", "dtype=float64")

    assert replayed(recorded.folder, "dtype=null").report["model"]["dtypes"] == ["float32"]


def test_another_file_by_override_is_decided_by_the_fingerprint(recorded: Done, path: Path, tmp_path: Path) -> None:
    save_file(filled(Two()).state_dict(), tmp_path / "same.safetensors")
    same = replayed(recorded.folder, f"checkpoint.path={tmp_path}/same.safetensors")
    assert same.code == 0
    assert same.compared["file"] is None
    assert "another file was asked for, and the fingerprint decides" in same.detail("file")

    save_file({key: value + 1 for key, value in Two().state_dict().items()}, tmp_path / "other.safetensors")
    other = replayed(recorded.folder, f"checkpoint.path={tmp_path}/other.safetensors", to="other")
    assert other.code == 5
    assert "is not reproduced: fingerprint" in other.error


def test_keys_with_another_outcome_are_named(path: Path, tmp_path: Path) -> None:
    recorded = made(tmp_path / "first", *TWO, f"checkpoint.path={path}", "allow.missing=[second.bias]")
    state = torch.load(path)
    del state["second.bias"]
    save(state, path)

    done = replayed(recorded.folder)

    assert done.code == 5
    assert done.compared["keys"] is False
    assert done.detail("keys") == "3 loaded, recorded 4; missing now: second.bias"
    assert done.report["error"]["fixes"][0]["line"] == "checkpoint.path=FILE"


def test_a_metric_within_its_bound_is_reproduced(path: Path, tmp_path: Path) -> None:
    recorded = made(tmp_path / "first", "evaluate=digits", "evaluate.batches=1", "device=cpu")
    assert recorded.code == 0

    same = replayed(recorded.folder)
    assert same.code == 0
    assert same.compared["metric accuracy"] is True

    coarse = replayed(recorded.folder, "dtype=bfloat16", to="coarse")
    assert coarse.code == 5
    assert "is not reproduced: metric cross_entropy: " in coarse.error
    line = coarse.report["error"]["fixes"][0]["line"]
    accepted = replayed(recorded.folder, "dtype=bfloat16", *line.split(), to="accepted")
    assert accepted.code == 0, accepted.error


def test_all_metrics_that_differ_are_accepted_at_once(path: Path, tmp_path: Path) -> None:
    recorded = made(tmp_path / "first", "evaluate=digits", "evaluate.batches=1", "device=cpu")
    names = ("accuracy", "cross_entropy")
    recorded.edit(lambda report: [report["evaluation"]["metrics"][name].update(value=0.5) for name in names])

    done = replayed(recorded.folder)

    assert done.code == 5
    assert "is not reproduced: metric accuracy: " in done.error
    assert done.error.endswith(" (2 differences in all)")
    (fix,) = done.report["error"]["fixes"]
    assert fix["note"] == "accepts these differences"
    again = replayed(recorded.folder, *fix["line"].split(), to="again_accepted")
    assert again.code == 0, again.error


@pytest.mark.damaged_reports
@pytest.mark.parametrize(("value", "shown"), [("x", "'x'"), (True, "True"), ([1], "[1]")])
def test_a_recorded_metric_that_is_not_a_number_is_damage(
    recorded: Done, tmp_path: Path, value: object, shown: str
) -> None:
    recorded.edit(lambda report: report.update(evaluation={"samples": 1, "metrics": {"acc": {"value": value}}}))

    done = replayed(recorded.folder)

    assert done.code == 2
    assert done.error == (
        f"{recorded.folder}/report.json is damaged: 'evaluation.metrics.acc.value' is {shown}, expected a number"
    )


@pytest.mark.parametrize("mode", ["load", "inspect"])
def test_the_path_of_a_run_wants_the_mode_that_repeats_it(recorded: Done, tmp_path: Path, mode: str) -> None:
    done = made(tmp_path / "other", f"mode={mode}", f"replay.path={recorded.folder}")

    assert done.code == 2
    expected = f"and mode={mode} repeats no run; expected mode=replay"
    assert done.error == f"'replay.path' is {recorded.folder}, {expected}"
    line = done.report["error"]["fixes"][0]["line"]
    assert line == f"mode=replay replay.path={recorded.folder}" or line.startswith("mode=replay 'replay.path=")
    assert made(tmp_path / "pasted", f"mode={mode}", *shlex.split(line)).code == 0
    with pytest.raises(ConfigError, match="repeats no run; expected mode=replay"):
        loader.load({"replay": {"path": str(recorded.folder)}})


def test_differences_of_the_environment_decide_nothing(recorded: Done, capsys: pytest.CaptureFixture[str]) -> None:
    recorded.edit(lambda report: report["environment"].update(torch="1.0", new={"kind": "x"}))

    done = replayed(recorded.folder)

    assert done.code == 0
    found = {difference["name"]: difference["recorded"] for difference in done.report["replay"]["environment"]}
    assert found == {"torch": "1.0", "new.kind": "x"}
    assert f"other      torch: {torch.__version__}, recorded 1.0\n" in capsys.readouterr().out


def test_relative_paths_start_where_the_run_was_started(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = made(tmp_path / "first", *TWO, "checkpoint.path=two.pt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    done = replayed(recorded.folder)
    assert done.code == 0
    assert done.report["replay"]["folder"] == str(tmp_path)

    # A folder that is gone, as on another machine: the paths start at the current one.
    recorded.edit(lambda report: report["environment"].update(cwd=str(tmp_path / "gone")))
    assert replayed(recorded.folder, to="without").code == 3
    shutil.copy(path, elsewhere / "two.pt")
    moved = replayed(recorded.folder, to="moved")
    assert (moved.code, moved.report["replay"]["folder"]) == (0, None)


def rewrite_kept(recorded: Done, name: str, change: float) -> None:
    path = recorded.folder / "outputs.safetensors"
    tensors = load_file(path)
    tensors[name].view(-1)[1] += change
    save_file(tensors, path)


def test_kept_outputs_are_compared_with_tolerance(recorded: Done) -> None:
    assert replayed(recorded.folder, to="same").detail("outputs").startswith("largest difference 0 (rtol 0.0001, atol")

    rewrite_kept(recorded, "output.0", 1e-6)
    close = replayed(recorded.folder, to="close")
    assert (close.code, close.compared["outputs"]) == (0, True)

    rewrite_kept(recorded, "output.0", 0.25)
    far = replayed(recorded.folder, to="far")
    assert far.code == 5
    assert "is not reproduced: outputs: output.0 differs by up to 0.25; largest difference 0.25" in far.error
    (fix,) = far.report["error"]["fixes"]
    assert fix["note"] == "accepts this difference"
    assert replayed(recorded.folder, fix["line"], to="wide").code == 0


def test_other_inputs_are_a_difference_unless_they_were_asked_for(recorded: Done) -> None:
    asked = replayed(recorded.folder, "seed=7", to="asked")
    assert (asked.code, asked.compared["outputs"]) == (0, None)
    assert asked.detail("outputs") == "not compared, the inputs are other ones: input.0"

    rewrite_kept(recorded, "input.0", 0.25)
    drawn = replayed(recorded.folder, to="drawn")
    assert drawn.code == 5
    assert "is not reproduced: outputs: not compared, the inputs are other ones: input.0" in drawn.error


def test_from_python_kept_outputs_are_compared_too(recorded: Done) -> None:
    again = loader.load(["mode=replay", f"replay.path={recorded.folder}"])
    assert again.report.replay is not None
    assert again.report.replay.compared[-1].detail.startswith("largest difference 0 (")
    assert again.report.verification.kept is None

    rewrite_kept(recorded, "output.0", 0.25)
    with pytest.raises(VerificationError, match=r"outputs: output\.0 differs by up to 0\.25"):
        loader.load({"mode": "replay", "replay": {"path": str(recorded.folder)}})


def test_without_kept_outputs_their_statistics_are_compared(path: Path, tmp_path: Path) -> None:
    recorded = made(tmp_path / "first", *TWO, f"checkpoint.path={path}", "verify.keep=0")
    same = replayed(recorded.folder)
    assert (same.code, same.detail("outputs")[:17]) == (0, "statistics alone,")

    recorded.edit(lambda report: report["verification"]["outputs"][0].update(mean=9.0, shape=[3, 5]))
    other = replayed(recorded.folder, to="other")
    assert other.code == 5
    assert "outputs: the shape of 0 is [3, 4], recorded [3, 5]; the mean of 0 is " in other.error


def test_a_run_that_did_not_end_well_has_nothing_to_compare(path: Path, tmp_path: Path) -> None:
    failed = made(tmp_path / "first", "model._target_=tests.models.Pair", f"checkpoint.path={path}")
    assert failed.code == 4

    done = replayed(failed.folder)

    assert done.code == 2
    assert "is of a run that did not end well (FitError: " in done.error
    assert done.error.endswith("there is nothing to compare")


@pytest.mark.parametrize("mode", ["plan", "inspect"])
def test_only_loads_are_repeated(recorded: Done, path: Path, tmp_path: Path, mode: str) -> None:
    other = made(tmp_path / "other", *TWO, f"checkpoint.path={path}", f"mode={mode}")

    done = replayed(other.folder)

    assert done.code == 2
    assert f"is of a run with mode={mode}; only runs with mode=load are repeated" in done.error


def test_a_path_that_is_not_a_runs_is_refused(recorded: Done, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "summary.json").write_text(json.dumps({"schema": 2}))

    assert replayed(tmp_path, to="a").error == f"{tmp_path} has no report.json; expected the folder of a run"
    assert "which does not exist; expected the folder of a run" in replayed(tmp_path / "absent", to="b").error
    sweep = replayed(tmp_path / "sweep", to="c")
    assert "is the folder of a sweep; a replay repeats one job" in sweep.error
    assert sweep.report["error"]["fixes"][0]["line"] == f"replay.path={tmp_path}/sweep/0"
    (tmp_path / "sweep" / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"mode=replay needs replay\.path"):
        loader.load(["mode=replay"])


def test_the_recorded_run_is_never_replaced(recorded: Done, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in recorded.folder.iterdir()}
    overrides = ["mode=replay", f"replay.path={recorded.folder}", "seed=1"]

    assert job.run(compose(overrides), overrides, recorded.folder) == 2

    assert "is the folder of the recorded run, which must stay" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in recorded.folder.iterdir()} == before


def test_a_replay_into_the_recorded_folder_is_refused_before_hydra_writes(path: Path, tmp_path: Path) -> None:
    first = run_loader(f"checkpoint.path={path}", *TWO, cwd=tmp_path)
    assert first.code == 0, first.err
    folder = tmp_path / "run"
    before = contents(folder)
    assert {".hydra/overrides.yaml", "report.json"} <= before.keys()

    again = run_loader("mode=replay", "replay.path=run", cwd=tmp_path)
    fault = (
        f"error  {folder} is the folder of the recorded run, which must stay; a folder for the new run was expected\n"
    )
    assert (again.code, again.err) == (2, f"{fault}  try  hydra.run.dir=FOLDER\n")
    assert contents(folder) == before

    job = tmp_path / "sweep" / "0"
    shutil.copytree(folder, job)
    command = [sys.executable, str(REPOSITORY / "run.py"), "-m", "mode=replay", "replay.path=glob(sweep/*)", "seed=1,2"]
    swept = run(*command, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert (swept.returncode, swept.stdout) == (2, "")
    assert swept.stderr == f"{fault.replace(str(folder), str(job))}  try  hydra.sweep.dir=FOLDER\n"
    assert contents(job) == before
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["0"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_chooses_a_config_file_cannot_be_laid_over(recorded: Done) -> None:
    done = replayed(recorded.folder, "experiment=ddp")

    assert done.code == 2
    assert done.error == "'experiment=ddp' with mode=replay: an experiment is a config of its own"


def test_the_command_line_repeats_a_run_from_another_folder(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = run_loader("checkpoint.path=two.pt", *TWO, cwd=tmp_path)
    assert first.code == 0, first.err

    again = run_loader("mode=replay", f"replay.path={tmp_path}/run", "seed=1", cwd=elsewhere)
    assert (again.code, again.err) == (0, "")
    assert "-    outputs: not compared, the inputs are other ones: input.0\n" in again.out
    assert f"relative paths start at {tmp_path}\n" in again.out

    same = run_loader("mode=replay", f"replay.path={tmp_path}/run", cwd=elsewhere)
    assert (same.code, same.err) == (0, "")


@pytest.mark.slow
def test_runs_are_repeated_as_a_sweep(path: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = run_loader(f"checkpoint.path={path}", *TWO, cwd=tmp_path)
        assert done.code == 0, done.err
        (tmp_path / "run").rename(tmp_path / f"run_{name}")
    report = json.loads((tmp_path / "run_b" / "report.json").read_text())
    report["verification"]["fingerprint"] = "0" * 32
    (tmp_path / "run_b" / "report.json").write_text(json.dumps(report))

    command = [sys.executable, str(REPOSITORY / "run.py"), "-m", "mode=replay", "replay.path=glob(run_*)"]
    swept = run(*command, "hydra.sweep.dir=sweep", cwd=tmp_path)

    assert swept.returncode == 5, swept.stderr
    jobs = json.loads((tmp_path / "sweep" / "summary.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["ok", "failed"]
