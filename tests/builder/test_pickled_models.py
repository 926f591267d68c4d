"""`model: null`: the architecture out of the file, with exactly the permissions that were given."""

from __future__ import annotations

import enum
import hashlib
import os
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from loader import CheckpointError, ConfigError, FitError
from loader.builder.pickled import with_classes
from loader.formats.opened import OpenedFile
from loader.formats.tree import Container
from loader.text.lines import Fix
from tests.formats.hostile import Call
from tests.jobs import assert_same_state, carry_out, checks, save
from tests.models import Two, filled

STANDARD = "torch.nn.modules.container.Sequential"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return save(filled(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))), tmp_path / "my_model.pth")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return save({"model": filled(Two()), "epoch": 1}, tmp_path / "own.pth")


def needed(path: Path, **settings: Any) -> list[str]:
    """The names that a refusal's override admits."""
    with pytest.raises(CheckpointError) as refusal:
        carry_out(None, path, **settings)
    line = refusal.value.fixes[0].line
    return line.partition("allow_globals=[")[2].rstrip("]'").split(",")


def test_a_whole_model_is_refused_and_all_its_names_are_told(whole: Path) -> None:
    with pytest.raises(CheckpointError) as refusal:
        carry_out(None, whole)
    message = refusal.value.message
    assert message.startswith(f"model is null, so code that {whole} names would build the model; ")
    assert STANDARD in message
    assert "torch.nn.modules.linear.Linear" in message
    assert "torch.nn.modules.activation.ReLU" in message
    admitted, declared = refusal.value.fixes
    assert admitted.line.startswith("'checkpoint.allow_globals=[")
    assert admitted.note == "if you trust them"
    assert declared == Fix("model._target_=my_pkg.Net", "declares the architecture, which needs no permission")


def test_what_is_admitted_is_enough(whole: Path) -> None:
    loaded = carry_out(None, whole, checkpoint={"allow_globals": needed(whole)}, verify={})
    assert_same_state(loaded.model, torch.load(whole, weights_only=False).state_dict())
    assert checks(loaded.report)["forward pass"]
    assert loaded.report.keys.loaded == 4
    assert loaded.report.model is not None
    assert loaded.report.model.build == "plain: the model comes from the file"
    assert loaded.report.parts[""].trust == {"allow_globals": needed(whole)}


def test_one_name_less_is_not_enough(whole: Path) -> None:
    names = needed(whole)
    for name in names:
        rest = [other for other in names if other != name]
        with pytest.raises(CheckpointError, match="1 name must be admitted: ") as refusal:
            carry_out(None, whole, checkpoint={"allow_globals": rest})
        assert name in refusal.value.message


def test_a_model_of_ones_own_class_needs_it_admitted(own: Path) -> None:
    names = needed(own, checkpoint={"key": "model"})
    assert "tests.models.Two" in names
    loaded = carry_out(None, own, checkpoint={"key": "model", "allow_globals": names}, verify={})
    assert_same_state(loaded.model, filled(Two()).state_dict())


def test_trust_loads_whatever_it_is(own: Path) -> None:
    loaded = carry_out(None, own, checkpoint={"key": "model", "trust": True}, verify={})
    assert_same_state(loaded.model, filled(Two()).state_dict())
    assert loaded.report.parts[""].trust == {"trust": True}


def test_a_whole_model_needs_no_permission_where_the_architecture_is_declared(own: Path, whole: Path) -> None:
    assert_same_state(carry_out("Two", own, checkpoint={"key": "model"}).model, filled(Two()).state_dict())


def test_without_the_class_the_weights_can_be_had_and_the_model_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone_module.py").write_text("from tests.models import Two\nclass Net(Two):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_module  # type: ignore[import-not-found]

    path = save(filled(gone_module.Net()), tmp_path / "gone.pth")
    (tmp_path / "gone_module.py").unlink()
    monkeypatch.delitem(sys.modules, "gone_module")
    assert_same_state(carry_out("Two", path).model, filled(Two()).state_dict())
    names = needed(path)
    assert "gone_module.Net" in names
    for settings in ({"allow_globals": names}, {"trust": True}):
        with pytest.raises(CheckpointError) as refusal:
            carry_out(None, path, checkpoint=settings)
        assert "gone_module" in refusal.value.message
        assert "PYTHONPATH" in refusal.value.hint
        assert "model._target_=my_pkg.Net" in refusal.value.hint
        assert refusal.value.exit_code == 3


def test_a_state_dict_is_no_whole_model(tmp_path: Path) -> None:
    path = save({"model": filled(Two()), "weights": filled(Two()).state_dict()}, tmp_path / "both.pth")
    with pytest.raises(ConfigError) as refusal:
        carry_out(None, path)
    assert refusal.value.message.startswith(f"model is null, and {path} holds no whole pickled model. In the file:\n")
    assert refusal.value.hint == "checkpoint.key=model"
    with pytest.raises(ConfigError) as refusal:
        carry_out(None, path, checkpoint={"key": "weights"})
    assert refusal.value.hint == "model._target_=my_pkg.Net"
    with pytest.raises(CheckpointError, match="holds a dict, not a whole model, and model is null"):
        carry_out(None, path, checkpoint={"trust": True})


@pytest.mark.parametrize("trust", [False, True])
def test_a_wrong_key_is_told(trust: bool, own: Path) -> None:
    with pytest.raises(FitError) as refusal:
        carry_out(None, own, checkpoint={"key": "modle", "trust": trust})
    assert refusal.value.message.startswith(
        f"the nested key 'modle' is not in {own} (did you mean 'model'?). In the file:\n"
    )
    assert refusal.value.hint == "checkpoint.key=null   # takes the top level"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mode": "plan"}, "mode=plan needs a declared architecture, and model is null"),
        ({"rules": {"r": {"strip": "x."}}}, "rules needs a declared architecture, and model is null"),
        ({"parts": {"a": {}}}, "parts needs a declared architecture, and model is null"),
    ],
)
def test_what_needs_a_declared_model_says_so(settings: dict[str, Any], told: str, whole: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        carry_out(None, whole, **settings)
    assert (refusal.value.message, refusal.value.hint) == (told, "model._target_=my_pkg.Net")


class Exploding(nn.Linear):
    def __setstate__(self, state: dict[str, Any]) -> None:
        raise RuntimeError("from another version")


@pytest.mark.parametrize("trust", [False, True])
def test_a_class_that_fails_to_come_back_is_told(trust: bool, tmp_path: Path) -> None:
    path = save(Exploding(2, 2), tmp_path / "exploding.pth")
    settings = {"trust": True} if trust else {"allow_globals": needed(path)}
    with pytest.raises(CheckpointError, match="RuntimeError: from another version") as refusal:
        carry_out(None, path, checkpoint=settings)
    assert "model._target_=my_pkg.Net" in refusal.value.hint


@pytest.mark.parametrize("mmap", [True, False])
def test_a_damaged_whole_model_is_told(whole: Path, mmap: bool) -> None:
    names = needed(whole)
    data = bytearray(whole.read_bytes())
    bias = torch.load(whole, weights_only=False)[2].bias.detach().numpy().tobytes()
    data[data.index(bias)] ^= 1
    whole.write_bytes(bytes(data))
    for settings in ({"allow_globals": names}, {"trust": True}):
        with pytest.raises(
            CheckpointError, match=r"checksum mismatch in 1 record of \d read.* damaged with them: .*2\.bias"
        ):
            carry_out(None, whole, checkpoint=settings | {"mmap": mmap})


@pytest.mark.parametrize("mmap", [True, False])
def test_damage_in_what_is_no_entry_of_a_state_dict_is_told_before_the_files_code_runs(
    tmp_path: Path, mmap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = filled(Two())
    model.scales = ({"inner": torch.arange(100.0, 116.0)},)
    path = save(model, tmp_path / "whole.pt")
    names = needed(path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(100.0, 116.0).numpy().tobytes())] ^= 1
    path.write_bytes(bytes(data))
    monkeypatch.setattr("loader.builder.pickled.revive", lambda *_: pytest.fail("the file's code runs"))
    with pytest.raises(CheckpointError, match=r"checksum mismatch in 1 record of \d read"):
        carry_out(None, path, checkpoint={"allow_globals": names, "mmap": mmap})
    monkeypatch.setattr("loader.builder.pickled.torch.load", lambda *_, **__: pytest.fail("the file's code runs"))
    with pytest.raises(CheckpointError, match=r"checksum mismatch in 1 record of \d read"):
        carry_out(None, path, checkpoint={"trust": True, "mmap": mmap})


def test_dtype_and_device_hold_for_it_too(whole: Path) -> None:
    settings = {"allow_globals": needed(whole)}
    model = carry_out(None, whole, checkpoint=settings, dtype="float64").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    model = carry_out(None, whole, checkpoint=settings, device="meta", verify={}).model
    assert all(parameter.is_meta for parameter in model.parameters())


class _Calls:
    """Pickles as a call of a function that no model needs."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def test_a_name_that_only_an_attack_needs_is_never_offered_to_be_admitted(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.note = _Calls()  # type: ignore[assignment]
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as refused:
        carry_out(None, tmp_path / "model.pt")
    assert refused.value.message == (
        f"model is null, and the model in {tmp_path / 'model.pt'} names {os.system.__module__}.system, which no model "
        "needs and an attack would use: do not load this file"
    )
    assert "allow_globals" not in refused.value.hint


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    path = tmp_path / "scripted.pt"
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit")
        torch.jit.save(torch.jit.script(filled(model)), path)
    return path


def test_the_code_of_a_torchscript_archive_is_not_run_unasked(scripted: Path) -> None:
    with pytest.raises(CheckpointError) as refusal:
        carry_out(None, scripted)
    assert refusal.value.message == (
        f"model is null, and {scripted} is a TorchScript archive: its model is code in the file, which would run"
    )
    assert refusal.value.hint == (
        "checkpoint.trust=true   # if you trust it\n"
        "model._target_=my_pkg.Net   # declares the architecture, which needs no permission"
    )


def test_a_trusted_torchscript_module_is_loaded_and_proved(scripted: Path) -> None:
    loaded = carry_out(None, scripted, checkpoint={"trust": True}, verify={"input": {"shape": [2, 4]}}, dtype="float64")
    assert isinstance(loaded.model, torch.jit.ScriptModule)
    assert not loaded.model.training
    assert {value.dtype for value in loaded.model.parameters()} == {torch.float64}
    assert checks(loaded.report)["forward pass"]
    assert checks(loaded.report)["eval mode"]
    assert loaded.report.parts[""].format == "torchscript"
    assert loaded.report.keys.loaded == 9


def test_torchs_word_on_the_future_of_torchscript_refuses_no_load(scripted: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = carry_out(None, scripted, checkpoint={"trust": True}, verify={"input": {"shape": [2, 4]}})
    assert isinstance(loaded.model, torch.jit.ScriptModule)


def test_a_torchscript_archive_loads_into_a_declared_model(scripted: Path) -> None:
    layers = [("Linear", {"in_features": 4, "out_features": 3}), ("BatchNorm1d", {"num_features": 3}), ("Dropout", {})]
    layers.append(("Linear", {"in_features": 3, "out_features": 2}))
    nodes = [{"_target_": f"torch.nn.{name}", **arguments} for name, arguments in layers]
    loaded = carry_out({"_target_": "torch.nn.Sequential", "_args_": nodes}, scripted, verify={})
    assert_same_state(loaded.model, torch.jit.load(scripted).state_dict())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript", "folder"])
def test_a_trusted_file_is_the_one_whose_digest_was_compared(
    kind: str, tmp_path: Path, scripted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file takes the name between the digest and the unpickling."""
    model = filled(nn.Linear(4, 2))
    (folder := tmp_path / "run").mkdir()
    path = scripted if kind == "torchscript" else save(model, folder / "a.pth", legacy=kind == "legacy")
    other = save(nn.Linear(4, 2), tmp_path / "b.other", legacy=kind == "legacy")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    compare = OpenedFile.verify

    def swap(self: OpenedFile, *args: Any, **kwargs: Any) -> None:
        other.replace(path)
        compare(self, *args, **kwargs)

    monkeypatch.setattr(OpenedFile, "verify", swap)
    given = {"trust": True, "sha256": digest}
    loaded = carry_out(None, folder if kind == "folder" else path, checkpoint=given)
    assert not other.exists()
    if kind == "torchscript":
        assert isinstance(loaded.model, torch.jit.ScriptModule)
    else:
        assert_same_state(loaded.model, model.state_dict())


def test_a_trusted_file_that_is_rewritten_after_its_digest_was_compared_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(filled(nn.Linear(4, 2)), tmp_path / "a.pth")
    compare = OpenedFile.verify

    def rewrite(self: OpenedFile, *args: Any, **kwargs: Any) -> None:
        compare(self, *args, **kwargs)
        path.write_bytes(path.read_bytes())

    monkeypatch.setattr(OpenedFile, "verify", rewrite)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(CheckpointError, match=r"changed while it was being read \(same size, written since\)"):
        carry_out(None, path, checkpoint={"trust": True, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def test_trust_makes_no_model_of_a_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ConfigError, match=r"holds no whole pickled model\. In the file:"):
        carry_out(None, path, checkpoint={"trust": True})


LINEAR = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}
STRIPPED = {"first": {"strip": "fc."}}


class Outer:
    class Settings:
        def __init__(self) -> None:
            self.lr = 0.1

    class Kind(enum.Enum):
        SMALL = 1

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 1)


OWN = (Outer, Outer.Settings)


class ByValue(pickle.Pickler):
    """Writes classes as dill and cloudpickle do: as calls that make them anew."""

    def reducer_override(self, found: Any) -> Any:
        return (types.new_class, (found.__name__, ())) if found in OWN else NotImplemented


BESIDE: dict[str, tuple[Any, str]] = {
    "an object of a class in a class": (
        Outer.Settings(),
        "tests.builder.test_pickled_models.Outer.Settings (1 attribute)",
    ),
    "an enumeration in a class": (Outer.Kind.SMALL, "tests.builder.test_pickled_models.Outer.Kind"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("what", BESIDE)
def test_weights_load_next_to(what: str, legacy: bool, protocol: int, tmp_path: Path) -> None:
    found, told = BESIDE[what]
    content = {"state_dict": filled(nn.Linear(2, 1)).state_dict(), "settings": found}
    path = tmp_path / "a.pt"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    loaded = carry_out(LINEAR, path, checkpoint={"key": "state_dict"})
    assert_same_state(loaded.model, content["state_dict"])
    part = loaded.report.parts[""]
    assert part.beside == {"settings": told}
    assert part.dangers == (["builtins.getattr"] if protocol == 2 else [])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_weights_load_next_to_an_object_whose_class_is_written_out(protocol: int, tmp_path: Path) -> None:
    content = {"state_dict": filled(nn.Linear(2, 1)).state_dict(), "settings": Outer.Settings(), "kind": Outer}
    path, module = tmp_path / "a.pt", types.SimpleNamespace(Pickler=ByValue, __name__="by_value")
    torch.save(content, path, pickle_module=module, pickle_protocol=protocol)
    loaded = carry_out(LINEAR, path, checkpoint={"key": "state_dict"})
    assert loaded.report.parts[""].beside["settings"] == "types.new_class(…) (1 attribute)"


def test_the_weights_of_a_whole_model_load_whose_class_stands_in_a_class(tmp_path: Path) -> None:
    path = save(filled(Outer.Net()), tmp_path / "a.pt")
    loaded = carry_out(LINEAR, path, rules=STRIPPED)
    assert_same_state(loaded.model, {k.removeprefix("fc."): v for k, v in filled(Outer.Net()).state_dict().items()})
    with pytest.raises(CheckpointError, match=r"names builtins\.getattr, which no model needs and an attack would use"):
        carry_out(None, path)


class OldParameter(nn.Parameter):
    """Pickles as parameters did up to torch 0.4."""

    state: Any = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        flags = () if self.state else (self.requires_grad,)
        return (nn.Parameter, (self.data, *flags), *([self.state] if self.state else []))


def old_model(state: Any) -> nn.Module:
    """A model whose weight is frozen, its bias tied to that of another layer."""
    first, second = nn.Linear(3, 2), nn.Linear(2, 2)
    model = filled(nn.Sequential(first, second))
    for layer in (first, second):
        for name, value in list(layer.named_parameters()):
            old = OldParameter(value.data, requires_grad=name == "bias")
            old.state = state and (name == "bias", False, OrderedDict())
            layer._parameters[name] = old
    second._parameters["bias"] = first._parameters["bias"]
    return model


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("state", [False, True], ids=["torch 0.4", "torch 0.3"])
def test_parameters_of_the_oldest_torch_are_tensors(state: bool, legacy: bool, tmp_path: Path) -> None:
    model = old_model(state)
    path = save(model, tmp_path / "old.pth", legacy=legacy)
    values = {name: value.data for name, value in model.state_dict(keep_vars=True).items()}
    node = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    loaded = carry_out(node, path, rules={"first": {"keep": "0.*"}, "second": {"strip": "0."}})
    assert_same_state(loaded.model, {name: values[f"0.{name}"] for name in ("weight", "bias")})
    names = needed(path)
    assert not any("arameter" in name or "ariable" in name for name in names)
    whole = carry_out(None, path, checkpoint={"allow_globals": names})
    assert_same_state(whole.model, values)
    told = {name: value.requires_grad for name, value in whole.model.named_parameters()}
    assert told == {"0.weight": False, "0.bias": True, "1.weight": False}  # the second bias is the first


def test_what_is_called_a_parameter_and_is_given_no_tensor_stays_an_object(tmp_path: Path) -> None:
    calls = {"text": Call(nn.Parameter, "x"), "state": Call(nn.Parameter, torch.ones(1), 3)}
    model = {"state_dict": filled(nn.Linear(2, 1)).state_dict()}
    path = save(model | calls, tmp_path / "a.pth")
    loaded = carry_out(LINEAR, path, checkpoint={"key": "state_dict"})
    assert loaded.report.parts[""].beside["text"] == "torch.nn.parameter.Parameter (x)"


NET = Container("module", "my_pkg.Backbone")
ROOT = Container(
    "dict", "dict", {"hyper_parameters": Container("dict", "dict", {"net": NET, "opts": Container("dict", "dict")})}
)


def hint(text: str) -> str:
    return with_classes(ConfigError("missing", *map(Fix, text.split("\n"))), [ROOT]).hint


def test_the_class_that_a_file_names_for_an_argument_is_offered() -> None:
    assert hint("+model.net=…\nmode=scaffold") == "+model.net._target_=my_pkg.Backbone\nmode=scaffold"


def test_an_argument_for_which_it_names_none_stays_as_it_is() -> None:
    assert hint("+model.opts=… +model.width=…") == "+model.opts=… +model.width=…"


def test_another_refusal_is_the_same_one() -> None:
    error = ConfigError("missing", Fix("model.width=3"))

    assert with_classes(error, [ROOT]) is error
