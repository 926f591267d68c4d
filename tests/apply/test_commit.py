"""All or nothing: what a refused, failed or interrupted load leaves behind, and what a successful one keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import loader
from loader import CheckpointError, FitError, LoaderError, VerificationError, load_into
from loader.parts.reading import Reader
from tests.jobs import assert_same_state, carry_out, same_tensor, save, snapshot
from tests.laws import examples
from tests.models import Behaving, Buffers, Extra, Lazy, Normed, Pair, Refusing, Tied, Two, WeightNormed, filled


def everything() -> Any:
    """One model with a bit of everything that a load touches."""
    model: Any = nn.ModuleDict(
        {
            "pair": Pair(),
            "tied": Tied(),
            "tables": Buffers(),
            "extra": Extra(norm=True),
            "normed": Normed(),
            "weight_normed": WeightNormed(),
            "lazy": Lazy(),
            "narrow": nn.Linear(2, 2, dtype=torch.float16),
        }
    )
    model["extra"].state = {"table": torch.ones(2)}
    model["pair"].head.weight.requires_grad_(False)
    model["normed"].eval()
    model["pair"].register_forward_hook(lambda *_: None)
    conv: Any = nn.Conv2d(2, 2, 2)
    model["conv"] = conv.to(memory_format=torch.channels_last)
    return model


def complete_state() -> dict[str, Any]:
    """A state that fills all of it."""
    model = everything()
    model["lazy"](torch.zeros(1, 3))
    filled(model, seed=5)
    model["extra"].state = {"table": torch.zeros(2)}
    state = model.state_dict()
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}


# What succeeds.


def test_a_live_load_keeps_identity_memory_dtype_and_mode(tmp_path: Path) -> None:
    live = everything()
    path = save({key: _wider(value) for key, value in complete_state().items()}, tmp_path / "all.pt")
    before = {name: _place(tensor) for name, tensor in _named(live) if not nn.parameter.is_lazy(tensor)}
    modes = [module.training for module in live.modules()]
    load_into(live, path)
    after = {name: _place(tensor) for name, tensor in _named(live) if name in before}
    assert before == after
    assert modes == [module.training for module in live.modules()]
    assert_same_state(live["pair"], {k[5:]: v for k, v in complete_state().items() if k.startswith("pair.")})
    assert live["tied"].head.weight is live["tied"].embed.weight


def _wider(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def _named(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    return (id(tensor), tensor.data_ptr(), tensor.dtype, tensor.device, tensor.stride(), tensor.requires_grad)


def test_an_optimizer_that_holds_the_parameters_trains_the_loaded_ones(tmp_path: Path) -> None:
    live, saved = Two(), filled(Two()).state_dict()
    optimizer = torch.optim.SGD(live.parameters(), lr=1.0)
    load_into(live, save(saved, tmp_path / "two.pt"))
    live(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert same_tensor(live.second.bias, saved["second.bias"] - 1)


def test_gradients_are_left_alone() -> None:
    live = Two()
    live(torch.ones(1, 4)).sum().backward()
    gradient = live.second.bias.grad
    load_into(live, filled(Two()).state_dict())
    assert live.second.bias.grad is gradient


def test_weights_that_other_objects_hold_are_the_loaded_ones(tmp_path: Path) -> None:
    saved = filled(nn.LSTM(2, 3)).state_dict()
    node = {"_target_": "torch.nn.LSTM", "input_size": 2, "hidden_size": 3}
    model: Any = carry_out(node, save(saved, tmp_path / "lstm.pt")).model
    assert all(flat is own for flat, own in zip(model._flat_weights, model.parameters(), strict=True))
    reference = nn.LSTM(2, 3)
    reference.load_state_dict(saved)
    assert same_tensor(model(torch.ones(4, 1, 2))[0], reference(torch.ones(4, 1, 2))[0])


def test_views_of_a_parameter_in_the_model_follow_it(tmp_path: Path) -> None:
    live = nn.Linear(2, 2)
    live.row = live.weight.detach()[0]
    load_into(live, {"weight": torch.full((2, 2), 3.0), "bias": torch.zeros(2)})
    assert live.row.tolist() == [3.0, 3.0]


def test_a_state_that_is_the_models_own_memory_turned_around_is_read_before_it_is_written() -> None:
    live: Any = filled(Two())
    expected = {key: value.clone() for key, value in live.state_dict().items()}
    turned = {
        "first.weight": live.second.weight,
        "second.weight": live.first.weight,
        "first.bias": live.second.bias,
        "second.bias": live.first.bias,
    }
    load_into(live, turned)
    assert same_tensor(live.get_parameter("first.weight"), expected["second.weight"])
    assert same_tensor(live.get_parameter("second.weight"), expected["first.weight"])


def test_a_loaded_model_shares_nothing_with_the_callers_dict(tmp_path: Path) -> None:
    saved = filled(Two()).state_dict()
    live = Two()
    load_into(live, saved)
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.zero_()
    assert all(bool((value != 0).all()) for value in saved.values())


# What is refused.


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(torch.full((4,), 0.125).view(torch.uint8).numpy().tobytes())
    data[place + 1] ^= 1
    path.write_bytes(bytes(data))


REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], object], dict[str, Any], type[LoaderError]]] = {
    "missing": (lambda state: state.pop("pair.head.bias"), {}, FitError),
    "unexpected": (lambda state: state.update(more=torch.ones(1)), {}, FitError),
    "mismatched": (lambda state: state.update({"pair.head.bias": torch.ones(3)}), {}, FitError),
    "overflow": (lambda state: state.update({"narrow.weight": torch.full((2, 2), 1e6)}), {}, FitError),
    "untied": (lambda state: state.update({"tied.head.weight": torch.ones(6, 4)}), {}, FitError),
    "sparse": (lambda state: state.update({"pair.head.weight": torch.eye(2, 4).to_sparse()}), {}, FitError),
    "extra state": (lambda state: state.update({"extra._extra_state": {"version": "bad"}}), {}, FitError),
    "idle rule": (lambda state: None, {"rules": {"ddp": {"strip": "module."}}}, FitError),
    "collision": (lambda state: None, {"rules": {"r": {"regex": "^.*$", "to": "x"}}}, FitError),
    "nothing": (
        lambda state: None,
        {"rules": {"r": {"add": "x."}}, "allow": {"missing": ["*"], "unexpected": ["*"], "mismatched": ["*"]}},
        FitError,
    ),
    "no such key": (lambda state: None, {"key": "nowhere"}, FitError),
    "digest": (lambda state: None, {"sha256": "0" * 64}, CheckpointError),
    "nan": (
        lambda state: state["pair.head.weight"].fill_(float("nan")),
        {"verify": {"forward": False}},
        VerificationError,
    ),
    "forward": (lambda state: None, {"verify": {"input": {"shape": [1, 3]}}}, VerificationError),
    "golden": (lambda state: None, {"verify": {"golden": "nowhere.safetensors"}}, loader.ConfigError),
    "part": (lambda state: None, {"parts": {"nowhere": {}}}, loader.ConfigError),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_load_leaves_the_model_as_it_was(name: str, tmp_path: Path) -> None:
    spoil, extra, expected = REFUSALS[name]
    state = complete_state()
    spoil(state)
    live = everything()
    before = snapshot(live)
    checkpoint = {"path": str(save(state, tmp_path / "all.pt"))}
    checkpoint |= {key: extra[key] for key in ("key", "sha256") if key in extra}
    rest = {key: value for key, value in extra.items() if key not in ("key", "sha256")}
    with pytest.raises(expected):
        load_into(live, checkpoint, **rest)
    assert snapshot(live) == before


@pytest.mark.parametrize("spoil", [_cut, _flip], ids=["cut", "flipped bit"])
def test_a_damaged_file_leaves_the_model_as_it_was(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    state = complete_state()
    state["pair.head.bias"] = torch.full((2,), 0.125)
    state["pair.backbone.first.bias"] = torch.full((4,), 0.125)
    path = save(state, tmp_path / "all.pt")
    spoil(path)
    live = everything()
    before = snapshot(live)
    with pytest.raises(CheckpointError):
        load_into(live, path)
    assert snapshot(live) == before


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_raises_leaves_the_model_as_it_was(when: str) -> None:
    live = nn.Sequential(nn.Linear(2, 2), Refusing(when))
    state = {key: value + 1 for key, value in live.state_dict().items()}
    before = snapshot(live)
    with pytest.raises(FitError, match="this file is too old"):
        load_into(live, state)
    assert snapshot(live) == before


def test_a_lazy_module_that_fails_its_verification_is_lazy_again(tmp_path: Path) -> None:
    saved = Lazy()
    saved(torch.zeros(1, 3))
    live = Lazy()
    before = snapshot(live)
    with pytest.raises(VerificationError, match="output shape"):
        load_into(
            live,
            save(filled(saved).state_dict(), tmp_path / "lazy.pt"),
            verify={"input": {"shape": [1, 3]}, "expect": {"shape": [9, 9]}},
        )
    assert snapshot(live) == before
    live(torch.zeros(1, 5))


def test_an_interrupted_forward_pass_is_rolled_back() -> None:
    live = Behaving("interrupt")
    before = snapshot(live)
    with pytest.raises(KeyboardInterrupt):
        load_into(live, filled(nn.Linear(2, 2)).state_dict(), verify={})
    assert snapshot(live) == before


EVERYTHING = complete_state()


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_wrong_with_a_state_the_model_stays_as_it_was(data: st.DataObject) -> None:
    state = dict(EVERYTHING)
    for key in data.draw(st.lists(st.sampled_from(sorted(state)), min_size=1, max_size=4, unique=True)):
        how = data.draw(st.sampled_from(["drop", "reshape", "retype", "inf", "text", "sparse", "meta"]))
        _spoil(state, key, how)
    live = everything()
    before = snapshot(live)
    try:
        load_into(live, state)
    except LoaderError:
        assert snapshot(live) == before
    else:
        own = live.state_dict()
        assert all(
            torch.equal(own[key], value.to(own[key].dtype).reshape(own[key].shape))
            for key, value in state.items()
            if isinstance(value, torch.Tensor)
        )


def _spoil(state: dict[str, Any], key: str, how: str) -> None:
    value = state.pop(key)
    if how == "drop" or not isinstance(value, torch.Tensor):
        return
    changed: dict[str, Callable[[], Any]] = {
        "reshape": lambda: torch.ones(*value.shape, 2),
        "retype": lambda: value.to(torch.int64),
        "inf": lambda: torch.full(value.shape, 1e300, dtype=torch.float64),
        "text": lambda: "weights",
        "sparse": lambda: value.to_sparse() if value.dim() else "weights",
        "meta": lambda: value.to("meta"),
    }
    state[key] = changed[how]()


# What is interrupted.


class _Injected(BaseException):
    """Nothing catches it by accident."""


@contextmanager
def _failing_at(count: int, error: BaseException) -> Iterator[list[int]]:
    """Lets the n-th write of a commit fail: copies into tensors, extra state and lazy parameters alike."""
    calls = [0]

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.__name__ in {"copy_", "clone", "materialize"}:
                calls[0] += 1
                if calls[0] == count:
                    raise error
            return func(*args, **(kwargs or {}))

    with Mode():
        yield calls


def test_an_interruption_at_any_write_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    state = complete_state()
    with _failing_at(-1, _Injected()) as calls:
        load_into(everything(), state)
    assert calls[0] > 40
    for count in range(1, calls[0] + 1):
        live = everything()
        before = snapshot(live)
        error = KeyboardInterrupt() if count % 2 else _Injected()
        with pytest.raises((KeyboardInterrupt, _Injected)), _failing_at(count, error):
            load_into(live, state)
        assert snapshot(live) == before, f"write {count}"


STEPS = [
    "loader.parts.reading.Reader.verify",
    "loader.parts.reading.Reader.read",
    "loader.apply.stage._compare_tied",
    "loader.apply.stage.Staged.refuse_losses",
    "loader.pipeline.stage",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_before_the_commit_leaves_the_model_as_it_was(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError(step)

    live = everything()
    before = snapshot(live)
    monkeypatch.setattr(step, fail)
    with pytest.raises(MemoryError, match=step):
        load_into(live, complete_state())
    assert snapshot(live) == before


@pytest.mark.parametrize("step", ["loader.pipeline.check_structure", "loader.pipeline.verify"])
def test_a_failure_after_the_commit_is_rolled_back(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    live = everything()
    before = snapshot(live)
    monkeypatch.setattr(step, fail)
    with pytest.raises(KeyboardInterrupt):
        load_into(live, complete_state(), verify={"forward": False})
    assert snapshot(live) == before


# The file behind the model.


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_without_mapping_the_file_may_be_rewritten_afterwards(ending: str, tmp_path: Path) -> None:
    saved = filled(Two()).state_dict()
    path = tmp_path / f"two.{ending}"
    save_file(saved, path) if ending == "safetensors" else save(saved, path)
    model = carry_out("Two", path, checkpoint={"mmap": False}).model
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    os.truncate(path, 0)
    assert_same_state(model, saved)


def test_a_live_model_never_looks_into_the_file(tmp_path: Path) -> None:
    saved = filled(Two()).state_dict()
    path = save(saved, tmp_path / "two.pt")
    live = Two()
    load_into(live, path)
    os.truncate(path, 0)
    assert_same_state(live, saved)


def test_training_a_mapped_model_does_not_change_the_file(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    before = path.read_bytes()
    model = carry_out("Two", path).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert path.read_bytes() == before


def test_a_file_that_changes_during_the_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    live = Two()
    before = snapshot(live)
    original = Reader.refuse_damage

    def touch(reader: Reader, keys: Any) -> None:
        os.utime(path, (1, 1))
        original(reader, keys)

    monkeypatch.setattr(Reader, "refuse_damage", touch)
    with pytest.raises(CheckpointError, match="changed") as refusal:
        load_into(live, path)
    assert refusal.value.exit_code == 3
    assert snapshot(live) == before


def test_a_file_that_changes_during_the_verification_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")

    def touch(*_: object) -> None:
        os.utime(path, (1, 1))

    monkeypatch.setattr("loader.pipeline.verify", touch)
    with pytest.raises(CheckpointError, match="changed"):
        carry_out("Two", path)
    live = Two()
    before = snapshot(live)
    os.utime(path, (2, 2))
    with pytest.raises(CheckpointError, match="changed"):
        load_into(live, path, verify={})
    assert snapshot(live) == before
