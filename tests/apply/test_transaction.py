"""All or nothing for a live model: at whichever line a load is interrupted, and whatever cannot be written to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader import FitError, LoaderError, load_into, load_model
from loader.apply.transaction import Transaction, all_or_nothing
from tests.jobs import carry_out, save, snapshot
from tests.models import Extra, Lazy, Two, filled

OURS = str(Path(loader.__file__).parent)


def _is_ending(frame: FrameType | None) -> bool:
    """Whether a line belongs to the end of an object's life, where Python lets nothing out."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back if frame.f_code.co_filename.startswith(OURS) else None
    return frame is not None


@contextmanager
def _raising_at(count: int, error: type[BaseException]) -> Iterator[list[int]]:
    """Raises an error at the n-th line of the loader's own code that is run since a model began to change."""
    lines = [0]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS) or _is_ending(frame):
            return None
        if event == "line" and (lines[0] or frame.f_code.co_filename.endswith("commit.py")):
            lines[0] += 1
            if lines[0] == count:
                raise error
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


class Counted(nn.Module):
    """A bit of what a load and its verification touch: hooks, extra state, ties, a counter, modes that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.normed = nn.BatchNorm1d(2).eval()
        self.extra = Extra()
        self.register_buffer("count", torch.zeros(1))
        self.steps: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps.append(1)
        self.count = self.count + 1  # type: ignore[has-type]
        result: torch.Tensor = self.normed(self.layer(x))
        return result


def counted() -> Any:
    model: Any = Counted()
    model.extra.state = {"table": torch.ones(2)}
    return model


def lazy() -> Any:
    return Lazy()


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (Two, {}),
    "lazy": (Lazy, {}),
    "hooks": (counted, {}),
    "verified": (counted, {"verify": {"input": {"shape": [1, 2]}}}),
    "refused": (counted, {"verify": {"input": {"shape": [1, 2]}, "expect": {"shape": [9]}}}),
}


def _state(model: Any) -> dict[str, Any]:
    if isinstance(model, Lazy):
        model(torch.zeros(1, 3))
    if isinstance(model, Counted):
        model.extra.state = {"table": torch.zeros(2)}
    state: dict[str, Any] = filled(model, 3).state_dict()
    return state


QUICK = ("plain", "lazy")
"""The others take more than ten seconds each where other tests ran before."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_an_interruption_at_any_line_leaves_the_model_as_it_was(name: str, tmp_path: Path) -> None:
    make, settings = CASES[name]
    path = save(_state(make()), tmp_path / "state.pt")

    def load(count: int, error: type[BaseException]) -> tuple[int, bool, object]:
        live = make()
        before = snapshot(live)
        with _raising_at(count, error) as lines:
            try:
                load_into(live, path, **settings)
            except (LoaderError, KeyboardInterrupt, MemoryError) as raised:
                assert torch.is_grad_enabled()
                return lines[0], snapshot(live) == before, raised
        return lines[0], snapshot(live) == before, None

    load(-1, MemoryError)  # what is done once is done now
    total, same, raised = load(-1, MemoryError)
    assert (raised is not None) == same == (name == "refused")
    # The last lines, where a load becomes final, one by one; of those before them some.
    last = range(max(1, total - 20), total + 1)
    for count in [*range(1, last[0], max(1, total // 25)), *last]:
        lines, same, raised = load(count, MemoryError if count % 2 else KeyboardInterrupt)
        assert lines < count or (raised is not None and same), f"line {count} of {total}: {raised!r}"


class Stubborn(torch.Tensor):
    """Lets nobody write to it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            raise NotImplementedError("this tensor is sealed")
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def _expanded() -> Any:
    live: Any = Two()
    live.second.bias = nn.Parameter(torch.zeros(1).expand(4))
    return live


def _stubborn() -> Any:
    live: Any = Two()
    live.second.register_parameter("bias", None)
    live.second._parameters["bias"] = torch.zeros(4).as_subclass(Stubborn).requires_grad_()
    return live


def _inference() -> Any:
    live: Any = Two()
    with torch.inference_mode():
        live.second.bias = nn.Parameter(torch.zeros(4))
    return live


UNFOLDED = (
    "module.get_parameter('second.bias').data = module.get_parameter('second.bias').detach().clone()"
    "   # gives each element its own memory"
)
UNWRITABLE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "expanded": (
        _expanded,
        "second.bias (several of its elements share one memory location)",
        UNFOLDED,
    ),
    "a subclass that refuses": (_stubborn, "second.bias (NotImplementedError: this tensor is sealed)", ""),
    "made in inference mode": (_inference, "second.bias (it was made in inference mode)", ""),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_place_that_cannot_be_written_to_is_found_before_the_first_write(name: str) -> None:
    make, told, hint = UNWRITABLE[name]
    live = make()
    before = snapshot(live)
    versions = [parameter._version for parameter in live.first.parameters()]
    with pytest.raises(FitError) as refusal:
        load_into(live, filled(Two(), 3).state_dict())
    assert refusal.value.message == f"the model has tensors that cannot be written to: {told}"
    assert refusal.value.hint == hint
    assert snapshot(live) == before
    assert [parameter._version for parameter in live.first.parameters()] == versions


def test_the_line_that_gives_an_expanded_parameter_memory_of_its_own_works() -> None:
    module = _expanded()
    with pytest.raises(FitError) as refusal:
        load_into(module, filled(Two(), 3).state_dict())
    exec(refusal.value.hint)
    state = filled(Two(), 3).state_dict()
    load_into(module, state)
    assert torch.equal(module.second.bias, state["second.bias"])


class Expanded(nn.Module):
    """A buffer whose elements share one memory location, by itself and under a second view."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        row = torch.zeros(1)
        self.register_buffer("one", row.expand(3))
        self.register_buffer("other", row.expand(2))


def test_a_built_model_takes_values_for_a_buffer_that_is_expanded(tmp_path: Path) -> None:
    state = {**Expanded().state_dict(), "one": torch.arange(3.0), "other": torch.arange(2.0)}
    path = save(state, tmp_path / "expanded.pt")
    model = carry_out({"_target_": f"{__name__}.Expanded"}, path).model
    assert model.get_buffer("one").tolist() == [0.0, 1.0, 2.0]
    assert model.get_buffer("other").tolist() == [0.0, 1.0]


def test_undoing_goes_on_where_one_thing_cannot_be_put_back() -> None:
    live: Any = Two()
    before = snapshot(live.first)

    def work(transaction: Transaction) -> None:
        for parameter in (*live.first.parameters(), *live.second.parameters()):
            transaction.keep(parameter)
            parameter.detach().fill_(9)
        live.second.bias = nn.Parameter(torch.zeros(2))
        transaction._undo.insert(3, _fail)
        raise KeyboardInterrupt

    with pytest.raises(FitError) as refusal:
        all_or_nothing(work)
    assert refusal.value.message == ("the load failed, and 1 value of the module could not be restored: out of memory")
    assert refusal.value.hint == "build the module anew"
    assert snapshot(live.first) == before


def _fail() -> None:
    raise RuntimeError("out of memory")


def test_a_tensor_that_torch_refuses_to_write_to_is_a_refusal_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Two()
    before = snapshot(live)
    monkeypatch.setattr("loader.apply.commit.refuse_unwritable", lambda *_: None)
    live.second.bias = nn.Parameter(torch.zeros(1).expand(4))
    before = snapshot(live)
    with pytest.raises(FitError, match=r"cannot be written to: second\.bias \(RuntimeError: unsupported operation"):
        load_into(live, filled(Two(), 3).state_dict())
    assert snapshot(live) == before


class Hooked(nn.Module):
    """A post-hook that changes more than the module's own keys, and then refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen: list[int] = []
        self.register_load_state_dict_post_hook(_refuse)  # type: ignore[no-untyped-call]


def _refuse(module: Any, _: Any) -> None:
    module.seen.append(1)
    module.layer.bias.data.fill_(7)
    module.layer.frozen = True
    raise ValueError("too old")


def test_what_a_hook_after_the_load_changed_is_put_back() -> None:
    live = Hooked()
    before = snapshot(live)
    with pytest.raises(FitError, match="too old"):
        load_into(live, {"layer.weight": torch.ones(2, 2)}, allow={"missing": ["layer.bias"]})
    assert snapshot(live) == before


class Sharing(nn.Module):
    """Two parameters that lie partly in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.zeros(6)
        self.left, self.right = nn.Parameter(flat[:4]), nn.Parameter(flat[2:])
        self.even = nn.Parameter(torch.zeros(4)[0::2])


SHARED = {"left": torch.arange(4.0), "right": torch.arange(2.0, 6.0), "even": torch.ones(2)}


def test_parameters_that_share_memory_load_what_the_file_holds_for_both() -> None:
    live = Sharing()
    load_into(live, SHARED)
    assert live.left.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert live.right.tolist() == [2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("how", ["load_into", "load_model", "a built model"])
def test_parameters_that_share_memory_are_refused_values_that_differ_there(how: str, tmp_path: Path) -> None:
    state = {**SHARED, "right": torch.arange(9.0, 13.0)}
    live = Sharing()
    before = snapshot(live)
    built = {"_target_": f"{__name__}.SharingBuffers"}
    ways: dict[str, Callable[[], object]] = {
        "load_into": lambda: load_into(live, state),
        "load_model": lambda: load_model(live, state),
        "a built model": lambda: carry_out(built, save(state, tmp_path / "shared.pt")),
    }
    with pytest.raises(FitError) as refusal:
        ways[how]()
    assert refusal.value.message == (
        "the model has keys that share memory, and the file holds different values for them: left and right"
    )
    assert refusal.value.hint.startswith("give each of them its own memory in the model")
    assert snapshot(live) == before


class SharingBuffers(nn.Module):
    """The same with buffers, which are real in every build."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.zeros(6)
        self.register_buffer("left", flat[:4])
        self.register_buffer("right", flat[2:])
        self.even = nn.Parameter(torch.zeros(2))


def _sparse(values: torch.Tensor) -> torch.Tensor:
    return values.to_sparse()


def _uncoalesced(values: torch.Tensor) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.arange(3).expand(2, 3), values.diagonal(), values.shape)


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values.to_sparse_csr()


def _quantized(values: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(values, float(values.max()) / 10, 1, torch.qint8)


def _quantized_by_row(values: torch.Tensor) -> torch.Tensor:
    scales = values.max(dim=1).values.double() / 10
    return torch.quantize_per_channel(values, scales, torch.zeros(3, dtype=torch.int64), 0, torch.qint8)


class Holding(nn.Module):
    """A buffer of a kind whose elements are no plain run of memory."""

    held: torch.Tensor

    def __init__(self, held: torch.Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("held", held)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


def _components(tensor: torch.Tensor) -> list[object]:
    if tensor.is_quantized:
        return [str(tensor), tensor.int_repr().tolist()]
    return [type(tensor), tensor.layout, tensor.to_dense().tolist()]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [_sparse, _uncoalesced, _rows, _quantized, _quantized_by_row])
def test_a_sparse_or_quantized_buffer_is_put_back(make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    live = Holding(make(torch.eye(3)))
    held, before = live.held, _components(live.held)
    state = {**nn.Linear(2, 2).state_dict(prefix="layer."), "held": make(torch.eye(3) * 7)}
    with pytest.raises(LoaderError, match="forward pass raised"):
        load_into(live, state, verify={"input": {"shape": [1, 99]}})
    assert live.held is held
    assert _components(held) == before
    load_into(live, state)
    assert _components(held) == _components(state["held"])


def _zero(module: Any) -> None:
    module.child.weight.data.zero_()


def _freeze(module: Any) -> None:
    module.child.weight.requires_grad_(False)


def _add(module: Any) -> None:
    module.child.register_buffer("scale", torch.ones(1))


def _mark(module: Any) -> None:
    module.child.seen = True


def _replace(module: Any) -> None:
    module.child.weight = nn.Parameter(torch.zeros(2, 2))


def _replace_module(module: Any) -> None:
    module.child = nn.Linear(2, 2)


MEDDLING = (_zero, _freeze, _add, _mark, _replace, _replace_module)


class Meddling(nn.Module):
    """A module whose own loading touches its child."""

    def __init__(self, meddle: Callable[[Any], None]) -> None:
        super().__init__()
        self.child = nn.Linear(2, 2)
        self.layer = nn.Linear(2, 2)
        self.meddle = meddle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no input will do")


class Overriding(Meddling):
    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.meddle(self)
        super()._load_from_state_dict(*arguments)


class Preparing(Meddling):
    def __init__(self, meddle: Callable[[Any], None]) -> None:
        super().__init__(meddle)
        self.register_load_state_dict_pre_hook(_prepare)  # type: ignore[no-untyped-call]


def _prepare(module: Any, *_: Any) -> None:
    module.meddle(module)


class Reaching(Meddling):
    """The hook is a child's, and reaches its root."""

    def __init__(self, meddle: Callable[[Any], None]) -> None:
        super().__init__(meddle)
        roots = [self]
        self.layer.register_load_state_dict_post_hook(lambda *_: meddle(roots[0]))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("meddle", MEDDLING)
@pytest.mark.parametrize("kind", [Overriding, Preparing, Reaching])
def test_what_a_load_hook_does_to_other_modules_is_undone(kind: type[Meddling], meddle: Callable[[Any], None]) -> None:
    live = kind(meddle)
    before = snapshot(live)
    state = {"layer.weight": torch.ones(2, 2), "layer.bias": torch.ones(2), "child.bias": torch.ones(2)}
    with pytest.raises(LoaderError, match="no input will do"):
        load_into(live, state, allow={"missing": ["child.weight"]}, verify={"input": {"shape": [1, 2]}})
    assert snapshot(live) == before


@pytest.mark.parametrize("kind", [Overriding, Preparing])
@pytest.mark.parametrize("meddle", [_replace, _replace_module])
def test_parameters_keep_their_identity_where_a_hook_replaces_those_of_a_child(
    kind: type[Meddling], meddle: Callable[[Any], None]
) -> None:
    live = kind(meddle)
    weight = live.child.weight
    state = {key: torch.full_like(value, 3) for key, value in live.state_dict().items()}
    load_into(live, state)
    assert live.child.weight is weight
    assert weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_a_buffer_that_a_load_hook_adds_to_its_module_is_left_to_it() -> None:
    live = Overriding(lambda module: module.register_buffer("scale", torch.ones(1)))
    state = {key: torch.full_like(value, 3) for key, value in live.state_dict().items()}
    load_into(live, state)
    assert live.get_buffer("scale").tolist() == [1.0]
    assert live.layer.bias.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("write", ["data", "versioned"])
def test_large_parameters_that_the_file_lacks_are_put_back(write: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.apply.snapshot.MOST", 0)

    def meddle(module: Any, *_: Any) -> None:
        (module.child.weight.data if write == "data" else module.child.weight).mul_(2)

    live = Meddling(meddle)
    live.register_forward_pre_hook(meddle)
    before = snapshot(live)
    state = {key: torch.ones_like(value) for key, value in live.state_dict().items() if "layer" in key}
    with pytest.raises(LoaderError, match="no input will do"):
        load_into(live, state, allow={"missing": ["child.*"]}, verify={"input": {"shape": [1, 2]}})
    assert snapshot(live) == before
