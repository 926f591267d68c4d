from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from loader.formats.tensor import dtype_name
from loader.keys.plan import Wanted
from loader.module.slots import own_slots, slots, storage_id, wanted


class Extra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def get_extra_state(self) -> object:
        return {"steps": 3}

    def set_extra_state(self, state: object) -> None:
        pass


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("thrown_away", torch.zeros(2), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("nothing", None)
        self.plain = torch.ones(3)


def tied_net() -> nn.Module:
    net = nn.ModuleDict({"embed": nn.Embedding(4, 2), "head": nn.Linear(2, 4, bias=False)})
    net["head"].weight = net["embed"].weight
    return net


def shared_module() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 2),
    "no bias": lambda: nn.Linear(3, 2, bias=False),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
    "lstm": lambda: nn.LSTM(3, 2, num_layers=2, bidirectional=True),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, dim_feedforward=8),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)),
    "buffers": Buffers,
    "extra state": lambda: nn.Sequential(Extra(), Extra()),
    "tied": tied_net,
    "shared": shared_module,
    "lists": lambda: nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]),
    "empty": nn.ReLU,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_wants_exactly_the_keys_of_its_state_dict_in_their_order(name: str) -> None:
    model = MODELS[name]()

    assert list(slots(model)) == list(model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_described_as_its_tensor_is(name: str) -> None:
    model = MODELS[name]()
    places = slots(model)

    for key, want in wanted(places).items():
        value = model.state_dict(keep_vars=True)[key]
        if want.kind == "extra":
            assert want == Wanted(None, "", "extra", key)
            continue
        assert places[key].tensor is value
        assert (want.shape, want.dtype) == (tuple(value.shape), dtype_name(value.dtype))
        assert (want.kind == "parameter") == isinstance(value, nn.Parameter)


def test_reading_a_model_changes_nothing_of_it() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {
        key: (id(value), value._version, value.clone()) for key, value in model.state_dict(keep_vars=True).items()
    }

    wanted(slots(model))

    for key, value in model.state_dict(keep_vars=True).items():
        identity, version, values = before[key]
        assert (id(value), value._version) == (identity, version)
        assert torch.equal(value, values)


def test_what_is_not_saved_is_not_wanted() -> None:
    assert [name for name, _ in own_slots(Buffers())] == ["kept"]


def test_a_slot_without_a_tensor_says_so() -> None:
    model = nn.Linear(2, 2)
    slot = slots(model)["bias"]
    model.register_parameter("bias", None)

    with pytest.raises(LookupError, match="bias"):
        _ = slot.tensor


def test_tied_weights_know_their_first_name() -> None:
    described = wanted(slots(tied_net()))

    assert {key: want.first for key, want in described.items()} == {
        "embed.weight": "embed.weight",
        "head.weight": "embed.weight",
    }


def test_the_names_of_a_shared_module_are_tied() -> None:
    described = wanted(slots(shared_module()))

    assert [want.first for want in described.values()] == ["0.weight", "0.bias", "0.weight", "0.bias"]


def test_two_parameters_on_the_same_memory_are_tied() -> None:
    one, other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    other.weight = nn.Parameter(one.weight.detach())

    assert wanted(slots(nn.Sequential(one, other)))["1.weight"].first == "0.weight"


def test_different_views_of_one_memory_are_not_tied() -> None:
    memory = torch.zeros(8)
    model = nn.Module()
    model.register_buffer("front", memory[:4])
    model.register_buffer("back", memory[4:])
    model.register_buffer("folded", memory[:4].reshape(2, 2))

    assert {key: want.first for key, want in wanted(slots(model)).items()} == {
        "front": "front",
        "back": "back",
        "folded": "folded",
    }


def test_tensors_without_memory_are_not_taken_for_each_other() -> None:
    meta = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta"))
    empty = nn.ParameterList([nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0))])

    for model in (meta, empty):
        described = wanted(slots(model))
        assert all(want.first == key for key, want in described.items())


def test_ties_on_the_meta_device_are_seen() -> None:
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta"))
    model[1].weight = model[0].weight

    assert wanted(slots(model))["1.weight"].first == "0.weight"


def test_lazy_modules_have_no_shape_yet() -> None:
    described = wanted(slots(nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())))

    assert described["0.weight"] == Wanted(None, "float32", "parameter", "0.weight", turned=False)
    assert described["1.running_mean"] == Wanted(None, "float32", "buffer", "1.running_mean")
    assert described["1.num_batches_tracked"].shape == ()


def test_a_layer_says_which_way_its_weight_lies() -> None:
    known = type("Conv1D", (nn.Conv1d,), {"__module__": "transformers.pytorch_utils"})
    below = type("Own", (known,), {})
    model = nn.Sequential(nn.Linear(2, 2), known(2, 2, 1), below(2, 2, 1), nn.Conv1d(2, 2, 1))
    described = wanted(slots(model))

    assert [described[f"{at}.weight"].turned for at in range(4)] == [False, True, True, None]
    assert {described[f"{at}.bias"].turned for at in range(4)} == {None}


def test_a_shared_modules_extra_state_is_wanted_once_for_each_name_as_torch_does() -> None:
    extra = Extra()
    described = wanted(slots(nn.Sequential(extra, extra)))

    assert {key: want.first for key, want in described.items() if want.kind == "extra"} == {
        "0._extra_state": "0._extra_state",
        "1._extra_state": "1._extra_state",
    }


@pytest.mark.parametrize("layout", ["sparse", "csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_tensors_are_told_apart_by_identity(layout: str) -> None:
    value = torch.eye(2)
    sparse = value.to_sparse() if layout == "sparse" else value.to_sparse_csr()
    model = nn.Module()
    model.register_buffer("one", sparse)
    model.register_buffer("two", sparse.clone())
    model.register_buffer("same", sparse)

    described = wanted(slots(model))

    assert [want.first for want in described.values()] == ["one", "two", "one"]


def test_dtypes_are_named_as_torch_names_them() -> None:
    assert dtype_name(torch.bfloat16) == "bfloat16"


def test_a_storage_is_known_by_what_looks_into_it() -> None:
    memory = torch.zeros(4)

    assert storage_id(memory[1:]) == storage_id(memory)
    assert storage_id(torch.zeros(4)) != storage_id(memory)
