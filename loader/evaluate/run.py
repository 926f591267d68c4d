"""Runs a verified model over data and measures it.

Guarantees: runs in eval mode, without gradients, from the job's seed; the model is afterwards what it was before, also
after a failure. The report has what was measured by then. With a Dataset, a batch that does not fit the memory halves
the batch size and begins again, so that the result is the one of the batch size in the report.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from ..apply.place import seed_all
from ..errors import ConfigError, Problems, VerificationError
from ..module.dtype import floating_dtype
from ..report.data import EvaluationReport, Report
from ..schema.columns import taken
from ..text.lines import NO_FIX, Fix, line, override, removal, typed, under
from ..text.progress import Shown, progress
from ..text.wording import counted, listing, safe_text, text_of
from ..verify.untouched import left_alone
from .batch import OWN_STEP, STEP, default_step, described, fits, is_pair, placed, prediction_of, samples_in
from .bounds import EXPECT, METRICS, OBJECTIVE, renamed, without
from .data import NOTHING, WHERE
from .guard import free, guarded, is_out_of_memory
from .metrics import Batch, Measured, Metric
from .plan import Made

_Row = tuple[str, str, Measured]
"""A metric, and the name and the value that it gives."""

_HALF = (torch.float16, torch.bfloat16)


def evaluate(made: Made, model: nn.Module, device: torch.device, report: Report) -> None:
    """Measures a model.

    Args:
        made: The data, the step and the metrics.
        model: The loaded model, in eval mode.
        device: Where it is.
        report: Receives the evaluation.

    Raises:
        ConfigError: A batch needs a step, or a setting names a metric that there is not.
        VerificationError: The data, the step, the model or a metric raises, there is no data, a value is not finite, or
            one is outside its bounds.
    """
    start = time.perf_counter()
    found = report.evaluation = EvaluationReport()
    try:
        with left_alone(model, "the evaluation", NOTHING), torch.no_grad():
            rows = _measured(made, _Model(made, model, device), found)
    finally:
        found.seconds = time.perf_counter() - start
    values = dict[str, Measured]()
    for _, name, value in rows:
        values.setdefault(name, value)
    found.metrics = {name: asdict(value) for name, value in values.items()}
    found.higher_is_better = _directions(made, values)
    _refuse_taken(made, rows)
    _refuse_unknown(made, values)
    objective = made.plan.config.objective
    found.objective = None if objective is None else values[objective].value
    _refuse_outside(made, values)


class _Model:
    """The model behind the step.

    Args:
        made: The step, and the names in messages.
        model: The model.
        device: Where it is.
    """

    def __init__(self, made: Made, model: nn.Module, device: torch.device) -> None:
        self.made, self.model, self.device = made, model, device
        self.dtype = floating_dtype(model)

    def __call__(self, batch: Any, number: int) -> Batch:
        """Runs one batch; returns what the metrics are given."""
        at = f"in batch {number}"
        with guarded(f"{WHERE} ({safe_text(self.made.data.name)})", self.made.data.name, f"moving batch {number}"):
            batch = placed(batch, self.device, self.dtype)
        prediction, target = self._by_default(batch, at) if self.made.step is None else self._by_step(batch, at)
        # Half precision is for the model; a metric in it would be rounded as well.
        was_half = isinstance(prediction, torch.Tensor) and prediction.dtype in _HALF
        prediction = prediction.float() if was_half else prediction
        return Batch(number, samples_in(target, prediction), prediction, target, was_half)

    def _by_default(self, batch: Any, at: str) -> tuple[Any, Any]:
        args, kwargs, target = default_step(batch)
        inputs = listing(map(described, args)) if args else listing(f"{key} {described(kwargs[key])}" for key in kwargs)
        with guarded("the model", type(self.model).__module__, f"{at} (its input was {inputs})", [OWN_STEP, NOTHING]):
            output = self.model(*args, **kwargs)
        prediction = prediction_of(output)
        if not fits(target, prediction):
            raise self._unbatched(prediction, target, at)
        return prediction, target

    def _unbatched(self, prediction: Any, target: Any, at: str) -> ConfigError:
        """Returns the refusal of items that are samples, with the line that batches them where torch can."""
        data, node = self.made.data, self.made.plan.nodes.get(WHERE)
        batched = {"_target_": "torch.utils.data.DataLoader", "dataset": node, "batch_size": 64}
        can_be_batched = node is not None and isinstance(data.made, IterableDataset | list | tuple)
        return ConfigError(
            f"{WHERE} ({safe_text(data.name)}) seems to yield samples, not batches: {at} the prediction is "
            f"{described(prediction)} and the target {described(target)}, expected the same number of samples in both",
            line(WHERE, batched) if can_be_batched else NO_FIX,
            OWN_STEP,
        )

    def _by_step(self, batch: Any, at: str) -> tuple[Any, Any]:
        code = self.made.code(STEP)
        blamed = f"{STEP} ({safe_text(code)})"
        with guarded(blamed, code, f"{at} ({described(batch)})", [NOTHING]):
            result = self.made.step(self.model, batch)
        if not is_pair(result):
            raise VerificationError(
                f"{blamed} returned {described(result)}, expected (prediction, target), {at}", OWN_STEP
            )
        return result[0], result[1]


def _measured(made: Made, model: _Model, found: EvaluationReport) -> list[_Row]:
    """Runs over the data, with smaller batches where the memory does not hold them."""
    size = made.plan.config.batch_size
    while True:
        try:
            return _once(made, model, found, size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {safe_text(text_of(error).partition(chr(10))[0], 200)}"
            if not made.data.is_dataset or size == 1:
                raise _does_not_fit(made, model.device, reason, found) from error
        size //= 2
        free(model.device)
        made.metrics = made.new_metrics()


def _once(made: Made, model: _Model, found: EvaluationReport, size: int) -> list[_Row]:
    config, data = made.plan.config, made.data
    found.samples, found.batches = 0, 0
    found.batch_size = size if data.is_dataset else None
    metrics = made.metrics
    for metric in metrics.values():
        metric.begin(model.device)
    seed_all(made.plan.job.seed)
    samples, batches = data.lengths(size, config.batches)
    began = time.perf_counter()
    with (
        progress("evaluating", total=samples, unit="samples") as shown,
        closing(data.batches(size, config.batches)) as source,
    ):
        for number, raw in enumerate(source, 1):
            batch = model(raw, number)
            for metric in metrics.values():
                metric.take(batch)
            found.samples, found.batches = found.samples + batch.samples, number
            _show(shown, batch, batches, metrics)
    if not found.samples:
        read = counted(found.batches, "batch", "batches")
        raise VerificationError(
            f"{WHERE} ({safe_text(data.name)}) holds no samples: it ended after {read}",
            line(f"{WHERE}._target_", "my_pkg.Data", note="data that is not empty"),
            NOTHING,
        )
    rows = [(metric.name, name, value) for metric in metrics.values() for name, value in metric.values()]
    found.samples_per_second = found.samples / max(time.perf_counter() - began, 1e-9)
    return rows


def _show(shown: Shown, batch: Batch, batches: int | None, metrics: Mapping[str, Metric]) -> None:
    running = [f"{name} {value:.4g}" for name, metric in metrics.items() if (value := metric.running()) is not None]
    of = "" if batches is None else f" of {batches:,}"
    shown.advance(batch.samples, note=", ".join([f"batch {batch.number:,}{of}", *running[:1]]))


def _does_not_fit(made: Made, device: torch.device, reason: str, found: EvaluationReport) -> VerificationError:
    """The refusal of a batch that the memory does not hold, if it cannot be made smaller here."""
    node = made.plan.nodes.get(WHERE, {})
    own = node.get("batch_size")
    fixes = [line(f"{WHERE}.batch_size", own // 2)] if type(own) is int and own > 1 else []
    smaller = [] if found.batch_size == 1 or fixes else [Fix(note="smaller batches from the data itself")]
    others = [Fix("dtype=bfloat16", "half the memory")] if made.plan.job.dtype is None else []
    others += [Fix("device=cpu")] if device.type != "cpu" else []
    of = "a single sample" if found.batch_size == 1 else f"batch {found.batches + 1}"
    message = f"evaluate ran out of memory with {of} on {device}: {reason}"
    return VerificationError(message, *fixes, *others, *smaller)


def _directions(made: Made, values: Mapping[str, Measured]) -> dict[str, bool]:
    known = {name: higher for name, own in made.plan.bounds.items() if (higher := own.higher_is_better) is not None}
    for metric in made.metrics.values():
        known |= metric.higher_is_better()
    return {name: known[name] for name in values if name in known}


def _refuse_taken(made: Made, rows: Sequence[_Row]) -> None:
    """Refuses values that have the name of a column, or of another value."""
    config, problems, owners = made.plan.config, Problems(), dict[str, str]()
    for metric, name, _ in rows:
        if name not in owners:
            owners[name] = metric
            continue
        # The one whose own name it is keeps it.
        other = owners[name] if metric == name else metric
        again = renamed(other, config) if owners[name] != metric else without(metric, config)
        fault = f"{METRICS} gives two values '{safe_text(name)}'"
        problems.add(f"{fault}, by the metrics {listing(map(repr, map(safe_text, (owners[name], metric))))}", again)
    for name, owner in taken(owners).items():
        fault = f"{METRICS} computes a value '{safe_text(name)}', which is the name of a column of {owner}"
        problems.add(fault, renamed(owners[name], config))
    problems.raise_any()


def _refuse_unknown(made: Made, values: Mapping[str, Measured]) -> None:
    """Refuses bounds and an objective that name a value which a metric might have computed, but did not."""
    objective, problems = made.plan.config.objective, Problems()
    for place, name in (
        *((f"{EXPECT}.{safe_text(name)}", name) for name in made.plan.bounds),
        *([(OBJECTIVE, objective)] if objective is not None else []),
    ):
        if name not in values:
            near = next((value for value in values if value.startswith(name.partition("_")[0])), next(iter(values)))
            words = override(place, near) if place == OBJECTIVE else removal(under(EXPECT, name))
            fix = typed(words) or Fix(note="leave the bounds out")
            problems.add(
                f"'{place}' names '{safe_text(name)}', which no metric computed; there are: {listing(values)}", fix
            )
    problems.raise_any()


def _refuse_outside(made: Made, values: Mapping[str, Measured]) -> None:
    """Refuses values outside their bounds, all at once."""
    faults: list[str] = []
    fixes: list[Fix] = []
    for name, own in made.plan.bounds.items():
        for fault, fix in own.faults(values[name].value, f"evaluate.expect.{name}"):
            faults.append(f"{safe_text(name)} is {fault}")
            fixes.append(fix or Fix(note=f"change the bound of {safe_text(name)} in the config"))
    if faults:
        over = f"over {values[next(iter(values))].n:,} samples"
        raise VerificationError(f"evaluate.expect: {'; '.join(faults)} ({over})", *fixes)
