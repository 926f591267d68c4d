"""Models, data, steps and metrics of the kinds that users write; configs name them as `tests.evaluate.things.…`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from loader.evaluate.plan import planned
from loader.evaluate.run import evaluate
from loader.report.data import EvaluationReport, Report
from loader.schema import EvaluateConfig, JobConfig

HOME = "tests.evaluate.things"
CPU = torch.device("cpu")


def node(name: str, **arguments: Any) -> dict[str, Any]:
    """The node of something in this module, or of a dotted name."""
    return {"_target_": name if "." in name else f"{HOME}.{name}", **arguments}


def report_of(model: nn.Module, *, seed: int = 0, trusted: list[str] | None = None, **settings: Any) -> Report:
    """Measures a model on the CPU; the report is in the refusal's `report` if there is one."""
    report = Report()
    try:
        plan = planned(JobConfig(evaluate=EvaluateConfig(**settings), seed=seed, trusted_targets=trusted))
        assert plan is not None
        evaluate(plan.made(), model.eval(), CPU, report)
    except Exception as error:
        error.report = report  # type: ignore[attr-defined]
        raise
    return report


def measured(model: nn.Module, **settings: Any) -> EvaluationReport:
    """The evaluation of a model on the CPU."""
    found = report_of(model, **settings).evaluation
    assert found is not None
    return found


class Line(nn.Module):
    """y = 2 x + 1 for each of four features, in a dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 2.0))
        self.shift = nn.Parameter(torch.ones(4))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Keywords(Line):
    """Takes its inputs by keyword and gives what a Hugging Face model does."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        logits = super().forward(x)
        return Output(loss=None, logits=logits if mask is None else logits * mask)


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Giving(Line):
    """Gives its output in a form that is asked for."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        forms: dict[str, Any] = {
            "tuple": (y, "hidden states"),
            "list": [y],
            "mapping": {"first": y, "second": None},
            "mapping with logits": {"loss": None, "logits": y},
            "logits without a value": {"logits": None, "first": y},
            "nothing": (),
            "text": "text",
            "none": None,
        }
        return forms[self.form]


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Rows 0 to n - 1: the input is the number four times, the target twice the number plus one."""

    def __init__(self, n: int = 10, claims: int | None = None, fails_at: int | None = None) -> None:
        self.n, self.claims, self.fails_at = n, claims, fails_at
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.n if self.claims is None else self.claims

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == self.fails_at:
            raise ValueError(f"row {index} is damaged")
        if index >= self.n:
            raise IndexError(index)
        self.read.append(index)
        return torch.full((4,), float(index)), torch.full((4,), 2.0 * index + 1)


class Ragged(Rows):
    """Samples of different shapes."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x[: 1 + index % 3], y


class Bare:
    """A map-style data set that knows nothing of torch's class."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((4,), float(index)), torch.full((4,), 2.0 * index + 1)


class Stopping(Rows):
    """Ends in the middle, as an iterator inside of it might."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 6:
            raise StopIteration
        return super().__getitem__(index)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Two batches of three rows, with a length of its own."""

    def __init__(self, claims: int | None = 2) -> None:
        self.claims = claims

    def __len__(self) -> int:
        if self.claims is None:
            raise TypeError("no length")
        return self.claims

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches(sizes=(3, 3))


class Samples(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples one by one, for a DataLoader to batch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from samples()


def samples() -> Iterator[tuple[Tensor, Tensor]]:
    """Five samples that nothing batches."""
    yield from ((torch.rand(4), torch.tensor(number)) for number in range(5))


def batches(sizes: tuple[int, ...] = (3, 2), noise: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of random rows, the same each time."""
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        x = torch.rand(size, 4, generator=generator)
        yield x, 2 * x + 1 + noise * torch.rand(size, 4, generator=generator)


def mappings(target: str = "labels") -> Iterator[dict[str, Tensor]]:
    for x, y in batches():
        yield {"x": x, "mask": torch.ones(4), target: y}


def broken(after: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches(sizes=(3,) * after)
    raise OSError("the disk is gone")


def exiting() -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches(sizes=(3,))
    sys.exit(3)


def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches(sizes=(3,))
    raise KeyboardInterrupt


def endless() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches()


def triples() -> Iterator[Any]:
    yield torch.rand(2, 4), torch.rand(2, 4), torch.rand(2, 4)


def alone() -> Iterator[Any]:
    yield torch.rand(2, 4)


def random_rows(n: int = 3, dtype: str = "float32") -> list[Any]:
    return [(torch.randn(n, 4), torch.ones(n, dtype=getattr(torch, dtype)))]


def empty() -> list[Any]:
    return []


def unbuildable(why: str = "no such folder") -> None:
    raise FileNotFoundError(why)


def number() -> int:
    return 3


def error(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean absolute error of each sample."""
    return (prediction - target).abs().mean(1)


def mean_error(prediction: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """The mean absolute error of the batch."""
    return (prediction - target).abs().mean() * scale


def gives(prediction: Tensor, target: Tensor, form: str = "float") -> Any:
    """Gives 0.5 in a form that is asked for."""
    n = len(target)
    forms: dict[str, Any] = {
        "float": 0.5,
        "int": 1,
        "bool": True,
        "0-d": torch.tensor(0.5),
        "half": torch.tensor(0.5, dtype=torch.float16),
        "numpy number": np.float32(0.5),
        "numpy bool": np.bool_(True),
        "numpy 0-d": np.array(0.5),
        "numpy samples": np.full(n, 0.5, dtype=np.float32),
        "samples": torch.full((n,), 0.5),
        "bools": torch.ones(n, dtype=torch.bool),
        "too many": torch.full((n + 1,), 0.5),
        "table": torch.full((n, 2), 0.5),
        "complex": torch.tensor(0.5j),
        "sparse": torch.full((n,), 0.5).to_sparse(),
        "nested": torch.nested.nested_tensor([torch.rand(1)] * n, layout=torch.jagged),
        "meta": torch.ones(n, device="meta"),
        "array of objects": np.array([None] * n),
        "text": "0.5",
        "none": None,
        "tuple": (0.5, 0.5),
        "nan": float("nan"),
        "one inf": torch.tensor([0.5, float("inf")] + [0.5] * n)[:n],
        "mixed": torch.full((n,), 0.5) if n == 3 else 0.5,
    }
    return forms[form]


def raising(prediction: Tensor, target: Tensor) -> Tensor:
    raise KeyError("no such class")


class Greatest:
    """The greatest error: a metric of the torchmetrics protocol, without torchmetrics."""

    higher_is_better = False

    def __init__(self, gives: Any = None, fails: str = "") -> None:
        self.greatest, self.gives, self.fails = 0.0, gives, fails

    def update(self, prediction: Tensor, target: Tensor) -> None:
        if self.fails == "update":
            raise ValueError("cannot update")
        self.greatest = max(self.greatest, float((prediction - target).abs().max()))

    def compute(self) -> Any:
        if self.fails == "compute":
            raise ValueError("cannot compute")
        return self.greatest if self.gives is None else self.gives


class Neither:
    """Neither a function nor a metric."""


def step(model: nn.Module, batch: Any, twice: bool = False) -> tuple[Tensor, Tensor]:
    """Takes the first two tensors of a batch."""
    prediction: Tensor = model(batch[0])
    return (prediction * 2 if twice else prediction), batch[1]


def bad_step(model: nn.Module, batch: Any) -> Tensor:
    result: Tensor = model(batch[0])
    return result


def failing_step(model: nn.Module, batch: Any) -> Tensor:
    raise RuntimeError("this step fails")


def meddling_step(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Changes everything that it should leave alone."""
    with torch.no_grad():
        model.scale.mul_(3)
        model.noise = torch.rand(3)
    model.train()
    model.register_forward_hook(lambda *_: None)
    return batch[1], batch[1]
