"""The verifying forward pass leaves a model as it was loaded, whatever the model's code does."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from loader import VerificationError, load_into
from loader.apply.snapshot import Snapshot
from loader.verify import golden
from loader.verify.untouched import Untouched
from tests.jobs import carry_out, checks, detail, save, snapshot
from tests.models import filled

PARTS = __name__ + "."


class Changing(nn.Module):
    """Counts its forward passes in every way there is."""

    count: torch.Tensor
    hidden: torch.Tensor

    def __init__(self, how: str = "buffer in place", fails: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("count", torch.tensor([5.0]))
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.plain = torch.zeros(2)
        self.passes = 0
        self.cache: list[torch.Tensor] = [torch.zeros(1)]
        self.table: dict[str, Any] = {"b": 1, "a": [1, 2]}
        self.named = OrderedDict(x=1)
        self.recent = deque([1, 2], maxlen=3)
        self.names = {"a"}
        self.array = np.zeros(2)
        self.state = SimpleNamespace(steps=0, layers=[SimpleNamespace(keys=torch.zeros(2))])
        self.random = torch.Generator().manual_seed(1)
        self.aside = [nn.BatchNorm1d(2)]
        self.how, self.fails = how, fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        CHANGES[self.how](self)
        if self.fails:
            raise ValueError("too late")
        result: torch.Tensor = self.linear(x)
        return result


def _grow(model: Changing) -> None:
    model.extra = nn.Linear(2, 2)
    del model._buffers["hidden"]


def _learn(model: Changing) -> None:
    with torch.enable_grad():
        model.linear(torch.ones(1, 2)).sum().backward()


CHANGES: dict[str, Callable[[Any], object]] = {
    "buffer in place": lambda model: model.count.add_(1),
    "buffer anew": lambda model: setattr(model, "count", model.count + 1),
    "buffer through data": lambda model: setattr(model.count, "data", model.count.data + 1),
    "buffer through numpy": lambda model: model.count.numpy().__iadd__(1),
    "buffer of another size": lambda model: model.count.set_(torch.ones(7)),
    "hidden buffer": lambda model: model.hidden.add_(1),
    "attribute in place": lambda model: model.plain.add_(1),
    "attribute": lambda model: setattr(model, "passes", model.passes + 1),
    "new attribute": lambda model: setattr(model, "seen", True),
    "list": lambda model: model.cache.append(torch.ones(1)),
    "tensor in a list": lambda model: model.cache[0].add_(1),
    "dict": lambda model: model.table.update(c=2),
    "list in a dict": lambda model: model.table["a"].append(3),
    "order of a dict": lambda model: model.named.__init__(y=2),
    "deque": lambda model: model.recent.append(3),
    "set": lambda model: model.names.add("b"),
    "array": lambda model: model.array.__iadd__(1),
    "object": lambda model: setattr(model.state, "steps", 1),
    "tensor in an object": lambda model: model.state.layers[0].keys.add_(1),
    "random numbers": lambda model: torch.rand(3, generator=model.random),
    "module that is not registered": lambda model: model.aside[0].running_mean.add_(1),
    "modules": _grow,
    "gradients": _learn,
    "no gradients": lambda model: model.linear.requires_grad_(False),
    "hook": lambda model: model.register_forward_hook(lambda *_: None),
    "training": lambda model: model.train(),
    "weight in place": lambda model: model.linear.weight.data.mul_(0.5),
    "weight anew": lambda model: setattr(model.linear.weight, "data", model.linear.weight.data * 0.5),
    "weight replaced": lambda model: setattr(model.linear, "weight", nn.Parameter(torch.zeros(2, 2))),
    "dtype": lambda model: model.half() and model.float(),
}


def everything(model: Any) -> dict[str, Any]:
    """What a load must leave alone, with what lies deeper than `snapshot` looks."""
    deeper = (model.state.steps, model.state.layers[0].keys.tolist(), model.random.get_state().tolist())
    more = (model.array.tolist(), model.aside[0].running_mean.tolist(), list(model.recent), sorted(model.names))
    gradients = [parameter.grad for parameter in model.parameters()]
    return {**snapshot(model), "deeper": (deeper, more, gradients, list(model.named.items()))}


@pytest.mark.parametrize("fails", [False, True], ids=["", "and raises"])
@pytest.mark.parametrize("how", CHANGES)
def test_a_forward_pass_leaves_no_trace_in_a_live_model(how: str, fails: bool) -> None:
    live = Changing(how, fails)
    state = {key: value.clone() for key, value in filled(Changing(), 3).state_dict().items()}
    before = everything(live)
    if fails:
        with pytest.raises(VerificationError, match="too late"):
            load_into(live, state, verify={"input": {"shape": [1, 2]}})
    else:
        load_into(live, state, verify={"input": {"shape": [1, 2]}})
        assert all(torch.equal(value, state[key]) for key, value in live.state_dict().items())
        before = {key: value for key, value in before.items() if not key.endswith(("_parameters", "_buffers"))}
    after = everything(live)
    assert {key: after[key] for key in before} == before


SOME = ["buffer in place", "buffer anew", "hidden buffer", "modules", "training", "weight in place", "dtype"]


@pytest.mark.parametrize("how", SOME)
def test_a_built_model_is_what_the_file_holds_and_so_is_what_is_written(how: str, tmp_path: Path) -> None:
    state = filled(Changing(), 3).state_dict()
    path = save(state, tmp_path / "counted.pt")
    settings: Any = {"verify": {"input": {"shape": [1, 2]}, "record": True}}
    loaded = carry_out({"_target_": PARTS + "Changing", "how": how}, path, **settings)
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    assert checks(loaded.report)["read back"]
    settings["verify"] = {"input": {"shape": [1, 2]}}
    target = tmp_path / "out.safetensors"
    carry_out(
        {"_target_": PARTS + "Changing", "how": how}, path, mode="convert", convert={"path": str(target)}, **settings
    )
    written = load_file(target)
    assert all(torch.equal(written[key], value) for key, value in state.items())


class Overwriting(nn.Module):
    """Scales its input where it stands, and gives out a buffer of its own."""

    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += self.linear(x.mul_(100.0)).sum(0)
        return self.total


def test_a_record_holds_the_input_that_was_given_and_the_output_that_came_out(tmp_path: Path) -> None:
    path = save(filled(Overwriting(), 3).state_dict(), tmp_path / "total.pt")
    verify = {"input": {"value": [[1.0, 2.0]]}, "record": True}
    report = carry_out({"_target_": PARTS + "Overwriting"}, path, verify=verify).report
    record = golden.read(golden.record_of(path))[""]
    assert record.inputs.args[0].tolist() == [[1.0, 2.0]]
    assert record.outputs["0"].abs().sum() > 100
    again = carry_out({"_target_": PARTS + "Overwriting"}, path, verify={}).report
    assert checks(again)["golden record"]
    assert again.verification.fingerprint == report.verification.fingerprint


class Masked(nn.Linear):
    """A masked layer: its forward pass sets some weights to zero, as PixelCNN's convolution does."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.weight.mul_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        return super().forward(x)


def test_large_parameters_that_a_forward_pass_writes_to_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(filled(Masked(), 3).state_dict(), tmp_path / "masked.pt")
    assert checks(carry_out({"_target_": PARTS + "Masked"}, path, verify={}).report)["read back"]
    monkeypatch.setattr("loader.apply.snapshot.MOST", 8)
    with pytest.raises(VerificationError) as refusal:
        carry_out({"_target_": PARTS + "Masked"}, path, verify={"input": {"shape": [1, 2]}})
    assert refusal.value.message == (
        "the forward pass writes to weight, parameters that it should only read, and that are too large to back up"
    )
    assert refusal.value.hint == "verify.forward=false   # leaves it out"
    live = Masked()
    before = snapshot(live)
    with pytest.raises(VerificationError, match="writes to weight"):
        load_into(live, path, verify={"input": {"shape": [1, 2]}})
    assert snapshot(live) == before


class Merging(nn.Linear):
    """Adds a low-rank product to its weight in eval mode, and takes it out again in training mode."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.extra = nn.Parameter(torch.ones(2, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -self.extra.data if mode else self.extra.data
            self.merged = not mode
        return self


def test_a_model_that_changes_its_weights_in_eval_mode_has_them_unmerged_again(tmp_path: Path) -> None:
    state = filled(Merging(), 3).state_dict()
    live = Merging()
    load_into(live, save(state, tmp_path / "merging.pt"))
    assert live.training
    assert not live.merged
    assert torch.equal(live.weight, state["weight"])


class Pooled(nn.Linear):
    """Does its work in a thread, and says so in a log."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.pool = ThreadPoolExecutor(1)
        self.log = logging.getLogger("tests.pooled")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logging.getLogger("tests.pooled.forward")
        return self.pool.submit(super().forward, x).result()


def test_what_belongs_to_the_process_is_left_alone() -> None:
    live = Pooled()
    load_into(live, filled(nn.Linear(2, 2)).state_dict(), verify={"input": {"shape": [1, 2]}})
    assert len(live.pool._threads) == 1
    assert "tests.pooled.forward" in logging.Logger.manager.loggerDict
    live.pool.shutdown()


def test_a_snapshot_can_be_restored_again_and_again() -> None:
    model = Changing("buffer in place")
    copied = copy.deepcopy(model.state_dict())
    kept = Snapshot(model)
    for _ in range(2):
        model(torch.ones(1, 2))
        kept.restore()
        assert all(torch.equal(value, copied[key]) for key, value in model.state_dict().items())


class Scripted(nn.Module):
    """Counts, without annotations that TorchScript does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("count", torch.tensor([5.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)  # type: ignore[operator]
        result: torch.Tensor = self.linear(x)
        return result


def test_a_scripted_model_is_left_as_it_was() -> None:
    state = {**Scripted().state_dict(), "count": torch.tensor([7.0])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live: Any = torch.jit.script(Scripted())
    load_into(live, state, verify={"input": {"shape": [1, 2]}})
    assert live.count.item() == 7.0
    assert live.training


class Writing(nn.Module):
    """Changes a large weight in a way that torch does not count."""

    def __init__(self, how: str, width: int = 80) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        WRITES[self.how](self.linear.weight.data)
        result: torch.Tensor = self.linear(x)
        return result


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "one element": lambda weight: weight[40, 40].mul_(2),
    "all": lambda weight: weight.mul_(2),
    "order within rows": lambda weight: weight.copy_(weight.flip(1)),
    "order of rows": lambda weight: weight.copy_(weight.flip(0)),
    "first": lambda weight: weight[0, 0].mul_(2),
    "last": lambda weight: weight[-1, -1].mul_(2),
}


@pytest.mark.parametrize("live", [False, True], ids=["built", "live"])
@pytest.mark.parametrize("how", WRITES)
def test_a_write_to_a_large_weight_that_torch_does_not_count_is_named(
    how: str, live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loader.apply.snapshot.MOST", 8)
    path = save(filled(Writing(how), 3).state_dict(), tmp_path / "written.pt")
    verify = {"input": {"shape": [1, 80]}}
    ways: dict[bool, Callable[[], object]] = {
        True: lambda: load_into(Writing(how), path, verify=verify),
        False: lambda: carry_out({"_target_": PARTS + "Writing", "how": how}, path, verify=verify),
    }
    with pytest.raises(VerificationError) as refusal:
        ways[live]()
    assert refusal.value.message == (
        "the forward pass writes to linear.weight, parameters that it should only read, and that are too large to "
        "back up"
    )


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="Linux tells of a process's pages")
@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_memory_that_is_the_files_own_is_not_summed_up(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"mapped.{container}"
    state = {"weight": torch.ones(512, 512), "bias": torch.ones(512)}
    torch.save(state, path) if container == "pt" else save_file(state, path)
    model = carry_out({"_target_": "torch.nn.Linear", "in_features": 512, "out_features": 512}, path).model
    weight = model.get_parameter("weight")
    assert weight.sum() == 512 * 512
    seen = Untouched([weight])
    assert sum(kept.numel() for kept in seen._seen[0][2]) < 2 * 4096
    assert seen.written() == []
    weight.data[256, 256] = 2
    assert seen.written() == [weight]


def test_memory_of_any_layout_is_looked_at() -> None:
    tensors = [torch.ones(3, 5).t(), torch.ones(9, 9)[1:, ::2], torch.ones(7).bfloat16()[1:], torch.ones(0)]
    seen = Untouched(tensors)
    assert seen.written() == []
    for tensor in tensors[:3]:
        tensor.data.reshape(-1)[0] = 2
        tensor.data[-1:] = 3
    assert [id(tensor) for tensor in seen.written()] == [id(tensor) for tensor in tensors[:3]]


class Sparse(nn.Module):
    """Has a sparse or quantized buffer."""

    held: torch.Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.register_buffer("held", _of_kind(kind, 1.0))


def _of_kind(kind: str, value: float) -> torch.Tensor:
    dense = torch.eye(3) * value
    if kind == "quantized":
        return torch.quantize_per_tensor(dense, value / 10, 0, torch.qint8)
    return dense.to_sparse() if kind == "sparse_coo" else dense.to_sparse_csr()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "quantized"])
def test_sparse_and_quantized_tensors_are_read_back(kind: str, tmp_path: Path) -> None:
    path = save({"held": _of_kind(kind, 7.0)}, tmp_path / "held.pt")
    verify = {"forward": False}
    report = load_into(Sparse(kind), path, verify=verify)
    assert detail(report, "read back") == "1 of 1 tensors compared with the file, all bytes"
    live = Sparse(kind)
    live.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
        lambda module, _: module.held.copy_(_of_kind(kind, 9.0))
    )
    with pytest.raises(VerificationError, match="not what the file holds: held"):
        load_into(live, path, verify=verify)


class Chancy(nn.Linear):
    """Draws numbers from everywhere, in its load hook and in its forward pass."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_load_state_dict_post_hook(_draw)  # type: ignore[no-untyped-call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _draw()
        return super().forward(x)


def _draw(*_: object) -> None:
    random.random()
    np.random.rand()  # the global state is what this is about
    torch.rand(1)


def _random_states() -> list[object]:
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("verify", [None, {"input": {"shape": [1, 2]}}])
def test_the_random_states_of_the_process_are_left_as_they_were(verify: Any, tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    live = Chancy()
    before = _random_states()
    load_into(live, path, verify=verify)
    assert _random_states() == before
    carry_out({"_target_": PARTS + "Chancy"}, path, verify=verify or {"forward": False})
    assert _random_states() == before
