"""The loader from Python and from other people's Hydra apps."""

from __future__ import annotations

import contextlib
import gc
import pickle
import random
import sys
import textwrap
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import loader
from loader import (
    CheckpointError,
    ConfigError,
    DeviceError,
    FitError,
    Loaded,
    LoaderError,
    Report,
    VerificationError,
    load,
    load_into,
    load_model,
)
from loader.text.lines import Fix
from tests.command import REPOSITORY, run
from tests.jobs import assert_same_state, checks, same_tensor, save, snapshot, target
from tests.models import Lazy, Pair, Two, Typed, filled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


QUIET = {"device": "cpu", "verify": {"input": {"shape": [1, 4]}}}

# loader.load


def test_load_takes_overrides_as_on_the_command_line(path: Path) -> None:
    overrides = ["model._target_=tests.models.Two", f"checkpoint.path={path}", "device=cpu"]
    loaded = load(overrides)
    assert isinstance(loaded, Loaded)
    assert_same_state(loaded.model, filled(Two()).state_dict())
    assert not loaded.model.training
    assert (loaded.report.status, loaded.report.exit_code, loaded.report.overrides) == ("ok", 0, overrides)


def test_load_without_anything_loads_the_shipped_model() -> None:
    loaded = load()
    assert checks(loaded.report)["golden record"]
    assert loaded.report.verification.outputs[0]["shape"][1] == 10


def test_load_takes_a_partial_config(path: Path) -> None:
    loaded = load({"model": target("Two", activation="tanh"), "checkpoint": {"path": str(path)}, **QUIET})
    assert loaded.model.activation == "tanh"
    assert loaded.report.config["seed"] == 0
    assert loaded.report.config["model"] == target("Two", activation="tanh")


def test_load_takes_a_dictconfig_with_interpolations(path: Path) -> None:
    config = OmegaConf.create(
        {"model": target("Two"), "file": str(path), "checkpoint": {"path": "${file}"}, "device": "cpu", "verify": {}}
    )
    with pytest.raises(ConfigError, match="unknown config key 'file'"):
        load(config)
    config = OmegaConf.create({"model": target("Two"), "checkpoint": {"path": str(path)}, "rules": {}, "device": "cpu"})
    before = OmegaConf.to_yaml(config)
    assert_same_state(load(config).model, filled(Two()).state_dict())
    assert OmegaConf.to_yaml(config) == before


def test_load_takes_a_complete_config(path: Path) -> None:
    first = load({"model": target("Two"), "checkpoint": {"path": str(path)}, **QUIET})
    again = load(first.report.config)
    assert again.report.config == first.report.config
    assert again.report.verification.fingerprint == first.report.verification.fingerprint


def test_load_takes_a_list_and_no_text() -> None:
    with pytest.raises(ConfigError) as refusal:
        load("device=cpu")
    assert refusal.value.message == "loader.load takes a list of overrides, not the string 'device=cpu'"
    assert refusal.value.hint == "loader.load(['device=cpu'])"


@pytest.mark.parametrize(
    ("config", "kind", "told"),
    [
        (["sede=1"], ConfigError, "sede"),
        (["+typo=1"], ConfigError, "unknown config key 'typo'"),
        ({"typo": 1}, ConfigError, "unknown config key 'typo'"),
        ({"checkpoint": {"path": "/nowhere.pt"}}, CheckpointError, "/nowhere.pt"),
        ({"model": target("Two")}, FitError, "does not fit"),
        (["device=warp"], DeviceError, "'warp' is not a device"),
        ({"verify": {"expect": {"shape": [1, 2, 3]}}}, VerificationError, "output shape"),
    ],
)
def test_whatever_goes_wrong_is_raised(config: Any, kind: type[LoaderError], told: str) -> None:
    with pytest.raises(kind) as refusal:
        load(config)
    assert told in refusal.value.message


def test_load_leaves_the_process_as_it_found_it(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    square = save(filled(nn.Linear(4, 4)).state_dict(), tmp_path / "square.pt")
    before = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()), torch.get_default_dtype())
    files = sorted(tmp_path.rglob("*"))
    assert not GlobalHydra.instance().is_initialized()
    load({"model": target("Noisy", in_features=4, out_features=4), "checkpoint": {"path": str(square)}})
    with pytest.raises(FitError):
        load({"model": target("Pair"), "checkpoint": {"path": str(path)}})
    after = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()), torch.get_default_dtype())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert not GlobalHydra.instance().is_initialized()
    assert sorted(tmp_path.rglob("*")) == files


def test_a_model_is_freed_with_its_last_reference(path: Path) -> None:
    loaded = load({"model": target("Two"), "checkpoint": {"path": str(path)}, **QUIET})
    reference = weakref.ref(loaded.model)
    del loaded
    gc.collect()
    assert reference() is None


def test_a_refused_model_is_freed_with_its_refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[nn.Module]] = []
    original = Two.__init__

    def watched(self: Two, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Two, "__init__", watched)
    config = {"model": target("Two"), "checkpoint": {"path": str(path)}, "verify": {"input": {"shape": [1, 9]}}}
    with contextlib.suppress(VerificationError):
        load(config)
    gc.collect()
    assert made
    assert all(reference() is None for reference in made)


def test_jobs_in_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    files = [save(filled(Two(), seed).state_dict(), tmp_path / f"{seed}.pt") for seed in range(4)]
    found: dict[int, nn.Module] = {}
    plain: list[nn.Linear] = []

    def work(seed: int) -> None:
        found[seed] = load_model(target("Two"), files[seed], device="cpu", verify={"input": {"shape": [1, 4]}})
        live = Two()
        load_into(live, files[seed])
        assert_same_state(live, found[seed].state_dict())
        plain.append(nn.Linear(3, 3))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for seed, model in found.items():
        assert_same_state(model, filled(Two(), seed).state_dict())
    parameters = [parameter for one in plain for parameter in one.parameters()]
    assert all(not parameter.is_meta and bool(parameter.abs().sum() > 0) for parameter in parameters)


# loader.load_model


def test_load_model_gives_a_model_in_eval_mode(path: Path) -> None:
    for checkpoint in (path, str(path), {"path": str(path)}, OmegaConf.create({"path": str(path)})):
        model = load_model(target("Two"), checkpoint, device="cpu")
        assert_same_state(model, filled(Two()).state_dict())
        assert not model.training


def test_load_model_runs_a_forward_pass_only_when_asked(tmp_path: Path) -> None:
    path = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    load_model(target("Behaving", how="raise"), path, device="cpu")
    with pytest.raises(VerificationError, match="cannot broadcast"):
        load_model(target("Behaving", how="raise"), path, device="cpu", verify={"input": {"shape": [1, 2]}})


def test_load_model_takes_what_the_config_takes(tmp_path: Path) -> None:
    saved: Any = filled(Pair())
    content = {"net": {f"module.{key}": value for key, value in saved.backbone.state_dict().items()}}
    model = load_model(
        target("Pair"),
        {"path": str(save(content, tmp_path / "body.pt")), "key": "net"},
        parts={"backbone": {"rules": {"ddp": {"strip": "module."}}}},
        allow={"missing": ["head.*"]},
        device="cpu",
        dtype="float64",
        seed=4,
        trusted_targets=["tests.models.*"],
    )
    torch.manual_seed(4)
    assert torch.equal(model.get_parameter("head.weight"), Pair().head.weight.double())
    with pytest.raises(ConfigError, match=r"tests\.models\.Pair"):
        load_model(target("Pair"), tmp_path / "body.pt", trusted_targets=["torch.nn.*"])


def test_load_model_takes_a_whole_model_out_of_a_file(tmp_path: Path) -> None:
    path = save(filled(Two()), tmp_path / "whole.pt")
    model = load_model(None, {"path": str(path), "trust": True}, device="cpu")
    assert_same_state(model, filled(Two()).state_dict())


def test_load_model_loads_into_a_module_that_is_built_already(path: Path) -> None:
    live = Two()
    weight = live.first.weight
    assert load_model(live, path, device="cpu") is live
    assert live.first.weight is weight
    assert not live.training
    assert_same_state(live, filled(Two()).state_dict())


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16"])
def test_load_model_casts_a_module_that_is_built_already(dtype: str, path: Path) -> None:
    model = load_model(Two(), path, device="cpu", dtype=dtype, verify={"input": {"shape": [1, 4]}})
    assert same_tensor(model.get_parameter("first.weight"), filled(Two()).get_parameter("first.weight").bfloat16())


def test_a_cast_of_a_built_module_that_makes_inf_is_refused(tmp_path: Path) -> None:
    path = save({"weight": torch.full((2, 3), 1e6), "count": torch.arange(3)}, tmp_path / "big.pt")
    live = Typed()
    before = snapshot(live)
    with pytest.raises(FitError, match=r"weight \(float32 → float16: 6 elements become inf or nan\)"):
        load_model(live, path, device="cpu", dtype="float16")
    assert snapshot(live) == before


def test_a_built_module_cannot_take_the_files_dtypes(path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_model(Two(), path, dtype="checkpoint")
    assert refusal.value.message == (
        "dtype=checkpoint needs the model as a config; a module that is built already has its dtypes"
    )
    assert refusal.value.hint == "_recursive_: false   # next to _target_: loader.load_model"
    with pytest.raises(ConfigError, match="'dtype' is 'floaty'"):
        load_model(Two(), path, dtype="floaty")


@pytest.mark.parametrize("recursive", [True, False])
def test_load_model_as_a_target_in_another_config(recursive: bool, path: Path) -> None:
    config = OmegaConf.create(
        {
            "net": {
                "_target_": "loader.load_model",
                "_recursive_": recursive,
                "model": target("Two"),
                "checkpoint": {"path": str(path)},
                "rules": {},
                "device": "cpu",
            }
        }
    )
    assert_same_state(instantiate(config.net), filled(Two()).state_dict())


HOST = """
import hydra, loader, torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(config):
    before = GlobalHydra.instance().hydra
    folder = HydraConfig.get().runtime.output_dir
    loaded = loader.load(["device=cpu"])
    assert loaded.report.status == "ok"
    net = instantiate({"_target_": "loader.load_model", "_recursive_": False,
                       "model": {"_target_": "loader.examples.SimpleNet"},
                       "checkpoint": loaded.report.config["checkpoint"], "device": "cpu"})
    assert torch.equal(net.fc1.weight, loaded.model.fc1.weight)
    try:
        loader.load(["sede=1"])
    except loader.ConfigError:
        pass
    assert GlobalHydra.instance().hydra is before
    assert HydraConfig.get().runtime.output_dir == folder
    print("done", sorted(config))

main()
"""


def test_everything_works_inside_a_running_hydra_application(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(textwrap.dedent(HOST))
    done = run(sys.executable, "app.py", "+width=3", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done ['width']"
    assert list(tmp_path.rglob("report.json")) == []


# loader.load_into


def test_load_into_takes_a_path_a_node_or_a_state_dict(path: Path) -> None:
    state = filled(Two()).state_dict()
    for checkpoint in (path, str(path), {"path": str(path)}, state, dict(state)):
        live = Two()
        report = load_into(live, checkpoint)
        assert isinstance(report, Report)
        assert_same_state(live, state)
        assert live.training
        assert (report.status, report.keys.loaded) == ("ok", 4)
        assert set(checks(report)) == {"complete"}


def test_load_into_reports_a_state_dict_in_memory(path: Path) -> None:
    report = load_into(Two(), {**filled(Two()).state_dict(), "epoch": 3})
    part = report.parts[""]
    assert (part.path, part.format, part.tensors, part.bytes) == ("<state dict in memory>", "memory", 4, 160)
    assert part.other == {"epoch": "int"}
    assert report.model is not None
    assert (report.model.target, report.model.build) == ("tests.models.Two", "live")


def test_load_into_takes_rules_parts_and_allowances(tmp_path: Path) -> None:
    saved: Any = filled(Pair())
    state = {f"module.{key}": value for key, value in saved.backbone.state_dict().items()}
    live = Pair()
    head = live.head.weight.detach().clone()
    report = load_into(
        live,
        state,
        parts={"backbone": {"rules": {"ddp": {"strip": "module."}}}},
        allow={"missing": ["head.*"]},
        verify={"input": {"shape": [1, 4]}},
    )
    assert_same_state(live.backbone, saved.backbone.state_dict())
    assert same_tensor(live.head.weight, head)
    assert report.parts["backbone"].rules == [{"name": "ddp", "hits": 4}]
    assert checks(report)["read back"]


def test_load_into_takes_keys_that_are_no_text() -> None:
    live = nn.ParameterList([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))])
    load_into(live, {0: torch.ones(1), 1: torch.ones(1)})  # type: ignore[dict-item]
    assert [parameter.item() for parameter in live] == [1.0, 1.0]


def test_load_into_needs_memory_to_load_into() -> None:
    with torch.device("meta"):
        live = Two()
    with pytest.raises(ConfigError) as refusal:
        load_into(live, filled(Two()).state_dict())
    assert refusal.value.message == (
        "4 tensors of the module have no memory to load into: first.weight, first.bias, second.weight, second.bias"
    )
    assert refusal.value.hint == (
        "module.to_empty(device='cpu')   # gives it some\nloader.load_model(…)   # builds and loads in one go"
    )
    mixed = nn.ModuleDict({"lazy": Lazy(), "empty": nn.Linear(2, 2, bias=False, device="meta")})
    with pytest.raises(ConfigError, match=r"^1 tensor of the module has no memory to load into: empty\.weight"):
        load_into(mixed, {})


def test_load_into_refuses_a_mapping_that_is_neither() -> None:
    with pytest.raises(ConfigError, match=r"unknown config key 'checkpoint\.state_dict'"):
        load_into(Two(), {"state_dict": filled(Two()).state_dict()})
    with pytest.raises(ConfigError, match=r"'checkpoint\.path' is required"):
        load_into(Two(), {})


def test_memory_has_no_digest() -> None:
    with pytest.raises(CheckpointError) as refusal:
        load_into(Two(), filled(Two()).state_dict(), parts={"": {"check": "full"}})
    assert refusal.value.message == "a state dict in memory has no digest"


def test_a_module_without_tensors_loads_nothing() -> None:
    with pytest.raises(FitError):
        load_into(nn.ReLU(), {"weight": torch.ones(1)}, allow={"unexpected": ["*"]})


# Errors and names.

ERRORS = [
    (ConfigError, 2, ValueError), (CheckpointError, 3, ValueError), (FitError, 4, ValueError),
    (VerificationError, 5, RuntimeError), (DeviceError, 6, RuntimeError),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "code", "base"), ERRORS)
def test_errors_carry_message_hint_and_code_across_processes(
    kind: type[LoaderError], code: int, base: type[Exception]
) -> None:
    error = kind("what was found", Fix("what to type"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.hint, copy.exit_code) == ("what was found", "what to type", code)
    assert str(copy) == "what was found\nwhat to type"
    assert isinstance(copy, base)


def test_a_refusal_with_its_plan_can_be_pickled(path: Path) -> None:
    with pytest.raises(FitError) as refusal:
        load_into(Pair(), path)
    copy = pickle.loads(pickle.dumps(refusal.value))
    assert copy.plan is not None
    assert copy.plan == refusal.value.plan


def test_the_public_names() -> None:
    for name in loader.__all__:
        assert getattr(loader, name).__doc__
    assert dir(loader) == loader.__all__
    with pytest.raises(AttributeError, match="module 'loader' has no attribute 'lod'"):
        loader.lod  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_hydra(tmp_path: Path) -> None:
    code = "import loader, sys; print([name for name in ('torch', 'hydra', 'omegaconf') if name in sys.modules])"
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.stdout.strip() == "[]", done.stderr


def test_jobs_in_threads_leave_the_random_state_as_it_was() -> None:
    # Both are within their jobs at once, and the one that came first leaves first.
    inside, may_end = threading.Event(), threading.Event()
    linear = filled(nn.Linear(2, 2)).state_dict()

    class Waiting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inside.set()
            assert may_end.wait(30)
            return super().forward(x)

    live = Waiting(2, 2)
    thread = threading.Thread(target=load_into, args=(live, linear), kwargs={"seed": 1, "verify": {}})
    state = torch.get_rng_state()

    class Ending(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            may_end.set()
            thread.join(30)
            return super().forward(x)

    torch.manual_seed(5)
    other = Ending(2, 2)
    torch.set_rng_state(state)
    thread.start()
    assert inside.wait(30)
    load_into(other, linear, seed=2, verify={})
    assert not thread.is_alive()
    assert torch.equal(torch.get_rng_state(), state)
