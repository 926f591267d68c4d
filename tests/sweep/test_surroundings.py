"""Sweeps where the surroundings are against them: the user's own files, a reader who stops, odd names."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from loader.cli.main import run_command
from tests.command import run
from tests.sweep.sweeping import RUN, TARGET, Swept, make_folder, printed, sweep, without_progress

BROKEN = "raise RuntimeError('a file of the user hid a module')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.mark.parametrize("python_path", ["", "."], ids=["plain", "PYTHONPATH=."])
def test_files_of_the_user_hide_no_module_of_the_loaders(folder: Path, python_path: str) -> None:
    # What Python itself looks for on PYTHONPATH is the user's choice.
    for name in ("loader",) if python_path else ("loader", "hydra", "rich", "signal", "typing"):
        (folder / f"{name}.py").write_text(BROKEN)
    done = sweep("checkpoint.path=epoch=2.pth", "seed=1,2", cwd=folder, PYTHONPATH=python_path)
    assert (done.code, done.err) == (0, "")
    assert done.statuses == ["ok", "ok"]


def test_a_reader_who_stops_ends_no_job(folder: Path) -> None:
    command = " ".join(f"'{word}'" for word in [*RUN, TARGET, "checkpoint.path=epoch=2.pth", "seed=1,2"])
    piped = f"{command} hydra.sweep.dir=sweep | head -1; exit ${{PIPESTATUS[0]}}"
    done = run("bash", "-c", piped, cwd=folder)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert re.fullmatch(r"1/2  ok  \d+\.\d s  seed=1\n", done.stdout)
    assert Swept(0, "", "", folder / "sweep").statuses == ["ok", "ok"]


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_names_of_files_may_be_any_bytes(folder: Path, locale: str) -> None:
    shutil.copy(folder / "epoch=2.pth", os.fsdecode(os.fsencode(folder) + b"/caf\xe9.pth"))
    shutil.copy(folder / "epoch=2.pth", folder / "caf\u00e9.pth")
    surroundings = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = sweep("checkpoint.path=glob(caf*.pth)", cwd=folder, **surroundings)
    assert (done.code, done.err) == (0, "")
    assert done.statuses == ["ok", "ok"]
    rows = list(csv.DictReader((done.folder / "summary.csv").read_text(encoding="utf-8").splitlines()))
    named = {row["checkpoint.path"] for row in rows}
    assert named == {"caf\\udce9.pth", "caf\u00e9.pth" if locale == "C.UTF-8" else "caf\\udcc3\\udca9.pth"}


def test_a_folder_that_was_removed_is_a_refusal(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd '{gone}' && rmdir '{gone}' && '{RUN[0]}' '{RUN[1]}'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "error  the working folder cannot be used: No such file or directory\n  try  cd FOLDER   # one that exists\n"
    )


OWN_SWEEPER = """
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Drawing(Sweeper):
    def __init__(self, **_settings):
        pass

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        for number, seed in enumerate([1, 2, 1, 1]):
            (job,) = self.launcher.launch([[*arguments, f"seed={seed}"]], initial_job_idx=number)
            print("drew", seed, "got", float(job.return_value))
"""


def test_a_sweeper_may_draw_a_job_twice_and_learns_how_it_went(folder: Path) -> None:
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "drawing.py").write_text(OWN_SWEEPER)
    own = "hydra.sweeper={_target_: hydra_plugins.drawing.Drawing}"
    done = sweep("checkpoint.path=epoch=2.pth", own, cwd=folder)
    assert done.err == ""
    assert done.statuses == ["ok"] * 4
    assert [line for line in done.out.splitlines() if line.startswith("drew")] == [
        f"drew {seed} got 0.0" for seed in (1, 2, 1, 1)
    ]


def test_a_job_that_finds_no_room_costs_no_other(folder: Path) -> None:
    sweep_dir = folder / "sweep"
    (sweep_dir / "0").mkdir(parents=True)
    (sweep_dir / "0" / ".hydra").touch()
    (sweep_dir / "1").touch()
    (sweep_dir / "2" / "report.json").mkdir(parents=True)
    (sweep_dir / "summary.csv").mkdir()
    done = sweep("checkpoint.path=epoch=2.pth", "seed=1,2,3,4", cwd=folder)
    assert done.statuses == ["ok", "failed", "failed", "ok"]
    assert done.code == 2
    assert "Traceback" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith("error")] == [
        "error  job 1: the job's folder sweep/1 cannot be used: File exists",
        f"error  job 2: {sweep_dir}/2/report.json, of an earlier run, cannot be removed: Is a directory",
        f"error  the summary could not be written to {sweep_dir}: Is a directory",
    ]
    assert done.out.splitlines()[-1] == "2 of 4 jobs ok"


def test_a_folder_that_is_drawn_twice_keeps_its_first_results(folder: Path) -> None:
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "drawing.py").write_text(OWN_SWEEPER)
    own = "hydra.sweeper={_target_: hydra_plugins.drawing.Drawing}"
    done = sweep("checkpoint.path=epoch=2.pth", own, "hydra.sweep.subdir=${seed}", cwd=folder)
    assert done.code == 2
    assert done.statuses == ["ok", "ok", "failed", "failed"]
    shown_text = f"job 2 has the folder of job 0, {folder}/sweep/1; expected one folder per job"
    assert done.summary["jobs"][2]["error"]["message"] == shown_text
    assert f"error  job 2: {shown_text}\n  try  'hydra.sweep.subdir=${{hydra.job.num}}'\n" in done.err
    assert '"status": "ok"' in (folder / "sweep" / "1" / "report.json").read_text()


@pytest.mark.parametrize("subdir", ["same", "${seed}", "a/../${hydra:job.name}"])
def test_two_jobs_get_no_folder_between_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], subdir: str
) -> None:
    monkeypatch.chdir(folder)
    typed = ["-m", "seed=1,2", "device=cpu,meta", "hydra.sweep.dir=sweep", f"hydra.sweep.subdir={subdir}"]
    assert run_command(typed) == 2
    assert capsys.readouterr().err == (
        f"error  hydra.sweep.subdir={subdir} is one folder for jobs 0 and 1; expected one folder per job\n"
        "  try  'hydra.sweep.subdir=${hydra.job.num}'\n"
    )
    assert not (folder / "sweep").exists()


@pytest.mark.parametrize(
    ("typed", "jobs", "hint"),
    [
        ("mode=convert convert.path=new.safetensors", "0 and 1", "'convert.path=new-${hydra:job.num}.safetensors'"),
        ("mode=plan,convert convert.path=a/b,./a/b", "2 and 3", "'convert.path=./a/b-${hydra:job.num}.safetensors'"),
        ("mode=convert convert.path=${seed}", "0 and 1", "'convert.path=${seed}-${hydra:job.num}.safetensors'"),
        ("mode=convert convert.path=./", "0 and 1", "'convert.path=./${hydra:job.num}.safetensors'"),
        ("mode=scaffold scaffold.path=conf/net.yaml", "0 and 1", "'scaffold.path=conf/net-${hydra:job.num}.yaml'"),
    ],
)
def test_two_jobs_get_no_file_between_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, jobs: str, hint: str
) -> None:
    monkeypatch.chdir(folder)
    swept = "" if "," in typed else "device=cpu,meta"
    assert run_command(["-m", "hydra.sweep.dir=sweep", *typed.split(), *swept.split()]) == 2
    key, _, path = hint.strip("'").partition("=")[0], "", typed.rpartition("=")[2].rpartition(",")[2]
    message = f"error  {key}={path} is one file for jobs {jobs}; expected one file per job\n  try  {hint}\n"
    assert capsys.readouterr().err == message
    assert not (folder / "sweep").exists()


def test_jobs_that_write_a_file_each_are_run_as_the_refusal_says(folder: Path) -> None:
    typed = ["checkpoint.path=epoch=2.pth", "mode=convert,plan", "seed=1,2"]
    done = sweep(*typed, "convert.path=new-${hydra:job.num}.safetensors", cwd=folder)
    assert done.statuses == ["ok", "ok", "ok", "ok"], done.err
    assert sorted(path.name for path in folder.glob("new*")) == ["new-0.safetensors", "new-1.safetensors"]


def test_jobs_may_have_names_of_their_own(folder: Path) -> None:
    done = sweep("checkpoint.path=epoch=2.pth", "seed=1,2", "hydra.sweep.subdir=${seed}/${device}", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert (folder / "sweep" / "2" / "auto" / "report.json").is_file()


CONFIGS = {
    "swept": """
defaults: [config, _self_]
hydra:
  mode: MULTIRUN
  sweep: {dir: sweep}
  sweeper:
    params:
      model.behave: well,slowly,well
      checkpoint.path: glob(epoch*.pth)
""",
}


def swept_by_config(folder: Path) -> list[str]:
    (folder / "conf").mkdir()
    for name, text in CONFIGS.items():
        (folder / "conf" / f"{name}.yaml").write_text(text)
    return [*RUN[:-1], "--config-dir", "conf", "--config-name", "swept", TARGET]


def test_a_config_sweeps_as_the_command_line_does(folder: Path) -> None:
    command = swept_by_config(folder)
    done = run(*command, "model.behave=well", "checkpoint.path=epoch=2.pth,glob(epoch=1*.pth)", cwd=folder)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    overrides = [job["overrides"] for job in Swept(0, "", "", folder / "sweep").summary["jobs"]]
    assert overrides == [
        ["model.behave=well", "checkpoint.path=epoch=2.pth", TARGET],
        ["model.behave=well", "checkpoint.path=epoch=10.pth", TARGET],
    ]


def test_a_sweep_of_a_config_that_is_ended_still_says_how_far_it_came(folder: Path) -> None:
    with subprocess.Popen(
        swept_by_config(folder), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = printed(folder / "sweep", "job slowly")
        process.terminate()
        out, err = process.communicate(timeout=60)
    ended = "error  jobs 2, 3, 4, 5 were not run to the end, as the sweep ended before\n"
    assert (process.returncode, without_progress(err)) == (143, f"{ended}  try  sweep.resume={folder}/sweep\n")
    assert "2 of 6 jobs ok" in out
    statuses = Swept(0, "", "", folder / "sweep").statuses
    assert statuses == ["ok", "ok", "crashed", "not run", "not run", "not run"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(line.split()[2]), 0)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--json"], "--json prints the report of one run, and a sweep has several"),
        (["checkpoint.path=glob(gone*.pth)"], "no file matches 'gone*.pth' for checkpoint.path"),
        (["hydra.mode=RUN", "checkpoint.path=glob(epoch*.pth)"], "; a single run accepts one"),
        (["hydra.sweeper.params={checkpoint.path:'glob(gone)'}"], "no file matches 'gone' for checkpoint.path"),
    ],
)
def test_a_config_that_is_a_sweep_is_refused_like_a_typed_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str], expected: str
) -> None:
    monkeypatch.chdir(folder)
    assert run_command([*swept_by_config(folder)[2:], *typed]) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert out == ""
    assert not (folder / "sweep").exists()


OWN_LAUNCHER = """
from hydra.plugins.launcher import Launcher

class Absent(Launcher):
    def __init__(self, **_settings):
        pass

    def setup(self, **_surroundings):
        pass

    def launch(self, job_overrides, initial_job_idx):
        raise RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')
"""


def test_a_launcher_without_its_server_is_a_refusal(folder: Path) -> None:
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "absent.py").write_text(OWN_LAUNCHER)
    own = "hydra.launcher={_target_: hydra_plugins.absent.Absent}"
    done = sweep("checkpoint.path=epoch=2.pth", "seed=1,2", own, cwd=folder)
    assert done.code == 2
    assert done.err == (
        'error  hydra_plugins.absent.Absent ended the sweep: RuntimeError: Could not detect "srun", are you indeed '
        "on a slurm cluster?\n  try  hydra/launcher=basic   # one job after another, on this machine\n"
    )
    assert done.statuses == ["not run", "not run"]


def test_a_sweep_whose_folder_cannot_be_written_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "file").touch()
    (folder / "sweep" / "multirun.yaml").mkdir(parents=True)
    for typed, expected in (("file/sweep", "Not a directory"), ("sweep", "Is a directory")):
        assert run_command(["-m", "seed=1,2", f"hydra.sweep.dir={typed}"]) == 2
        assert capsys.readouterr().err == (
            f"error  the sweep's folder {folder}/{typed} cannot be written: {expected}\n"
            "  try  hydra.sweep.dir=FOLDER   # a writable folder\n"
        )
