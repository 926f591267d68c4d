"""The settings of an evaluation, and what they name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.errors import ConfigError, LoaderError
from loader.evaluate.plan import planned
from loader.schema import EvaluateConfig, JobConfig
from loader.schema.columns import FIXED
from tests.evaluate.things import HOME, Line, batches, error, measured, node, report_of

LOUD = 'import pathlib\npathlib.Path(__file__).with_suffix(".imported").touch()\ndef data():\n    return []\n'


def refusal(**settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as found:
        measured(Line(), **{"data": node("batches"), **settings})
    return found.value


@pytest.fixture
def loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported."""
    (tmp_path / "loud.py").write_text(LOUD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "loud", raising=False)
    return tmp_path / "loud.imported"


NAMED = "expected a printable name of at most 80 characters, without blanks around it"


@pytest.mark.parametrize("mode", ["plan", "inspect", "scaffold", "replay"])
def test_other_modes_leave_it_out(mode: Any) -> None:
    config = EvaluateConfig(data=node("os.system"), batch_size=0)
    assert planned(JobConfig(mode=mode, evaluate=config)) is None
    assert planned(JobConfig()) is None


@pytest.mark.parametrize(
    ("settings", "message", "line"),
    [
        (
            {"data": None},
            "evaluate.data is not set: there is nothing to measure on",
            "evaluate.data._target_=my_pkg.Data",
        ),
        (
            {"data": "my_pkg.data"},
            "'evaluate.data' is 'my_pkg.data', expected a mapping with _target_",
            "evaluate.data._target_=my_pkg.data",
        ),
        ({"data": {"n": 1}}, "'evaluate.data' is {'n': 1}, expected a mapping", "evaluate.data._target_=my_pkg.Data"),
        ({"data": [[1, 2]]}, "'evaluate.data' is [[1, 2]], expected a mapping", "evaluate.data._target_=my_pkg.Data"),
        ({"step": 3}, "'evaluate.step' is 3, expected a mapping", "evaluate.step._target_=my_pkg.function"),
        (
            {"metrics": {"a": "my.metric"}},
            "'evaluate.metrics.a' is 'my.metric', expected a mapping with _target_",
            "evaluate.metrics.a._target_=my.metric",
        ),
        (
            {"batch_size": 0},
            "'evaluate.batch_size' is 0, expected a whole number from 1",
            "evaluate.batch_size=64",
        ),
        (
            {"batch_size": 10**23},
            f"'evaluate.batch_size' is {10**23}, expected a whole number from 1 to {sys.maxsize}",
            "evaluate.batch_size=64",
        ),
        (
            {"batches": 0},
            "'evaluate.batches' is 0, expected a whole number from 1, or null for all",
            "evaluate.batches=1",
        ),
        (
            {"metrics": {"accuracy": node("error")}, "objective": "acuracy"},
            "'evaluate.objective' names 'acuracy', and there is no such metric (did you mean 'accuracy'?); there ",
            "evaluate.objective=accuracy",
        ),
        (
            {"metrics": {"accuracy": node("error")}, "expect": {"acc": {"min": 0.5}}},
            "'evaluate.expect.acc' names 'acc', and there is no such metric; there are: accuracy",
            "'~evaluate.expect.acc' 'evaluate.expect.accuracy={min: 0.5}'",
        ),
        (
            {"expect": {"acc": {"min": 0.5}}},
            "'evaluate.expect.acc' names 'acc', and there is no such metric; there are: none",
            "evaluate.metrics.acc._target_=loader.examples.metrics.accuracy",
        ),
        (
            {"metrics": {"m": node("error")}, "expect": {"m": {"min": 0}, "n": {"max": 5}}},
            "'evaluate.expect.n' names 'n', and there is no such metric; there are: m",
            "'~evaluate.expect.n'",
        ),
        (
            {"metrics": {"m": node("error")}, "expect": {"a b": {"max": 5}}},
            "'evaluate.expect.a b' names 'a b', and there is no such metric; there are: m",
            "'evaluate.expect={m: {max: 5.0}}'",
        ),
        (
            {"metrics": node("mean_error", scale=2)},
            "'evaluate.metrics' is a metric without a name, expected metrics by name",
            f"'evaluate.metrics={{mean_error: {{_target_: {HOME}.mean_error, scale: 2}}}}'",
        ),
        (
            {"data": node("nothing_like_it")},
            "evaluate.data._target_: tests.evaluate.things.nothing_like_it cannot be found: module",
            "evaluate=null",
        ),
        (
            {"data": node("batches", size=1)},
            ": wrong arguments for batches(sizes: tuple[int, ...] = (3, 2), noise: float = 0.0): unexpected size",
            "'~evaluate.data.size' +evaluate.data.sizes=1",
        ),
        (
            {"metrics": {"a": node("mean_error", scal=1)}},
            "evaluate.metrics.a: wrong arguments for mean_error(prediction: Tensor, target: Tensor, scale: float = 1.0",
            "'~evaluate.metrics.a.scal' +evaluate.metrics.a.scale=1",
        ),
        (
            {"metrics": {"a": node("Neither", x=1)}},
            "evaluate.metrics.a: wrong arguments for Neither(): unexpected x",
            "'~evaluate.metrics.a.x'",
        ),
        (
            {"data": node("Rows", n="???")},
            "evaluate.data.n has no value yet (???)",
            "evaluate.data.n=…",
        ),
        (
            {"metrics": {"seconds ": node("error")}},
            f"evaluate.metrics has a metric 'seconds ', {NAMED}",
            f"'evaluate.metrics={{metric: {{_target_: {HOME}.error}}}}'",
        ),
        (
            {"step": node("torch.nn.Identity"), "metrics": {"a\n": node("error")}},
            f"evaluate.metrics has a metric 'a\\n', {NAMED}",
            f"'evaluate.metrics={{metric: {{_target_: {HOME}.error}}}}'",
        ),
        (
            {"metrics": {"": node("error"), "m": node("error")}, "expect": {"": {"max": 1}}, "objective": "m"},
            f"evaluate.metrics has a metric '', {NAMED}",
            (
                f"'evaluate.metrics={{metric: {{_target_: {HOME}.error}}, m: {{_target_: {HOME}.error}}}}'"
                " 'evaluate.expect={metric: {max: 1}}'"
            ),
        ),
        (
            {"step": node("Neither")},
            "evaluate.step: tests.evaluate.things.Neither made an object that cannot be called",
            "evaluate.step._target_=my_pkg.step",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str, line: str) -> None:
    found = refusal(**settings)
    assert message in found.message
    assert not line or line == found.fixes[0].line


def test_all_unknown_metrics_are_reported_at_once() -> None:
    found = refusal(expect={"a": {"min": 1}, "b": {"max": 1}}, objective="c")
    assert all(f"names '{name}', and" in found.message for name in "abc")


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_metric_may_not_be_called_like_a_column(name: str) -> None:
    found = refusal(metrics={name: node("error")})
    assert found.message == f"evaluate.metrics has a metric '{name}', which is the name of a column of summary.csv"
    assert found.fixes[0].line == f"'~evaluate.metrics.{name}' 'evaluate.metrics.my_{name}={{_target_: {HOME}.error}}'"


def test_nor_like_the_error_of_another_one() -> None:
    found = refusal(metrics={"loss": node("error"), "loss_stderr": node("error")})
    assert "a metric 'loss_stderr', which is the name of a column of the metric 'loss'" in found.message


def test_there_are_no_values_on_meta() -> None:
    with pytest.raises(ConfigError) as found:
        planned(JobConfig(device="meta", evaluate=EvaluateConfig(data=node("batches"))))
    assert found.value.message == "evaluate measures values, and device=meta has none"
    assert [fix.line for fix in found.value.fixes] == ["device=cpu", "evaluate=null"]


DANGEROUS = {
    "data": {"data": node("os.system", command="true")},
    "nested data": {"data": node("torch.utils.data.DataLoader", dataset=node("torch.load", f="x"))},
    "collate": {"data": node("Rows", claims={"_target_": "hydra.utils.get_method", "path": "os.system"})},
    "step": {"step": node("builtins.eval")},
    "metric": {"metrics": {"a": node("subprocess.run", args="true")}},
    "argument of a metric": {"metrics": {"a": node("mean_error", scale=node("torch.hub.load"))}},
    "by another name": {"data": node("torch.serialization.os.system")},
    "own loading": {"data": node("loader.load")},
    "a data set's own loading": {"data": node("torchvision.datasets.MNIST", root=".")},
}


@pytest.mark.parametrize("case", DANGEROUS)
def test_dangerous_targets_are_refused_before_anything_is_imported(case: str, loud: Path) -> None:
    settings = {"metrics": {}, "data": node("loud.data"), **DANGEROUS[case]}
    settings["metrics"] = {**settings["metrics"], "own": node("loud.data")}
    found = refusal(**settings)
    assert "is refused: it" in found.message
    assert found.exit_code == 2
    assert found.fixes
    assert not loud.exists()


def test_a_known_data_set_may_be_listed() -> None:
    transform = node("torchvision.transforms.ToTensor")
    images = node("torchvision.datasets.MNIST", root=".", transform=transform)
    data = node("torch.utils.data.DataLoader", dataset=images)
    config = EvaluateConfig(data=data, metrics={"a": node("error")})
    model = {"_target_": "loader.examples.SimpleNet", "in_features": 784}
    with pytest.raises(ConfigError) as found:
        planned(JobConfig(model=model, evaluate=config))
    assert found.value.message == (
        "evaluate.data.dataset._target_: torchvision.datasets.MNIST is refused: it can run code, load pickles or "
        "access files"
    )
    names = [
        "loader.examples.SimpleNet",
        "torch.utils.data.DataLoader",
        "torchvision.transforms.ToTensor",
        f"{HOME}.error",
        "torchvision.datasets.MNIST",
    ]
    assert found.value.fixes[0].line == f"'trusted_targets=[{','.join(names)}]'"
    assert planned(JobConfig(model=model, evaluate=config, trusted_targets=names)) is not None


def test_an_own_function_is_offered_in_place_of_a_dangerous_one() -> None:
    assert refusal(data=node("os.system")).fixes[0].line == "evaluate.data._target_=my_pkg.Data"
    metric = refusal(metrics={"a": node("os.system")}).fixes[0]
    assert metric.line == "evaluate.metrics.a._target_=my_pkg.metric"


def test_trusted_targets_apply_to_nested_targets_too(loud: Path) -> None:
    nested = node("torch.utils.data.DataLoader", dataset=node("loud.data"))
    trusted = ["torch.utils.data.*"]
    with pytest.raises(ConfigError) as found:
        report_of(Line(), data=nested, metrics={"a": node("error")}, trusted=trusted)
    assert found.value.message == (
        "evaluate.data.dataset._target_: loud.data is refused: trusted_targets does not name it\n"
        f"evaluate.metrics.a._target_: {HOME}.error is refused: trusted_targets does not name it"
    )
    assert found.value.fixes[0].line == f"'trusted_targets=[torch.utils.data.*,loud.data,{HOME}.error]'"
    assert not loud.exists()


def test_a_pattern_admits_classes_and_a_name_functions() -> None:
    data = node("torch.utils.data.DataLoader", dataset=node("Rows"), batch_size=3)
    trusted = ["torch.utils.data.*", f"{HOME}.*"]
    found = report_of(Line(), data=data, trusted=trusted).evaluation
    assert found is not None
    assert (found.samples, found.batches, found.batch_size) == (10, 4, None)
    with pytest.raises(ConfigError, match="it is not a class, and a pattern in trusted_targets allows classes only"):
        report_of(Line(), data=data, metrics={"a": node("error")}, trusted=trusted)
    report_of(Line(), data=data, metrics={"a": node("error")}, trusted=[*trusted, f"{HOME}.error"])


def test_torchs_data_sets_are_not_for_models() -> None:
    data = node(
        "torch.utils.data.TensorDataset", _args_=[node("torch.ones", _args_=[6, 4]), node("torch.ones", _args_=[6, 4])]
    )
    assert measured(Line(), data=data, metrics={"off": node("error")}).metrics["off"]["value"] == 2
    with pytest.raises(ConfigError, match="is not needed by any model"):
        loader.load({"model": data})


def test_a_lookup_names_a_function_or_an_object() -> None:
    lookup = {"_target_": "hydra.utils.get_method", "path": f"{HOME}.error"}
    assert measured(Line(), data=node("batches"), metrics={"off": lookup}).metrics["off"]["value"] == 0


def test_live_objects_may_be_given_from_python() -> None:
    data = list(batches((3, 2)))
    report = report_of(Line(), data=data, metrics={"off": error})
    assert report.evaluation is not None
    assert report.evaluation.samples == 5
    plan = planned(JobConfig(evaluate=EvaluateConfig(data=data, metrics={"off": error, "own": node("error")})))
    assert plan is not None
    assert plan.described()["data"] == {"_target_": "builtins.list"}
    assert plan.described()["metrics"] == {"off": {"_target_": f"{HOME}.error"}, "own": node("error")}


def test_code_that_is_built_sees_the_jobs_seed() -> None:
    def drawn(seed: int) -> Any:
        data = node(
            "torch.utils.data.TensorDataset",
            _args_=[node("torch.rand", _args_=[4, 4]), node("torch.zeros", _args_=[4, 4])],
        )
        found = report_of(Line(), seed=seed, data=data, metrics={"off": node("error")}).evaluation
        assert found is not None
        return found.metrics

    torch.manual_seed(5)
    first = drawn(1)
    torch.manual_seed(6)
    assert drawn(1) == first != drawn(2)


def test_every_refusal_is_the_loaders_own() -> None:
    with pytest.raises(LoaderError):
        measured(Line(), data=node("nowhere.at.all"))


def test_the_words_of_a_signature_that_torch_lists_are_no_proposal() -> None:
    found = refusal(data=node("random_rows", n="x"))
    assert "randn() received an invalid combination of arguments" in found.message
    assert [fix.line for fix in found.fixes] == ["evaluate=null"]
