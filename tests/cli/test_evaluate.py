"""``evaluate`` on the command line."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import loader
from loader.config.compose import compose
from loader.config.parse import parse_job
from loader.schema import EvaluateConfig
from tests.command import REPOSITORY, Finished, run, run_loader

WEIGHTS = Path(str(resources.files("loader.examples"))) / "weights" / "simple_net.safetensors"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_loader("evaluate=digits", cwd=tmp_path_factory.mktemp("digits"))


def test_the_accuracy_is_the_one_that_training_measured(digits: Finished) -> None:
    with safe_open(WEIGHTS, "pt") as file:
        recorded = file.metadata()["test_accuracy"]
    assert digits.code == 0, digits.err
    assert f"accuracy {recorded} ± " in digits.out
    found = digits.report["evaluation"]
    assert f"{found['metrics']['accuracy']['value']:.4f}" == recorded
    assert found["metrics"]["accuracy"]["value"] == 353 / 360


def test_the_report_has_what_was_measured(digits: Finished) -> None:
    found = digits.report["evaluation"]
    assert found["samples"] == 360
    assert found["batches"] == 6
    assert found["batch_size"] == 64
    assert found["objective"] is None
    assert found["higher_is_better"] == {"accuracy": True, "cross_entropy": False}
    assert {name: sorted(value) for name, value in found["metrics"].items()} == {
        "accuracy": ["n", "stderr", "value"],
        "cross_entropy": ["n", "stderr", "value"],
    }
    assert found["samples_per_second"] > 0
    assert 0 < found["seconds"] <= digits.report["timings"]["evaluate"]


OWN = """
import torch

def data(sizes=(3, 2), fails=False):
    for n in sizes:
        yield torch.rand(n, 784), torch.randint(10, (n,))
    if fails:
        raise OSError("the disk is gone")

def metric(prediction, target, gives=0.5):
    return float(gives)
"""
METRIC = "evaluate.metrics.own._target_=own_code.metric"
DATA = "evaluate.data._target_=own_code.data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own_code.py").write_text(OWN)
    return tmp_path


def test_keys_may_be_typed_while_it_is_null(folder: Path) -> None:
    done = run_loader("evaluate.batch_size=8", DATA, "evaluate.data.sizes=[4,1]", METRIC, cwd=folder)
    assert done.code == 0, done.err
    assert done.report["evaluation"]["metrics"] == {"own": {"value": 0.5, "stderr": None, "n": 5}}
    assert "evaluated  5 samples in 2 batches, " in done.out
    assert "           own 0.5\n" in done.out


@pytest.mark.parametrize(
    ("overrides", "code", "message", "line"),
    [
        ([DATA, "evaluate.data.fails=true"], 5, "evaluate.data (own_code.data) raised OSError: the disk is gone (",
         "evaluate.batches=2"),
        ([DATA, METRIC, "evaluate.metrics.own.gives=nan"], 5, "evaluate.metrics.own (own_code.metric) is nan in batch",
         "'~evaluate.metrics.own'"),
        (["evaluate=digits", "evaluate.expect.accuracy.min=0.99"], 5,
         "evaluate.expect: accuracy is 0.980556, expected at least 0.99 (over 360 samples)",
         "evaluate.expect.accuracy.min=0.9805"),
        (["evaluate=digits", "evaluate.objective=acc"], 2, "'evaluate.objective' names 'acc', and there is no such",
         "evaluate.objective=accuracy"),
        (["evaluate=digits", "evaluate.metrics.loaded._target_=own_code.metric"], 2, "a metric 'loaded', which is the",
         "'~evaluate.metrics.loaded' 'evaluate.metrics.my_loaded={_target_: own_code.metric}'"),
        (["evaluate=digits", "device=meta"], 2, "evaluate measures values, and device=meta has none", "device=cpu"),
        (["evaluate.batch_size=8"], 2, "evaluate.data is not set: there is nothing to measure on",
         "evaluate.data._target_=my_pkg.Data"),
        (["evaluate=digit"], 2, "the config group 'evaluate' has no option 'digit' (did you mean 'digits'?)",
         "evaluate=digits"),
        (["evaluate=digits", "evaluate.batchsize=8"], 2, "unknown config key 'evaluate.batchsize'",
         "evaluate.batch_size=8"),
        (["evaluate=digits", "evaluate.metrics=[a]"], 2, "'evaluate.metrics' is \"['a']\", expected a mapping",
         "'evaluate.metrics={}'"),
        (["evaluate=digits", "evaluate.data._target_=os.system"], 2, "evaluate.data._target_: os.system is refused",
         "evaluate.data._target_=my_pkg.Data"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_block_with_a_line_to_type(
    folder: Path, overrides: list[str], code: int, message: str, line: str
) -> None:
    done = run_loader(*overrides, cwd=folder)
    assert done.code == code
    assert done.err.startswith("error  ")
    assert message in done.err
    assert f"\n  try  {line}" in done.err
    assert "Traceback" not in done.err
    assert done.report.get("exit_code", 2) == code  # nothing is reported of what could not be composed


def test_the_line_of_a_missed_bound_works_when_it_is_pasted(folder: Path) -> None:
    done = run_loader("evaluate=digits", "evaluate.expect.accuracy.min=0.99", cwd=folder)
    assert done.report["evaluation"]["metrics"]["accuracy"]["value"] == 353 / 360
    (fix,) = done.report["error"]["fixes"]
    assert run_loader("evaluate=digits", "evaluate.expect.accuracy.min=0.99", fix["line"], cwd=folder).code == 0


def test_the_line_that_measures_nothing_works_behind_keys_that_were_typed(folder: Path) -> None:
    own = [DATA, "evaluate.data.fails=true", METRIC]
    done = run_loader(*own, "evaluate.data.sizes=[]", cwd=folder)
    assert done.code == 5
    assert done.report["error"]["fixes"][-1]["line"] == "evaluate=null"
    done = run_loader(*own, "evaluate=null", cwd=folder)
    assert done.code == 0, done.err
    assert done.report["evaluation"] is None


@pytest.mark.parametrize("mode", ["plan", "inspect"])
def test_other_modes_leave_it_out(folder: Path, mode: str) -> None:
    done = run_loader("evaluate=digits", "evaluate.data._target_=os.system", f"mode={mode}", cwd=folder)
    assert done.code == 0, done.err
    assert done.report["evaluation"] is None


def test_nothing_is_written_by_a_conversion_whose_bound_is_missed(folder: Path) -> None:
    convert = ["mode=convert", "convert.path=new.safetensors", "evaluate=digits"]
    missed = run_loader(*convert, "evaluate.expect.accuracy.min=0.99", cwd=folder)
    assert missed.code == 5
    assert not list(folder.glob("new*"))
    kept = run_loader(*convert, "evaluate.expect.accuracy.min=0.9", cwd=folder)
    assert kept.code == 0, kept.err
    assert "accuracy 0.9806 ± 0.0073" in kept.out
    assert list(folder.glob("new.safetensors"))
    embedded = run_loader("model=embedded", "checkpoint.path=new.safetensors", "evaluate=digits", cwd=folder)
    assert embedded.report["evaluation"]["metrics"]["accuracy"]["value"] == 353 / 360


def test_no_golden_record_is_written_either(folder: Path) -> None:
    run_loader("mode=convert", "convert.path=new.safetensors", cwd=folder)
    for golden in folder.glob("*.golden.safetensors"):
        golden.unlink()
    record = ["checkpoint.path=new.safetensors", "verify.record=true", "evaluate=digits"]
    assert run_loader(*record, "evaluate.expect.accuracy.min=0.99", cwd=folder).code == 5
    assert not list(folder.glob("*.golden.safetensors"))


def test_a_sweep_measures_each_job_and_ends_with_the_worst(folder: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "run.py"), "-m", "evaluate=digits"]
    swept = ["evaluate.batch_size=16,64", "evaluate.expect.accuracy.min=0.9,0.99", "hydra.sweep.dir=sweep"]
    done = run(*command, *swept, cwd=folder)
    assert done.returncode == 5
    jobs = json.loads((folder / "sweep" / "summary.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["ok", "failed", "ok", "failed"]
    reports = [json.loads((folder / "sweep" / str(job["job"]) / "report.json").read_text()) for job in jobs]
    assert [report["evaluation"]["batch_size"] for report in reports] == [16, 16, 64, 64]
    assert {report["evaluation"]["metrics"]["accuracy"]["value"] for report in reports} == {353 / 360}


def test_a_users_own_group_is_found(folder: Path) -> None:
    (folder / "conf" / "evaluate").mkdir(parents=True)
    (folder / "conf" / "evaluate" / "mine.yaml").write_text("data: {_target_: own_code.data}\n")
    done = run_loader("--config-dir", "conf", "evaluate=mine", METRIC, "evaluate.batches=1", cwd=folder)
    assert done.code == 0, done.err
    assert done.report["evaluation"]["samples"] == 3
    assert done.report["config"]["evaluate"]["data"] == {"_target_": "own_code.data"}


DIGITS: dict[str, Any] = {
    "data": {"_target_": "loader.examples.data.UnseenDigits"},
    "metrics": {name: {"_target_": f"loader.examples.metrics.{name}"} for name in ("accuracy", "cross_entropy")},
}
MINE = {"_target_": "my.thing"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], None),
        (["evaluate=null"], None),
        (["evaluate=digits", "evaluate=null"], None),
        (["evaluate.data._target_=my.thing", "+evaluate.batch_size=8", "~evaluate.step", "evaluate=null"], None),
        (["evaluate=digits", "evaluate.metrics={a: {_target_: my.thing}}", "~evaluate"], None),
        (["evaluate.data._target_=my.thing", "evaluate=null", "evaluate.batches=2"], {"batches": 2}),
        (["evaluate=digits"], DIGITS),
        (["evaluate=digits", "evaluate.batches=2"], {**DIGITS, "batches": 2}),
        (["evaluate.batches=2", "evaluate=digits"], {**DIGITS, "batches": 2}),
        (["evaluate.batch_size=8", "evaluate.data._target_=my.thing"], {"batch_size": 8, "data": MINE}),
        (["+evaluate.batch_size=8"], {"batch_size": 8}),
        (["evaluate={data: {_target_: my.thing}, batches: 3}"], {"data": MINE, "batches": 3}),
        (["evaluate=digits", "evaluate={batches: 3}"], {"batches": 3}),
        (["evaluate={batches: 3}", "evaluate=digits"], DIGITS),
        (["evaluate={batches: 3}", "evaluate.batch_size=2"], {"batches": 3, "batch_size": 2}),
        (["evaluate=digits", "evaluate.data={_target_: my.thing}"], {**DIGITS, "data": MINE}),
        (["evaluate=digits", "evaluate.metrics={}"], {**DIGITS, "metrics": {}}),
        (["evaluate=digits", "evaluate.metrics={own: {_target_: my.thing}}"], {**DIGITS, "metrics": {"own": MINE}}),
        (
            ["evaluate=digits", "~evaluate.metrics.accuracy", "evaluate.metrics.own={_target_: my.thing}"],
            {**DIGITS, "metrics": {"cross_entropy": DIGITS["metrics"]["cross_entropy"], "own": MINE}},
        ),
        (["evaluate=digits", "evaluate.metrics.own._target_=my.thing", "~evaluate.metrics.own"], DIGITS),
        (
            [
                "evaluate.metrics.n._target_=my.thing",
                "~evaluate.metrics.n",
                "evaluate.metrics.my_n={_target_: my.thing}",
            ],
            {"metrics": {"my_n": MINE}},
        ),
        (["evaluate.expect.a.min=0.9", "evaluate.expect.a={max: 1}"], {"expect": {"a": {"max": 1}}}),
        (
            ["evaluate=digits", "evaluate.expect={accuracy: {min: 0.9}}"],
            {**DIGITS, "expect": {"accuracy": {"min": 0.9}}},
        ),
    ],
)
def test_typed_keys_mean_what_they_say(overrides: list[str], expected: dict[str, Any] | None) -> None:
    assert compose(overrides)["evaluate"] == expected
    found = parse_job(compose(overrides)).evaluate
    assert found == (None if expected is None else EvaluateConfig(**expected))


def test_an_experiment_may_bring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiment").mkdir()
    own = "# @package _global_\nevaluate:\n  batches: 3\n"
    (tmp_path / "experiment" / "own.yaml").write_text(own)
    chosen = own.replace("evaluate:", "defaults:\n  - override /evaluate: digits\nevaluate:")
    (tmp_path / "experiment" / "chosen.yaml").write_text(chosen)
    monkeypatch.setenv("LOADER_CONFIG_DIR", str(tmp_path))
    assert compose(["experiment=own"])["evaluate"] == {"batches": 3}
    assert compose(["experiment=own", "evaluate=digits"])["evaluate"] == {**DIGITS, "batches": 3}
    assert compose(["experiment=own", "evaluate=null"])["evaluate"] is None
    assert compose(["experiment=chosen"])["evaluate"] == {**DIGITS, "batches": 3}
    assert compose(["experiment=chosen", "evaluate.batches=1"])["evaluate"] == {**DIGITS, "batches": 1}


def test_python_measures_the_same(digits: Finished) -> None:
    for found in (loader.load(["evaluate=digits"]), loader.load({"evaluate": DIGITS})):
        assert found.report.evaluation is not None
        assert found.report.evaluation.metrics == digits.report["evaluation"]["metrics"]
        assert not found.model.training


SWEEPER = """
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
        for number, own in enumerate(["seed=1", "seed=1 ++evaluate.expect.accuracy.min=2"]):
            (job,) = self.launcher.launch([[*arguments, *own.split()]], initial_job_idx=number)
            open(f"drew{number}", "w").write(repr(job.return_value))
"""


def test_a_sweeper_that_optimizes_gets_the_objective_and_no_good_value_of_a_failed_job(folder: Path) -> None:
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "drawing.py").write_text(SWEEPER)
    own = ["hydra.sweeper={_target_: hydra_plugins.drawing.Drawing}", "hydra.sweep.dir=sweep"]
    settings = ["evaluate=digits", "evaluate.objective=accuracy"]
    done = run(sys.executable, str(REPOSITORY / "run.py"), "-m", *settings, *own, cwd=folder)
    assert done.returncode == 5, done.stderr
    report = json.loads((folder / "sweep" / "0" / "report.json").read_text())["evaluation"]
    assert report["objective"] == report["metrics"]["accuracy"]["value"] > 0.9
    assert float((folder / "drew0").read_text()) == report["objective"]
    assert (folder / "drew1").read_text() in ("None", "nan")
