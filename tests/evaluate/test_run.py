"""An evaluation: what it leaves alone, what it measures, and how it gets by with little memory."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from loader.api import load
from loader.errors import LoaderError, VerificationError
from loader.evaluate.guard import is_out_of_memory
from loader.text.progress import Voice, speaking
from tests.evaluate.things import Line, Rows, batches, error, measured, node, report_of


class Small(Line):
    """A model whose memory holds a number of samples."""

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.tried: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        SIZES.append(len(x))
        if len(x) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 1 GiB")
        return super().forward(x)


SIZES: list[int] = []


class Drawing(Line):
    """A model that draws random numbers, keeps what it saw and counts."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        return super().forward(x) + torch.rand(4) + random.random() + float(np.random.rand())


def state(model: nn.Module) -> dict[str, Any]:
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    return {"training": [m.training for m in model.modules()], "hooks": len(model._forward_hooks), **tensors}


def same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(value, right[key]) if isinstance(value, Tensor) else value == right[key]
        for key, value in left.items()
    )


@pytest.mark.parametrize("settings", [{}, {"step": node("meddling_step")}, {"data": node("broken")}])
def test_the_model_is_afterwards_what_it_was_before(settings: dict[str, Any]) -> None:
    model = Drawing().eval()
    parameters, before = list(model.parameters()), state(model)
    with suppress(VerificationError):
        measured(model, **{"data": node("batches"), "metrics": {"off": node("error")}, **settings})
    assert same(state(model), before)
    assert model.seen == []
    assert not hasattr(model, "noise")
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.grad is None for parameter in parameters)


def test_it_runs_in_eval_mode_without_gradients() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def look(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        prediction = model(batch[0])
        seen.append((model.training, torch.is_grad_enabled(), prediction.requires_grad))
        return prediction, batch[1]

    measured(Line(), data=node("batches"), step=look)
    assert seen == [(False, False, False)] * 2


def test_a_seed_gives_the_same_numbers() -> None:
    def run(seed: int) -> Any:
        found = report_of(Drawing(), seed=seed, data=node("batches"), metrics={"off": node("error")}).evaluation
        assert found is not None
        return found.metrics

    assert run(3) == run(3) != run(4)


def test_the_random_state_of_the_process_is_left_alone(tmp_path: Path) -> None:
    model = {"_target_": "tests.evaluate.test_run.Drawing"}
    torch.save(Drawing().state_dict(), tmp_path / "drawing.pt")
    before = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    load({
        "model": model,
        "checkpoint": {"path": str(tmp_path / "drawing.pt")},
        "verify": {"forward": False},
        "evaluate": {"data": node("batches"), "metrics": {"off": node("error")}},
    })  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert str(np.random.get_state()) == before[2]


def test_a_step_is_called_with_the_model_and_the_batch() -> None:
    metrics = {"off": node("error")}
    found = measured(Line(), data=node("triples"), step=node("step"), metrics=metrics)
    twice = measured(Line(), data=node("batches"), step=node("step", twice=True), metrics=metrics)
    assert found.samples == 2
    assert twice.metrics["off"]["value"] > 1


@pytest.mark.parametrize(
    ("step", "message", "line"),
    [
        (
            "bad_step",
            "(tests.evaluate.things.bad_step) returned a tensor [3, 4] float32, expected (prediction, target), in",
            "evaluate.step._target_=my_pkg.step",
        ),
        (
            "failing_step",
            "evaluate.step (tests.evaluate.things.failing_step) raised RuntimeError: this step fails (",
            "evaluate=null",
        ),
    ],
)
def test_a_step_that_fails_is_refused(step: str, message: str, line: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        measured(Line(), data=node("batches"), step=node(step))
    assert message in refusal.value.message
    assert refusal.value.fixes[0].line == line


def test_a_list_batch_of_two_tensors_is_a_pair_also_for_a_step() -> None:
    half = Line().half()

    def look(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        assert (batch[0].dtype, batch[1].dtype) == (torch.float16, torch.float32)
        return model(batch[0]), batch[1]

    assert measured(half, data=[[torch.rand(2, 4), torch.rand(2, 4)]], step=look).samples == 2


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_dataset_that_does_not_fit_is_measured_in_smaller_batches(n: int, size: int, most: int) -> None:
    metrics = {"off": node("error"), "batch": node("mean_error"), "greatest": node("Greatest")}
    found = measured(Small(most), data=node("Rows", n=n), batch_size=size, metrics=metrics)
    used = size
    while min(used, n) > most:
        used //= 2
    assert found.batch_size == used
    assert found.samples == n
    typed = measured(Line(), data=node("Rows", n=n), batch_size=used, metrics=metrics)
    assert (found.metrics, found.batches) == (typed.metrics, typed.batches)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_memory_runs_out_in_several_ways(kind: type[Exception]) -> None:
    assert measured(Small(4, kind), data=node("Rows"), batch_size=16).batch_size == 4


def test_a_single_sample_that_does_not_fit_is_refused() -> None:
    with pytest.raises(VerificationError) as refusal:
        measured(Small(0), data=node("Rows"), batch_size=8)
    assert refusal.value.message == (
        "evaluate ran out of memory with a single sample on cpu: OutOfMemoryError: CUDA out of memory. Tried to "
        "allocate 2.00 GiB."
    )
    assert [fix.line for fix in refusal.value.fixes] == ["dtype=bfloat16"]


def test_batches_of_an_iterable_cannot_be_made_smaller_here() -> None:
    SIZES.clear()
    with pytest.raises(VerificationError) as refusal:
        measured(Small(2), data=node("batches"))
    assert "evaluate ran out of memory with batch 1 on cpu: OutOfMemoryError" in refusal.value.message
    assert refusal.value.fixes[-1].note == "smaller batches from the data itself"
    assert SIZES == [3]
    own = node("torch.utils.data.DataLoader", dataset=node("Rows"), batch_size=6)
    with pytest.raises(VerificationError) as refusal:
        measured(Small(2), data=own)
    assert refusal.value.fixes[0].line == "evaluate.data.batch_size=3"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_says_that_memory_ran_out(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_says_so_on_this_machine() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as failure:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(failure.value)


def test_the_report_has_what_was_done_before_a_failure() -> None:
    with pytest.raises(LoaderError) as refusal:
        report_of(Line(), data=node("broken", after=2), metrics={"off": node("error")})
    found = refusal.value.report.evaluation  # type: ignore[attr-defined]
    assert (found.samples, found.batches) == (6, 2)
    assert found.seconds > 0
    assert found.metrics == {}


def test_missed_bounds_are_refused_together_and_the_report_has_the_values() -> None:
    expect = {"off": {"max": 0.25}, "batch": {"value": 0.1, "within": 0.01}, "same": {"min": 0}}
    metrics = {"off": error, "batch": node("mean_error"), "same": error}
    data = [(torch.zeros(2, 4), torch.full((2, 4), 1.5))]
    with pytest.raises(VerificationError) as refusal:
        report_of(Line(), data=data, metrics=metrics, expect=expect, objective="off")
    assert refusal.value.message == (
        "evaluate.expect: off is 0.5, expected at most 0.25; batch is 0.5, expected 0.1 within 0.01 (over 2 samples)"
    )
    assert [fix.line for fix in refusal.value.fixes] == [
        "evaluate.expect.off.max=0.5",
        "evaluate.expect.batch.value=0.5",
    ]
    found = refusal.value.report.evaluation  # type: ignore[attr-defined]
    assert found.metrics["off"]["value"] == found.objective == 0.5


def test_kept_bounds_pass() -> None:
    expect = {"off": {"max": 0.0, "min": 0.0, "value": 0.0}}
    assert measured(Line(), data=node("batches"), metrics={"off": error}, expect=expect).metrics["off"]["value"] == 0


def test_speed_is_measured_without_metrics_too() -> None:
    found = measured(Line(), data=node("Rows", n=9), batch_size=4)
    assert (found.samples, found.batches, found.batch_size, found.metrics) == (9, 3, 4, {})
    assert found.samples_per_second is not None
    assert found.samples_per_second > 0
    assert found.objective is None


def test_a_dataset_is_not_read_twice() -> None:
    rows = Rows(5)
    measured(Line(), data=rows, batch_size=2, batches=2)
    assert rows.read == [0, 1, 2, 3]


def test_half_of_the_batches_may_be_asked_for() -> None:
    assert measured(Line(), data=list(batches((3, 2))), batches=9).batches == 2
    assert measured(Line(), data=list(batches((3, 2))), batches=1).samples == 3


def test_progress_says_batches_speed_and_the_running_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("loader.text.progress._SILENCE", 0.0)
    with speaking(Voice.LINES):
        measured(Line(), data=node("Rows", n=10), batch_size=4, metrics={"off": node("error")})
    shown = capsys.readouterr().err
    assert shown.startswith("evaluating  4 of 10 samples (40%), ")
    assert "samples (100%)" in shown
    assert "/s, " in shown
    assert shown.rstrip().endswith("  batch 3 of 3, off 0")
