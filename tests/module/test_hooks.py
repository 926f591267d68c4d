from __future__ import annotations

import copy
import functools
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from loader.errors import FitError
from loader.formats.tensor import dtype_name
from loader.formats.tree import Leaf, TensorEntry
from loader.keys.plan import Hooked, Offered, Plan, Taken, make_plan
from loader.module.hooks import Metadata, customizes_loading, rehearse, run_hooks
from loader.module.slots import slots, wanted
from loader.schema import AllowConfig
from tests.laws import examples

State = dict[str, Any]


# Modules that do more on loading than to take their namesakes


class SplitsQkv(nn.Module):
    """Loads one fused tensor into three."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))

    def _load_from_state_dict(self, state_dict: State, prefix: str, *rest: Any) -> None:
        fused = state_dict.pop(f"{prefix}qkv", None)
        if fused is not None:
            for name, piece in zip("qkv", fused.chunk(3), strict=True):
                state_dict[f"{prefix}{name}"] = piece
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Renames(nn.Module):
    """Loads an old name through a hook that is a bound method."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self._register_load_state_dict_pre_hook(self._rename)  # type: ignore[no-untyped-call]

    def _rename(self, state_dict: State, prefix: str, *_: Any) -> None:
        if f"{prefix}gamma" in state_dict:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}gamma")


class Writes(nn.Module):
    """Writes into itself while it loads: attributes, a list, a plain tensor, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("steps", torch.zeros(()))
        self.plain = torch.ones(2)
        self.seen: list[str] = []
        self.table: dict[str, list[str]] = {"seen": []}
        self.loaded = False
        self.friends = [nn.Linear(2, 2)]
        self.register_module("friend", self.friends[0])
        self.register_load_state_dict_pre_hook(_writes)  # type: ignore[no-untyped-call]


def _writes(module: Writes, state_dict: State, prefix: str, *_: Any) -> None:
    module.loaded = True
    module.seen.append(prefix)
    module.table["seen"].append(prefix)
    module.get_buffer("steps").add_(1)
    with torch.no_grad():
        torch.nn.init.constant_(module.friends[0].weight, 9)
        module.plain.copy_(state_dict[f"{prefix}weight"])


class Refuses(nn.Module):
    """Reports a problem."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self._register_load_state_dict_pre_hook(self._refuse)  # type: ignore[no-untyped-call]

    def _refuse(self, state_dict: State, prefix: str, local: Any, strict: bool, *lists: list[str]) -> None:
        lists[2].append(f"{prefix}weight is of an older version")


class Raises(Refuses):
    def _refuse(self, state_dict: State, prefix: str, local: Any, strict: bool, *lists: list[str]) -> None:
        raise KeyError("scale")


class Extra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.state: object = None

    def get_extra_state(self) -> object:
        return {"state": self.state}

    def set_extra_state(self, state: object) -> None:
        self.state = state


class Patched(nn.Module):
    """Its instance, not its class, loads in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.calls = 0
        self.__dict__["_load_from_state_dict"] = self._own_way

    def _own_way(self, state_dict: State, prefix: str, *rest: Any) -> None:
        self.calls += 1
        state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}w", state_dict.get(f"{prefix}weight"))
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)


def partial_hook() -> nn.Module:
    module = nn.Linear(2, 2)
    module.calls = []  # type: ignore[assignment]
    module._register_load_state_dict_pre_hook(functools.partial(_noted, module, old="w"))  # type: ignore[no-untyped-call]
    return module


def _noted(module: nn.Module, state_dict: State, prefix: str, *_: Any, old: str) -> None:
    module.calls.append(prefix)  # type: ignore[operator,union-attr]
    if prefix + old in state_dict:
        state_dict[f"{prefix}weight"] = state_dict.pop(prefix + old)


def shared() -> nn.Module:
    norm = nn.BatchNorm1d(2)
    return nn.Sequential(norm, nn.ReLU(), norm)


def tied() -> nn.Module:
    net = nn.ModuleDict({"embed": nn.Embedding(4, 2), "head": nn.Linear(2, 4), "norm": nn.BatchNorm1d(4)})
    net["head"].weight = net["embed"].weight
    return net


def old_weight_norm_lstm() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.LSTM(3, 2), "weight_hh_l0"), nn.BatchNorm1d(2))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 2),
    "conv and batch norm": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2)),
    "batch norm without statistics": lambda: nn.BatchNorm1d(2, track_running_stats=False),
    "instance norm": lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
    "lstm": lambda: nn.LSTM(3, 2, num_layers=2),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, dim_feedforward=8),
    "parametrized weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)), nn.Linear(2, 2)),
    "parametrized spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "old weight norm": old_weight_norm_lstm,
    "lists": lambda: nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]),
    "splits": lambda: nn.Sequential(SplitsQkv(), nn.Linear(2, 2)),
    "renames": lambda: nn.ModuleDict({"norm": Renames(), "fc": nn.Linear(2, 2)}),
    "writes": Writes,
    "patched": Patched,
    "partial": partial_hook,
    "extra state": lambda: nn.Sequential(Extra(), nn.BatchNorm1d(2)),
    "shared": shared,
    "tied": tied,
}


def offer(state: State) -> dict[str, Offered]:
    entries = {
        key: TensorEntry(dtype_name(value.dtype), tuple(value.shape))
        if isinstance(value, torch.Tensor)
        else Leaf(type(value).__name__)
        for key, value in state.items()
    }
    return {key: Offered("", key, entry) for key, entry in entries.items()}


def rehearsed(model: nn.Module, state: State, metadata: Metadata | None = None) -> Hooked:
    return rehearse(model, offer(state), {} if metadata is None else metadata)


def plan_of(model: nn.Module, state: State, metadata: Metadata | None = None) -> Plan:
    return make_plan(wanted(slots(model)), offer(state), rehearsed(model, state, metadata), AllowConfig())


def metadata_of(state: Any) -> dict[str, dict[str, object]]:
    return copy.deepcopy(dict(state._metadata))


def look(value: Any) -> object:
    """What a value is, down to the items of containers, by identity and content."""
    if isinstance(value, torch.Tensor):
        data = None if nn.parameter.is_lazy(value) else value.detach().clone().tolist()
        return (id(value), type(value), value._version, data)
    if isinstance(value, dict):
        return (id(value), [(key, look(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return (id(value), [look(item) for item in value])
    return (id(value), repr(value)) if isinstance(value, str | int | bool | None) else id(value)


def snapshot(model: nn.Module) -> list[object]:
    return [look(vars(module)) for module in model.modules()]


# A rehearsal


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("name", ZOO)
def test_a_rehearsal_leaves_the_model_untouched(name: str) -> None:
    model = ZOO[name]()
    state = model.state_dict()
    state["more.weight"] = torch.ones(1)
    before = snapshot(model)

    hooked = rehearsed(model, state, metadata_of(state))

    assert snapshot(model) == before
    assert set(hooked.taken) == set(slots(model))
    assert hooked.left == ("more.weight",)


def test_a_rehearsal_leaves_a_lazy_model_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    before = snapshot(model)

    hooked = rehearsed(model, nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).state_dict())

    assert snapshot(model) == before
    assert hooked.taken["0.weight"] == Taken("0.weight", (3, 5), "float32")
    assert hooked.taken["1.running_mean"].shape == (3,)


def test_a_rehearsal_leaves_a_refused_model_untouched() -> None:
    for model in (Refuses(), Raises()):
        before = snapshot(model)

        with pytest.raises(FitError, match="load hook"):
            rehearsed(model, model.state_dict())

        assert snapshot(model) == before


def test_extra_state_is_not_set_by_a_rehearsal() -> None:
    model = nn.Sequential(Extra(), nn.BatchNorm1d(2))
    state = model.state_dict()

    hooked = rehearsed(model, state)

    assert hooked.taken["0._extra_state"] == Taken("0._extra_state", (), "")
    assert model[0].state is None


def test_the_files_metadata_is_left_alone() -> None:
    model = nn.BatchNorm1d(2)
    metadata: dict[str, dict[str, object]] = {"": {"version": 1}}

    rehearsed(model, model.state_dict(), metadata)

    assert metadata == {"": {"version": 1}}


# Agreement with torch


def torch_says(model: nn.Module, state: State, metadata: Metadata | None) -> tuple[set[str], list[str]] | str:
    given = OrderedDict(state)
    if metadata is not None:
        given._metadata = copy.deepcopy(metadata)  # type: ignore[attr-defined]
    try:
        told = model.load_state_dict(given, strict=False)
    except (RuntimeError, KeyError) as error:
        return str(error)
    return set(told.missing_keys), sorted(told.unexpected_keys)


def we_say(model: nn.Module, state: State, metadata: Metadata | None) -> tuple[set[str], list[str]] | str:
    try:
        plan = plan_of(model, state, metadata)
    except FitError as error:
        return str(error)
    # A tied name that the file leaves out counts as loaded here; torch calls it missing.
    filled = set(rehearsed(model, state, metadata).taken) if plan.loaded else set()
    return set(slots(model)) - filled, sorted(plan.unexpected)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_missing_and_unexpected_keys_are_those_that_torch_names(data: st.DataObject) -> None:
    model = ZOO[data.draw(st.sampled_from(sorted(ZOO)))]()
    full = model.state_dict()
    kept = data.draw(st.lists(st.sampled_from(sorted(full)), unique=True)) if full else []
    more = data.draw(st.lists(st.sampled_from(["weight.x", "0", "0.0.weight", "zz", "norm", "1.w", "q.weight"])))
    state: State = {key: full[key] for key in full if key in kept} | {
        key: torch.ones(1) for key in more if key not in full
    }
    state = {key: state[key] for key in data.draw(st.permutations(list(state)))}
    metadata = data.draw(st.sampled_from([None, metadata_of(full)]))

    ours, theirs = we_say(model, state, metadata), torch_says(model, state, metadata)

    if isinstance(ours, str) or isinstance(theirs, str):
        assert isinstance(ours, str)
        assert isinstance(theirs, str)
    elif ours[0] == set(slots(model)):
        # Where nothing of the file reaches the model, what its hooks make up is missing too.
        assert ours[0] >= theirs[0]
        assert ours[1] == theirs[1]
    else:
        assert ours == theirs


def test_keys_under_a_child_that_is_none_are_told_though_torch_passes_them_over() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_module("downsample", None)
    state = model.state_dict() | {"downsample.weight": torch.ones(1)}

    assert plan_of(model, state).unexpected == ["downsample.weight"]
    assert torch_says(model, state, None) == (set(), [])


def test_a_key_that_is_called_as_a_child_is_unexpected() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))

    assert plan_of(model, model.state_dict() | {"0": torch.ones(1)}).unexpected == ["0"]


# Particular hooks


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_old_weight_norm_names_load_into_a_parametrized_module() -> None:
    old = nn.utils.weight_norm(nn.Linear(3, 2)).state_dict()
    model = parametrizations.weight_norm(nn.Linear(3, 2))

    hooked = rehearsed(model, old)

    assert hooked.taken == {
        "bias": Taken("bias", (2,), "float32"),
        "parametrizations.weight.original0": Taken("weight_g", (2, 1), "float32"),
        "parametrizations.weight.original1": Taken("weight_v", (2, 3), "float32"),
    }
    assert hooked.left == ()


def without_counter(state: State) -> State:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def test_batch_norm_makes_up_its_counter_where_the_file_is_older_or_says_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    state = without_counter(model.state_dict())

    for metadata in ({}, {"0": {"version": 1}}):
        plan = plan_of(model, state, metadata)
        assert plan.missing == []
        assert rehearsed(model, state, metadata).taken["0.num_batches_tracked"] == Taken("", (), "int64")


def test_batch_norm_misses_its_counter_where_the_file_should_have_it() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))

    assert plan_of(model, without_counter(model.state_dict()), {"0": {"version": 2}}).missing == [
        "0.num_batches_tracked"
    ]


def test_a_fused_tensor_is_split_by_the_model_itself() -> None:
    model = nn.Sequential(SplitsQkv())

    hooked = rehearsed(model, {"0.qkv": torch.zeros(6, 3)})

    assert hooked.taken == {f"0.{name}": Taken("", (2, 3), "float32") for name in "qkv"}
    assert hooked.left == ()


def test_a_hook_that_computes_another_shape_is_a_mismatch_of_the_plan() -> None:
    plan = plan_of(nn.Sequential(SplitsQkv()), {"0.qkv": torch.zeros(6, 4)})

    assert [(m.key, m.model, m.checkpoint, m.source) for m in plan.mismatched] == [
        (f"0.{name}", (2, 3), (2, 4), "") for name in "qkv"
    ]


@pytest.mark.parametrize(("factory", "old"), [(Renames, "gamma"), (Patched, "w"), (partial_hook, "w")])
def test_a_renaming_hook_is_followed_whatever_it_is_bound_to(factory: Callable[[], nn.Module], old: str) -> None:
    model = factory()
    state = {(old if key == "weight" else key): value for key, value in model.state_dict().items()}

    hooked = rehearsed(model, state)

    assert hooked.taken["weight"].key == old
    assert hooked.left == ()


def test_a_hook_with_its_module_sees_the_stand_in() -> None:
    model = nn.BatchNorm1d(2)
    seen: list[nn.Module] = []
    model.register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))  # type: ignore[no-untyped-call]

    rehearsed(model, model.state_dict())

    (module,) = seen
    assert module is not model
    assert type(module) is nn.BatchNorm1d
    assert all(tensor.is_meta for tensor in module.state_dict().values())


def test_stand_ins_are_tied_as_the_model_is() -> None:
    model = tied()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def hook(module: Any, *_: Any) -> None:
        seen.append((module.embed.weight, module.head.weight))

    model.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]
    rehearsed(model, model.state_dict())

    assert seen[0][0] is seen[0][1]
    assert seen[0][0] is not slots(model)["embed.weight"].tensor


def test_all_problems_that_hooks_report_are_told_at_once() -> None:
    model = nn.Sequential(Refuses(), Refuses())

    with pytest.raises(FitError) as refused:
        rehearsed(model, model.state_dict())

    assert refused.value.message == (
        "the model's own load hooks refuse the file: 0.weight is of an older version, 1.weight is of an older version"
    )


def test_a_hook_that_raises_is_told_by_its_module() -> None:
    model = nn.Sequential(OrderedDict(body=nn.Sequential(Raises())))

    with pytest.raises(FitError, match=re.escape("the load hook of Raises at 'body.0' raised KeyError: 'scale'")):
        rehearsed(model, model.state_dict())


def test_an_entry_that_is_no_tensor_fills_no_parameter_whether_or_not_there_are_hooks() -> None:
    for model in (nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2))):
        state: State = dict(model.state_dict())
        key = list(state)[-1]
        state[key] = 5

        plan = plan_of(model, state)

        assert plan.unexpected == [key]
        assert key not in {match.taken.key for match in plan.matches}


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64, torch.float8_e5m2]
)
def test_a_rehearsal_knows_the_files_dtypes(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))

    hooked = rehearsed(model, {"0.weight": torch.zeros(2, 2).to(dtype), "1.weight": torch.zeros(2).to(dtype)})

    assert (hooked.taken["0.weight"].dtype, hooked.taken["1.weight"].dtype) == (dtype_name(dtype), dtype_name(dtype))


# The walk itself


def test_the_files_metadata_cannot_make_torch_assign() -> None:
    model = nn.BatchNorm1d(2)
    weight = model.weight
    told: list[bool] = []
    model._register_load_state_dict_pre_hook(lambda s, p, local, *_: told.append(local["assign_to_params_buffers"]))  # type: ignore[no-untyped-call]

    run_hooks(model, dict(model.state_dict()), {"": {"assign_to_params_buffers": True}}, lambda *_: None, assign=False)

    assert told == [False]
    assert model.weight is weight


def test_versions_reach_the_module_that_they_are_of() -> None:
    seen: dict[str, object] = {}
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2)))
    for module in model.modules():
        module._register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            lambda s, prefix, local, *_: seen.update({prefix: local.get("version")})
        )

    rehearsed(model, model.state_dict(), {"": {"version": 1}, "0": {"version": 2}, "1.0": {"version": 3}})

    assert seen == {"": 1, "0.": 2, "1.": None, "1.0.": 3}


def test_the_walk_does_not_touch_the_state_that_it_is_given() -> None:
    model = nn.Sequential(SplitsQkv())
    state: State = {"0.qkv": torch.zeros(6, 3)}

    run_hooks(model, state, {}, lambda *_: None, assign=False)

    assert list(state) == ["0.qkv"]


def test_a_module_shows_whether_it_customizes_loading() -> None:
    assert [customizes_loading(module) for module in (nn.Linear(2, 2), nn.Sequential(), nn.LSTM(2, 2))] == [False] * 3
    assert all(customizes_loading(module) for module in (nn.BatchNorm1d(2), Renames(), SplitsQkv(), Patched()))
    assert customizes_loading(nn.LazyLinear(2))
