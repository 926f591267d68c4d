"""Metrics: what they may give, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from loader.errors import ConfigError, LoaderError, VerificationError
from loader.evaluate.metrics import Batch, Called, Updated
from loader.examples.metrics import accuracy, cross_entropy
from loader.text.lines import NO_FIX
from tests.evaluate.things import CPU, HOME, Greatest, Line, error, measured, node
from tests.libraries import library

numbers = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40)


def one(name: str, **arguments: Any) -> dict[str, Any]:
    return {"m": node(name, **arguments)}


def mean_of(values: Sequence[float], cuts: Sequence[int]) -> Called:
    """A metric per sample that was given values in batches."""
    taken = Called("m", lambda prediction, _: prediction, "mine", NO_FIX)
    edges = [0, *sorted(cut % (len(values) + 1) for cut in cuts), len(values)]
    for number, (start, end) in enumerate(pairwise(edges), 1):
        if end > start:
            part = torch.tensor(values[start:end], dtype=torch.float64)
            taken.add(Batch(number, end - start, part, None))
    return taken


@given(numbers, st.lists(st.integers(0, 100), max_size=6))
def test_a_number_per_sample_gives_the_same_mean_and_error_in_any_batches(values: list[float], cuts: list[int]) -> None:
    ((name, found),) = mean_of(values, cuts).values()
    assert name == "m"
    assert found.n == len(values)
    assert found.value == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    if found.stderr is not None or len(values) > 1:
        assert found.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-6, abs=1e-6)


def test_the_error_of_one_sample_is_unknown() -> None:
    found = measured(Line(), data=[(torch.rand(1, 4), torch.rand(1, 4))], metrics=one("error"))
    assert found.metrics["m"]["stderr"] is None


def test_a_number_per_batch_is_averaged_by_batch_size() -> None:
    data = [(torch.zeros(n, 4), torch.full((n, 4), 1.0 + n)) for n in (3, 1)]
    found = measured(Line(), data=data, metrics={**one("mean_error"), "per_sample": node("error")})
    assert found.metrics["m"] == {"value": (3 * 3 + 1 * 1) / 4, "stderr": None, "n": 4}
    assert found.metrics["per_sample"]["value"] == 2.5


def test_arguments_are_bound_to_a_function() -> None:
    found = measured(
        Line(), data=node("batches", noise=1.0), metrics={**one("mean_error", scale=2.0), "plain": node("mean_error")}
    )
    assert found.metrics["m"]["value"] == pytest.approx(2 * found.metrics["plain"]["value"])


@pytest.mark.parametrize(
    ("form", "value", "has_error"),
    [
        ("float", 0.5, False),
        ("int", 1.0, False),
        ("bool", 1.0, False),
        ("0-d", 0.5, False),
        ("half", 0.5, False),
        ("numpy number", 0.5, False),
        ("numpy bool", 1.0, False),
        ("numpy 0-d", 0.5, False),
        ("numpy samples", 0.5, True),
        ("samples", 0.5, True),
        ("bools", 1.0, True),
    ],
)
def test_a_function_may_give_any_kind_of_number(form: str, value: float, has_error: bool) -> None:
    found = measured(Line(), data=node("batches"), metrics=one("gives", form=form))
    assert found.metrics["m"] == {"value": value, "stderr": 0.0 if has_error else None, "n": 5}


EXPECTED = "expected a number, or a 1-D tensor with one number per sample [3]"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("too many", f"returned a tensor [4] float32, {EXPECTED}, in batch 1 ("),
        ("table", f"returned a tensor [3, 2] float32, {EXPECTED}"),
        ("complex", f"returned a tensor [] complex64, {EXPECTED}"),
        ("sparse", f"returned a tensor [3] float32, {EXPECTED}"),
        ("nested", f"returned a nested tensor, {EXPECTED}"),
        ("meta", f"returned a tensor [3] float32, {EXPECTED}"),
        ("array of objects", "raised TypeError: can't convert np.ndarray of type numpy.object_"),
        ("text", f"returned a value of the type str, {EXPECTED}"),
        ("none", f"returned None, {EXPECTED}"),
        ("tuple", f"returned a tuple of 2, {EXPECTED}"),
        (
            "nan",
            "is nan in batch 1 (prediction a tensor [3, 4] float32, target a tensor [3, 4] float32), expected finite",
        ),
        ("one inf", "is inf for sample 1 in batch 1 ("),
        ("mixed", "returned one per sample and then a number per batch, in batch 2 ("),
    ],
)
def test_what_is_not_such_a_number_is_refused(form: str, message: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        measured(Line(), data=node("batches"), metrics=one("gives", form=form))
    assert f"evaluate.metrics.m (tests.evaluate.things.gives) {message}" in refusal.value.message
    assert [fix.line for fix in refusal.value.fixes] == ["'~evaluate.metrics.m'"]


def test_a_model_that_overflows_is_named_with_the_dtype_that_does_not() -> None:
    data = [(torch.full((2, 4), 6e4), torch.zeros(2, 4))]
    assert measured(Line(), data=data, metrics=one("error")).metrics["m"]["value"] == 120_001
    with pytest.raises(VerificationError) as refusal:
        measured(Line().half(), data=data, metrics=one("error"))
    assert "is inf for sample 0 in batch 1 (" in refusal.value.message
    assert refusal.value.message.endswith("expected finite numbers; the model predicts 8 values that are not finite")
    assert [fix.line for fix in refusal.value.fixes] == ["dtype=float32", "'~evaluate.metrics.m'"]


def test_a_metric_may_not_write_to_what_the_others_are_given() -> None:
    with pytest.raises(VerificationError) as refusal:
        measured(Line(), data=node("batches"), metrics={"m": lambda p, t: p.zero_().mean(), "n_": error})
    assert "writes to the prediction or the target, which other metrics are given too, in batch 1 (" in (
        refusal.value.message
    )
    with torch.inference_mode():
        assert Batch(1, 1, torch.rand(1), torch.rand(1)).version == []


def test_a_last_batch_of_one_sample_may_lose_its_dimension() -> None:
    squeezed = [(torch.zeros(n, 4), torch.ones(n, 4)) for n in (3, 1)]
    found = measured(Line(), data=squeezed, metrics={"m": lambda p, t: (p - t).abs().mean(1).squeeze()})
    assert found.metrics["m"] == {"value": 0.0, "stderr": 0.0, "n": 4}


def test_a_metric_that_raises_is_refused_with_its_batch() -> None:
    with pytest.raises(VerificationError) as refusal:
        measured(Line(), data=node("batches"), metrics=one("raising"))
    assert (
        "evaluate.metrics.m (tests.evaluate.things.raising) raised KeyError: 'no such class' (" in refusal.value.message
    )
    assert "in batch 1 (prediction a tensor [3, 4] float32, target a tensor [3, 4] float32)" in refusal.value.message
    assert [fix.line for fix in refusal.value.fixes] == ["'~evaluate.metrics.m'"]


def test_an_object_with_update_and_compute_is_a_metric() -> None:
    found = measured(Line(), data=[(torch.zeros(2, 4), torch.full((2, 4), 4.0))] * 2, metrics=one("Greatest"))
    assert found.metrics["m"] == {"value": 3.0, "stderr": None, "n": 4}
    assert found.higher_is_better == {"m": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fails": "update"}, "raised ValueError: cannot update ("),
        ({"fails": "compute"}, "raised ValueError: cannot compute ("),
        ({"gives": float("nan")}, "is nan after 5 samples, expected a finite number"),
        ({"gives": "many"}, "computed a value of the type str, expected one number"),
        ({"gives": [1.0, 2.0]}, "computed a list of 2, expected one number"),
        ({"gives": {"a": "b"}}, "computed a value of the type str, expected one number"),
    ],
)
def test_an_object_that_fails_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        measured(Line(), data=node("batches"), metrics=one("Greatest", **arguments))
    assert f"evaluate.metrics.m (tests.evaluate.things.Greatest) {message}" in refusal.value.message
    assert [fix.line for fix in refusal.value.fixes] == ["'~evaluate.metrics.m'"]


def test_several_computed_values_are_named_after_their_metric() -> None:
    several = {"low": 1, "high": torch.tensor([2.0])}
    found = measured(Line(), data=node("batches"), metrics=one("Greatest", gives=several), objective="m_low")
    assert {name: value["value"] for name, value in found.metrics.items()} == {"m_low": 1.0, "m_high": 2.0}
    assert found.objective == 1.0
    with pytest.raises(ConfigError) as refusal:
        measured(Line(), data=node("batches"), metrics=one("Greatest", gives=several), objective="m_mean")
    assert refusal.value.message == (
        "'evaluate.objective' names 'm_mean', which no metric computed; there are: m_low, m_high"
    )
    assert refusal.value.fixes[0].line == "evaluate.objective=m_low"


def test_nor_may_a_computed_value_be_called_like_a_column() -> None:
    several = {"seconds": 1, "other": 2}
    with pytest.raises(ConfigError) as refusal:
        measured(Line(), data=node("batches"), metrics={"load": node("Greatest", gives=several)})
    assert refusal.value.message == (
        "evaluate.metrics computes a value 'load_seconds', which is the name of a column of summary.csv"
    )
    assert refusal.value.fixes[0].line.startswith("'~evaluate.metrics.load' 'evaluate.metrics.my_load={_target_: ")


@pytest.mark.parametrize("order", [("m", "m_low"), ("m_low", "m")])
def test_two_values_may_not_have_one_name(order: tuple[str, str]) -> None:
    several = node("Greatest", gives={"low": 5.0, "high": 2.0})
    metrics = {name: {"m": several, "m_low": node("error")}[name] for name in order}
    settings: dict[str, Any] = {"data": node("batches"), "expect": {"m_high": {"max": 3}, "m_low": {"max": 9}}}
    with pytest.raises(ConfigError) as refusal:
        measured(Line(), metrics=metrics, objective="m_high", **settings)
    first, second = order
    assert refusal.value.message == f"evaluate.metrics gives two values 'm_low', by the metrics '{first}', '{second}'"
    assert refusal.value.fixes[0].line == (
        f"'~evaluate.metrics.m' 'evaluate.metrics.my_m={{_target_: {HOME}.Greatest, gives: {{low: 5.0, high: 2.0}}}}' "
        "'~evaluate.expect.m_high' 'evaluate.expect.my_m_high={max: 3}' evaluate.objective=my_m_high"
    )


def test_the_line_that_leaves_a_metric_out_takes_its_bounds_and_the_objective_along() -> None:
    def refused(name: str, **settings: Any) -> str:
        metrics = {name: node("gives", form="nan"), "other": node("error")}
        with pytest.raises(VerificationError) as refusal:
            measured(Line(), data=node("batches"), metrics=metrics, **settings)
        return refusal.value.fixes[0].line

    assert refused("m", expect={"m": {"min": 0}, "other": {"max": 1}}, objective="m") == (
        "'~evaluate.metrics.m' '~evaluate.expect.m' evaluate.objective=null"
    )
    assert refused("m", expect={"other": {"max": 1}}, objective="other") == "'~evaluate.metrics.m'"
    assert refused("top 1", expect={"top 1": {"min": 0}}) == (
        f"'evaluate.metrics={{other: {{_target_: {HOME}.error}}}}' 'evaluate.expect={{}}'"
    )


def test_a_module_is_a_function_as_well() -> None:
    found = measured(
        Line(),
        data=node("batches", noise=1.0),
        metrics={"m": node("torch.nn.MSELoss"), "total": node("torch.nn.MSELoss", reduction="sum")},
    )
    assert found.metrics["m"]["value"] > 0
    assert found.metrics["m"]["stderr"] is None


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError) as refusal:
        measured(Line(), data=node("batches"), metrics=one("Neither"))
    assert refusal.value.message == (
        "evaluate.metrics.m: tests.evaluate.things.Neither made a value of the type Neither, which has no update and "
        "compute and cannot be called"
    )
    assert refusal.value.fixes[0].line == "'~evaluate.metrics.m'"


def test_directions_come_from_the_metric_and_else_from_the_bounds() -> None:
    metrics = {"known": node("Greatest"), "loss": node("error"), "score": node("error"), "bound": node("error")}
    expect = {"known": {"min": -1}, "loss": {"max": 9}, "score": {"min": 0}, "bound": {"value": 0}}
    found = measured(Line(), data=node("batches"), metrics=metrics, expect=expect)
    assert found.higher_is_better == {"known": False, "loss": False, "score": True}


def test_the_shipped_metrics_are_per_sample_and_know_their_direction() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    target = torch.tensor([0, 1, 1])
    assert accuracy(logits, target).tolist() == [1, 1, 0]
    torch.testing.assert_close(cross_entropy(logits, target).mean(), nn.functional.cross_entropy(logits, target))
    assert (accuracy.higher_is_better, cross_entropy.higher_is_better) == (True, False)  # type: ignore[attr-defined]


def test_the_shipped_metrics_take_a_mean_over_further_dimensions() -> None:
    logits, target = torch.rand(4, 3, 5, 6), torch.randint(3, (4, 5, 6))
    right = logits.argmax(1) == target
    torch.testing.assert_close(accuracy(logits, target), right.float().mean((1, 2)))
    torch.testing.assert_close(cross_entropy(logits, target).mean(), nn.functional.cross_entropy(logits, target))
    assert cross_entropy(logits, target).shape == (4,)


def oracle(name: str, **arguments: Any) -> Any:
    return getattr(library("torchmetrics.classification"), name)(**arguments)


def classified(n: int = 50, classes: int = 4) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.rand(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)
    return [(x[at : at + 7], y[at : at + 7]) for at in range(0, n, 7)], x, y


def test_torchmetrics_give_what_they_give_alone() -> None:
    data, x, y = classified()
    home = "torchmetrics.classification"
    metrics = {
        "micro": node(f"{home}.MulticlassAccuracy", num_classes=4, average="micro"),
        "own": node("loader.examples.metrics.accuracy"),
        "f1": node(f"{home}.MulticlassF1Score", num_classes=4),
        "all": node(
            "torchmetrics.MetricCollection",
            metrics=[
                node(f"{home}.MulticlassAccuracy", num_classes=4),
                node(f"{home}.MulticlassRecall", num_classes=4),
            ],
        ),
    }
    micro, f1 = oracle("MulticlassAccuracy", num_classes=4, average="micro"), oracle("MulticlassF1Score", num_classes=4)
    found = measured(nn.Identity(), data=data, metrics=metrics, objective="all_MulticlassRecall")
    values = {name: value["value"] for name, value in found.metrics.items()}
    assert values["micro"] == pytest.approx(float(micro(x, y)))
    assert values["own"] == pytest.approx(values["micro"])
    assert values["f1"] == pytest.approx(float(f1(x, y)))
    assert values["all_MulticlassRecall"] == pytest.approx(float(oracle("MulticlassRecall", num_classes=4)(x, y)))
    assert found.objective == values["all_MulticlassRecall"]
    assert found.higher_is_better == dict.fromkeys(
        ("micro", "own", "f1", "all_MulticlassAccuracy", "all_MulticlassRecall"), True
    )


def test_a_table_of_torchmetrics_is_refused() -> None:
    oracle("MulticlassAccuracy", num_classes=4)
    data, _, _ = classified()
    metric = node("torchmetrics.classification.MulticlassAccuracy", num_classes=4, average=None)
    with pytest.raises(LoaderError, match=r"computed a tensor \[4\] float32, expected one number"):
        measured(nn.Identity(), data=data, metrics={"m": metric})


def test_a_metric_is_moved_to_the_device() -> None:
    weighted = Called("m", nn.CrossEntropyLoss(weight=torch.rand(3)), "torch.nn.CrossEntropyLoss", NO_FIX)
    weighted.begin(torch.device("meta"))
    assert weighted.made.weight.is_meta
    assert not weighted.made.training
    moved: list[Any] = []
    other = Greatest()
    other.to = moved.append  # type: ignore[attr-defined]
    Updated("m", other, "mine", NO_FIX).begin(CPU)
    assert moved == [CPU]
    Called("m", error, "mine", NO_FIX).begin(CPU)


def test_a_live_metric_forgets_what_it_saw_before() -> None:
    data, x, y = classified()
    metric = oracle("MulticlassAccuracy", num_classes=4, average="micro")
    metric.update(1 - x, y)
    found = measured(nn.Identity(), data=data, metrics={"m": metric})
    assert found.metrics["m"]["value"] == pytest.approx(float((x.argmax(1) == y).float().mean()))
