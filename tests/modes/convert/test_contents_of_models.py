"""What of a model goes into a file, and what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from loader import ConfigError
from loader.modes.convert.contents import contents
from tests.jobs import assert_same_state, carry_out, save
from tests.models import Extra, Tied, filled

OURS = ["tests.models.*"]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_all_that_the_format_cannot_hold_is_told_at_once() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("wide", torch.zeros(2, dtype=torch.complex128))
    module.register_buffer("sparse", torch.eye(2).to_sparse())
    module.register_buffer("quantized", torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8))
    module.register_buffer("empty", torch.zeros(2, device="meta"))
    module.register_buffer("__metadata__", torch.zeros(2))
    module.register_buffer("odd\ud800", torch.zeros(2))
    with pytest.raises(ConfigError) as refused:
        contents(module)
    assert refused.value.message == (
        "safetensors cannot hold 6 entries of the model: wide (its dtype is complex128), sparse (its layout is "
        "sparse_coo), quantized (it is quantized), empty (it has no data), __metadata__ (the format cannot "
        "store its name) and 1 more"
    )
    assert refused.value.hint == "mode=load   # such a model stays in the file that it is in"


def test_a_tensor_of_a_class_of_its_own_is_refused_by_its_class() -> None:
    module = nn.Module()
    module.register_buffer("own", torch.zeros(2).as_subclass(Own))
    with pytest.raises(ConfigError, match=r"own \(it is a .*\.Own\)"):
        contents(module)


class Own(torch.Tensor):
    """A tensor that may hold anything."""


def test_buffers_that_are_not_saved_stay_out() -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.zeros(2))
    module.register_buffer("computed", torch.zeros(2), persistent=False)
    assert list(contents(module).tensors) == ["kept"]


def test_tied_names_are_stored_under_the_first() -> None:
    found = contents(Tied())
    assert (list(found.tensors), found.aliases) == (["embed.weight"], {"head.weight": "embed.weight"})


def test_nothing_is_copied() -> None:
    module = nn.Linear(2, 2)
    assert contents(module).tensors["weight"].data_ptr() == module.weight.data_ptr()


def test_extra_state_that_is_a_tensor_is_written(tmp_path: Path) -> None:
    module = filled(Extra())
    assert isinstance(module, Extra)
    module.state = torch.tensor([1, 2])
    save(module.state_dict(), tmp_path / "source.pt")
    carry_out("Extra", tmp_path / "source.pt", mode="convert", convert={"path": f"{tmp_path}/out.safetensors"})
    loaded = carry_out({"_target_": "embedded"}, tmp_path / "out.safetensors", trusted_targets=OURS)
    assert_same_state(loaded.model, module.state_dict())


def test_other_extra_state_is_left_out_and_told_with_the_line_that_loads_the_rest(tmp_path: Path) -> None:
    module = filled(Extra())
    assert isinstance(module, Extra)
    module.state = {"version": 2}
    save(module.state_dict(), tmp_path / "source.pt")
    out = tmp_path / "out.safetensors"
    written = carry_out("Extra", tmp_path / "source.pt", mode="convert", convert={"path": str(out)}).report.written
    assert written is not None
    assert written["left_out"] == {"_extra_state": "dict"}
    assert list(load_file(out)) == ["weight"]
    assert written["next"] == (
        f"model=embedded checkpoint.path={out} 'trusted_targets=[torch.nn.*,loader.examples.*,tests.models.Extra]' "
        "'allow.missing=[_extra_state]'"
    )
    trusted = ["torch.nn.*", "loader.examples.*", "tests.models.Extra"]
    loaded = carry_out({"_target_": "embedded"}, out, trusted_targets=trusted, allow={"missing": ["_extra_state"]})
    assert loaded.report.keys.missing == ["_extra_state"]
