"""What was converted loads as what it was: bit by bit, by this loader and by the library of the format."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from loader import load_model as load_ours
from loader.api import Loaded
from loader.builder import build_model
from loader.formats.safetensors import NAMES, nbytes, pieces
from loader.formats.tensor import dtype_name
from loader.modes.convert.contents import contents, shards
from tests.builder import zoo, zoo_plain
from tests.builder.exactness import other_values, plain
from tests.formats.comparing import knows
from tests.jobs import MODELS, assert_same_state, carry_out, same_tensor, save, target
from tests.laws import examples
from tests.models import Tied, filled, two_models

OURS = [f"{MODELS}*", f"{MODELS}two_models", "torch.nn.*"]
EMBEDDED = {"_target_": "embedded"}

ZOO: dict[str, dict[str, Any]] = {
    "two": target("Two"),
    "tied": target("Tied"),
    "buffers": target("Buffers"),
    "scalars": target("Scalars"),
    "weight norm": target("WeightNormed"),
    "batch norm": target("Normed"),
    "nested": target("Nested"),
    "arguments": target("Arguments", sizes=[3, 2], options={"a": [1, None, "${oc.env:HOME}"]}),
    "one of two": target("two_models"),
    "bfloat16": target("Typed", dtype="bfloat16"),
    "float8": target("Typed", dtype="float8_e4m3fn"),
    "complex": target("Typed", dtype="complex64"),
    "bool": target("Typed", dtype="bool"),
    "empty": target("Typed", size=0),
    "standard layers": {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3]}],
    },
}


def state_of(node: dict[str, Any], path: Path) -> dict[str, Any]:
    """Values of its own for every key of a model, in a file."""
    state = filled(build_model(node, hollow=False).module).state_dict()
    save(state, path)
    return state


def converted(node: Any, source: Path, to: Path, **settings: Any) -> Loaded:
    convert = {"path": str(to), **settings.pop("convert", {})}
    return carry_out(node, source, mode="convert", convert=convert, **settings)


@pytest.mark.parametrize("shard_size", ["5GB", "40B"])
@pytest.mark.parametrize("name", ZOO)
def test_what_was_converted_loads_as_it_was(name: str, shard_size: str, tmp_path: Path) -> None:
    state = state_of(ZOO[name], tmp_path / "source.pt")
    (tmp_path / "out").mkdir()
    written = converted(
        ZOO[name], tmp_path / "source.pt", tmp_path / "out", convert={"shard_size": shard_size}
    ).report.written
    assert written is not None
    declared = carry_out(ZOO[name], written["path"])
    assert_same_state(declared.model, state)
    embedded = carry_out(EMBEDDED, tmp_path / "out", trusted_targets=OURS)
    assert_same_state(embedded.model, state)
    assert type(embedded.model) is type(declared.model)
    assert embedded.report.keys.missing == []
    if not all(knows(dtype_name(value.dtype)) for value in state.values()):
        return
    read = {k: v for file in written["files"] if file.endswith(".safetensors") for k, v in load_file(file).items()}
    assert read.keys() | written["aliases"].keys() == state.keys()
    assert all(same_tensor(value, state[key]) for key, value in read.items())


def test_a_model_of_no_declared_config_is_written_without_one(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 3)), tmp_path / "whole.pt")
    admitted = ["torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear"]
    loaded = converted(
        None,
        tmp_path / "whole.pt",
        tmp_path / "out.safetensors",
        convert={"embed": False},
        checkpoint={"allow_globals": admitted},
    )
    written = load_file(tmp_path / "out.safetensors")
    assert_same_state(loaded.model, {key: written[key] for key in loaded.model.state_dict()})
    assert loaded.report.written is not None
    assert loaded.report.written["next"] == f"checkpoint.path={tmp_path}/out.safetensors"


@pytest.mark.parametrize(("dtype", "floats"), [("float16", "float16"), ("checkpoint", "float64"), (None, "float32")])
def test_the_dtype_is_the_one_that_was_asked_for_and_comes_back(dtype: str | None, floats: str, tmp_path: Path) -> None:
    state = {key: value.double() for key, value in state_of(ZOO["two"], tmp_path / "declared.pt").items()}
    save(state, tmp_path / "source.pt")
    loaded = converted("Two", tmp_path / "source.pt", tmp_path / "out.safetensors", dtype=dtype)
    kinds = {str(value.dtype) for value in load_file(tmp_path / "out.safetensors").values()}
    assert kinds == {f"torch.{floats}"}
    embedded = carry_out(EMBEDDED, tmp_path / "out.safetensors", trusted_targets=OURS)
    assert_same_state(embedded.model, loaded.model.state_dict())


def test_the_input_travels_along_and_gives_the_same_output(tmp_path: Path) -> None:
    models: Any = filled(two_models())
    save({"A": models["a"].state_dict(), "B": models["b"].state_dict()}, tmp_path / "both.pt")
    first = converted(
        "two_models",
        tmp_path / "both.pt",
        tmp_path / "out.safetensors",
        parts={"a": {"key": "A"}, "b": {"key": "B"}},
        verify={"input": {"a": {"shape": [5, 3]}, "b": {"shape": [4, 2]}}},
    )
    again = carry_out(EMBEDDED, tmp_path / "out.safetensors", trusted_targets=OURS, verify={})
    assert [item["shape"] for item in again.report.verification.inputs] == [[5, 3], [4, 2]]
    assert again.report.verification.fingerprint == first.report.verification.fingerprint is not None


def test_the_golden_record_travels_along(tmp_path: Path) -> None:
    state_of(ZOO["two"], tmp_path / "source.pt")
    asked = {"input": {"shape": [2, 4]}}
    carry_out("Two", tmp_path / "source.pt", verify={**asked, "record": True})
    loaded = converted("Two", tmp_path / "source.pt", tmp_path / "out.safetensors", verify=asked)
    golden = tmp_path / "out.safetensors.golden.safetensors"
    assert loaded.report.written is not None
    assert loaded.report.written["golden"] == str(golden)
    assert golden.read_bytes() == (tmp_path / "source.pt.golden.safetensors").read_bytes()
    again = carry_out(EMBEDDED, tmp_path / "out.safetensors", trusted_targets=OURS, verify={})
    assert again.report.verification.fingerprint == loaded.report.verification.fingerprint
    assert "golden record" in {check.name for check in again.report.verification.checks}


def test_keys_given_beside_embedded_are_laid_over_the_config_in_the_file(tmp_path: Path) -> None:
    state_of(ZOO["two"], tmp_path / "source.pt")
    converted("Two", tmp_path / "source.pt", tmp_path / "out.safetensors")
    node = {**EMBEDDED, "activation": "tanh"}
    loaded = carry_out(node, tmp_path / "out.safetensors", trusted_targets=OURS)
    assert loaded.model.activation == "tanh"
    assert loaded.report.config["model"] == {"_target_": f"{MODELS}Two", "activation": "tanh"}


def test_a_converted_file_converts_again(tmp_path: Path) -> None:
    state = state_of(ZOO["tied"], tmp_path / "source.pt")
    converted("Tied", tmp_path / "source.pt", tmp_path / "a.safetensors")
    converted(EMBEDDED, tmp_path / "a.safetensors", tmp_path / "b.safetensors", trusted_targets=OURS)
    assert_same_state(carry_out(EMBEDDED, tmp_path / "b.safetensors", trusted_targets=OURS).model, state)


def test_python_takes_the_word_embedded(tmp_path: Path) -> None:
    save(filled(nn.Linear(3, 2)).state_dict(), tmp_path / "source.pt")
    node = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    converted(node, tmp_path / "source.pt", tmp_path / "out.safetensors")
    assert isinstance(load_ours("embedded", tmp_path / "out.safetensors"), nn.Linear)


def test_what_stays_unloaded_is_written_as_its_constructor_makes_it(tmp_path: Path) -> None:
    whole = state_of(ZOO["two"], tmp_path / "source.pt")
    save({key: value for key, value in whole.items() if key != "second.weight"}, tmp_path / "source.pt")
    allow = {"missing": ["second.*"]}
    converted("Two", tmp_path / "source.pt", tmp_path / "out.safetensors", allow=allow, seed=3)
    torch.manual_seed(3)
    (nn.Linear(4, 4), fresh := nn.Linear(4, 4))
    assert same_tensor(load_file(tmp_path / "out.safetensors")["second.weight"], fresh.weight)


def test_rules_keys_and_the_source_are_noted_without_its_folder(tmp_path: Path) -> None:
    state = state_of(ZOO["two"], tmp_path / "source.pt")
    save({"ema": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "source.pt")
    loaded = converted(
        "Two",
        tmp_path / "source.pt",
        tmp_path / "out.safetensors",
        checkpoint={"key": "auto"},
        rules={"ddp": {"strip": "module."}, "off": {"strip": "x.", "enabled": False}},
    )
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        notes = file.metadata()
    assert str(tmp_path) not in json.dumps(notes)
    record = json.loads(notes["hydra_loader"])
    digest = loaded.report.parts[""].sha256
    assert record["sources"] == {
        "": {"file": "source.pt", "sha256": digest, "key": "ema", "rules": {"ddp": {"strip": "module."}}}
    }
    assert len(digest or "") == 64
    assert record["model"] == {"_target_": f"{MODELS}Two"}
    assert notes["format"] == "pt"


def test_a_tied_tensor_is_stored_once_as_the_library_of_the_format_expects_it(tmp_path: Path) -> None:
    state = state_of(ZOO["tied"], tmp_path / "source.pt")
    loaded = converted("Tied", tmp_path / "source.pt", tmp_path / "out.safetensors")
    assert loaded.report.written is not None
    assert loaded.report.written["aliases"] == {"head.weight": "embed.weight"}
    assert loaded.report.written["tensors"] == 1
    theirs = Tied()
    assert not any(load_model(theirs, tmp_path / "out.safetensors"))
    assert_same_state(theirs, state)


TENSORS = st.builds(
    lambda dtype, sizes, seed: torch.randint(0, 2, sizes, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.sampled_from([getattr(torch, name) for name in sorted(filter(knows, NAMES))]),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 9),
)


@settings(deadline=None, max_examples=examples(60))
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), TENSORS, max_size=6), st.data())
def test_the_library_reads_what_is_written(tensors: dict[str, torch.Tensor], data: st.DataObject) -> None:
    notes = data.draw(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text("aä\n"), max_size=2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.safetensors"
        path.write_bytes(b"".join(bytes(piece) for piece in pieces(tensors, notes)))
        read = load_file(path)
        with safe_open(path, "pt") as file:
            assert file.metadata() == notes
    assert read.keys() == tensors.keys()
    assert all(same_tensor(read[name], tensor) for name, tensor in tensors.items())


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12))
def test_shards_hold_everything_in_order_and_stay_below_the_size(sizes: list[int], most: int) -> None:
    tensors = {str(index): torch.zeros(size, dtype=torch.int8) for index, size in enumerate(sizes)}
    cut = list(shards(tensors, most))
    assert [key for shard in cut for key in shard] == list(tensors)
    assert all(sum(map(nbytes, shard.values())) <= most or len(shard) == 1 for shard in cut)
    whole = math.fsum(sizes)
    assert len(cut) == 1 or whole > most


def test_views_of_one_storage_are_each_written_compact(tmp_path: Path) -> None:
    module = nn.Module()
    base = torch.arange(12.0).reshape(3, 4)
    module.register_buffer("whole", base)
    module.register_buffer("turned", base.T)
    module.register_buffer("part", base[1:, ::2])
    if knows("complex64"):
        module.register_buffer("conjugate", torch.complex(base, base).conj())
    found = contents(module)
    (tmp_path / "views.safetensors").write_bytes(b"".join(bytes(piece) for piece in pieces(found.tensors, {})))
    assert found.aliases == {}
    assert_same_state(module, {key: load_file(tmp_path / "views.safetensors")[key] for key in found.tensors})


WHOLE = [construct for construct in (*zoo.HOLLOW, *zoo_plain.PLAIN) if construct not in (zoo.lazy, zoo_plain.Sparse)]
"""Models whose every key has dense values before any forward pass."""


@pytest.mark.parametrize("construct", WHOLE, ids=lambda c: c.__name__)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_whatever_a_constructor_does_its_model_comes_back(construct: Callable[[], nn.Module], tmp_path: Path) -> None:
    node = {"_target_": f"{construct.__module__}.{construct.__qualname__}"}
    loaded = carry_out(node, save(other_values(plain(construct)), tmp_path / "source.pt"))
    converted(node, tmp_path / "source.pt", tmp_path / "out.safetensors", convert={"shard_size": "1KB"})
    written = next(tmp_path.glob("out.safetensors*"))
    embedded = carry_out(EMBEDDED, written, trusted_targets=[node["_target_"]])
    assert_same_state(embedded.model, loaded.model.state_dict())
