from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from loader.config.compose import anchored, compose, hydra_aside, plain
from loader.config.parse import parse_job
from loader.errors import ConfigError
from loader.files import path as files_path
from loader.files.path import conf_dir
from loader.schema import JobConfig
from tests.command import run_loader

# Takes `module.` off at the start, and behind torch.compile's own name.
WRAPPER = {"regex": r"^((?:_orig_mod\.)*)module\.", "to": r"\1"}


def test_the_defaults_are_plain_data_and_equal_the_parsers() -> None:
    config = compose()
    assert "hydra" not in config
    assert "experiment" not in config
    job = parse_job(config)
    assert job.model == {"_target_": "loader.examples.SimpleNet"}
    assert job.checkpoint.path == "pkg://loader.examples/weights/simple_net.safetensors"
    standard = JobConfig(model=job.model)
    standard.checkpoint.path = job.checkpoint.path
    assert job == standard


def test_every_key_is_in_the_config() -> None:
    def keys(node: Any, prefix: str = "") -> set[str]:
        if not isinstance(node, dict) or not node:
            return set()
        return {name for key, value in node.items() for name in {f"{prefix}{key}", *keys(value, f"{prefix}{key}.")}}

    from loader.config.sections import known_keys

    below_null = {name for name in known_keys() if name.startswith(("evaluate.", "track."))}
    assert keys(compose(["model=null"])) == set(known_keys()) - {"experiment", *below_null}
    assert {"evaluate.data", "evaluate.batch_size", "evaluate.expect", "track.uri"} <= below_null


@pytest.mark.parametrize("experiment", ["state_dict", "two_models", "whole_model"])
@pytest.mark.parametrize("spelling", ["experiment", "+experiment"])
def test_both_spellings_of_an_experiment(experiment: str, spelling: str) -> None:
    config = compose([f"{spelling}={experiment}"])
    assert config == compose([f"experiment={experiment}"])
    assert config["checkpoint"]["path"].startswith("examples/")


@pytest.mark.parametrize("experiment", ["null", "two_models", "ddp"])
def test_literals_replace_the_values_of_an_experiment(experiment: str) -> None:
    chosen = [] if experiment == "null" else [f"experiment={experiment}"]
    config = compose(
        [
            *chosen,
            "model={_target_: my_pkg.Net, sizes: [1, 2]}",
            "parts={head: {key: h}}",
            "rules={mine: {strip: x.}}",
            "verify.input={shape: [1, 3]}",
            "checkpoint={path: runs/epoch=3.ckpt}",
            "checkpoint.check=full",
            "model.width=3",
            "rules.mine.optional=true",
        ]
    )
    assert config["model"] == {"_target_": "my_pkg.Net", "sizes": [1, 2], "width": 3}
    assert config["parts"] == {"head": {"key": "h"}}
    assert config["rules"] == {"mine": {"strip": "x.", "optional": True}}
    assert config["verify"]["input"] == {"shape": [1, 3]}
    assert config["checkpoint"] == {"path": "runs/epoch=3.ckpt", "check": "full"}
    assert parse_job(config).parts["head"].checkpoint.path == "runs/epoch=3.ckpt"


def test_another_model_forgets_the_input_of_the_one_it_replaces() -> None:
    assert compose(["experiment=whole_model"])["verify"]["input"] == {"shape": [1, 1, 28, 28]}
    assert compose(["experiment=whole_model", "model={_target_: a.B}"])["verify"]["input"] is None
    assert compose(["experiment=whole_model", "model=linear"])["verify"]["input"] is None


def test_the_model_out_of_the_file_keeps_the_input() -> None:
    config = compose(["experiment=whole_model", "model=null"])
    assert config["model"] is None
    assert config["verify"]["input"] == {"shape": [1, 1, 28, 28]}


def test_a_list_replaces_a_mapping() -> None:
    config = compose(["experiment=two_models", "verify.input=[{shape: [1, 3]}, {shape: [1]}]"])
    assert config["verify"]["input"] == [{"shape": [1, 3]}, {"shape": [1]}]


def test_a_users_model_inherits_nothing() -> None:
    config = compose(["model._target_=my_pkg.Net", "+model.width=3", "checkpoint.path=my.pth"])
    assert config["model"] == {"_target_": "my_pkg.Net", "width": 3}
    assert config["checkpoint"] == {**compose()["checkpoint"], "path": "my.pth"}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("[]", {}),
        ("ddp", {"ddp": WRAPPER}),
        ("[ddp,compile]", {"ddp": WRAPPER, "compile": {"strip": "_orig_mod.", "anywhere": True}}),
        ("[compile,ddp]", {"compile": {"strip": "_orig_mod.", "anywhere": True}, "ddp": WRAPPER}),
        ("lightning", {"lightning": {"strip": "model."}}),
        ("fsdp", {"fsdp": {"strip": "_fsdp_wrapped_module.", "anywhere": True}}),
        ("dataparallel", {"dataparallel": WRAPPER}),
        ("ema", {"ema_counter": {"drop": "n_averaged"}, "ema": {"strip": "module."}}),
    ],
)
def test_ready_made_rules_apply_in_the_order_they_are_chosen(rules: str, expected: dict[str, Any]) -> None:
    config = compose([f"rules={rules}"])
    assert list(config["rules"].items()) == list(expected.items())
    assert not any(rule.optional for rule in (parse_job(config).rules or {}).values())


def test_rules_can_be_added_and_changed_by_name() -> None:
    config = compose(
        ["rules=[ddp]", r"rules.mine.regex=^layers\.(\d+)\.", r"rules.mine.to=blocks.\1.", "rules.ddp.optional=true"]
    )
    assert config["rules"] == {
        "ddp": {**WRAPPER, "optional": True},
        "mine": {"regex": r"^layers\.(\d+)\.", "to": r"blocks.\1."},
    }


@pytest.mark.parametrize("name", ["runs/epoch=3-step=10.ckpt", "a b (1).pt", "it's $5 {x} \\ #.pt", "1e5", "${x}.pt"])
def test_paths_arrive_as_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert compose([f"checkpoint.path={name}"])["checkpoint"]["path"] == name
    assert compose([f"verify.golden={name}"])["verify"]["golden"] == name


def test_a_glob_finds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "epoch=3.ckpt").touch()
    assert compose(["checkpoint.path=glob(*.ckpt)"])["checkpoint"]["path"] == "epoch=3.ckpt"


def test_rules_of_a_part_come_from_the_group_too() -> None:
    config = compose(["experiment=two_models", "+rules@parts.a.rules=[ddp]"])
    assert config["parts"]["a"] == {"key": "modelA_state_dict", "rules": {"ddp": WRAPPER}}


def test_a_value_that_must_be_given_is_left_to_the_parser() -> None:
    config = compose(["checkpoint=file", "model={_target_: a.B, width: ???}"])
    assert (config["checkpoint"]["path"], config["model"]["width"]) == ("???", "???")
    with pytest.raises(ConfigError, match=r"'checkpoint\.path' is required; 'model\.width' is required"):
        parse_job(config)


def test_entries_of_lists_are_changed_in_place() -> None:
    config = compose(["experiment=whole_model", "model._args_.0.out_channels=5", "model._args_.0.groups=1"])
    assert config["model"]["_args_"][0] == {
        "_target_": "torch.nn.Conv2d",
        "in_channels": 1,
        "out_channels": 5,
        "kernel_size": 3,
        "groups": 1,
    }


def test_an_interpolation_that_leads_nowhere() -> None:
    with pytest.raises(ConfigError, match="cannot be resolved") as caught:
        plain(OmegaConf.create({"checkpoint": {"path": "${nope.x}"}}))
    assert (
        caught.value.message
        == "the config cannot be resolved (at 'checkpoint.path'): Interpolation key 'nope.x' not found"
    )
    assert caught.value.hint == "checkpoint.path=VALUE"


def test_an_incomplete_copy_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_path, "__file__", str(tmp_path / "loader" / "files" / "path.py"))
    with pytest.raises(ConfigError, match="incomplete") as caught:
        conf_dir()
    assert caught.value.message.startswith(
        f"the folder conf with config.yaml is neither in {tmp_path / 'loader'} nor next to it"
    )


def test_the_configs_of_an_installed_copy_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, beside = tmp_path / "loader" / "conf", tmp_path / "conf"
    monkeypatch.setattr(files_path, "__file__", str(tmp_path / "loader" / "files" / "path.py"))
    for folder in (beside, inside):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        assert conf_dir() == folder


def test_inside_a_running_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.yaml").write_text("x: 1\nhydra:\n  run: {dir: out}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["app.py"])
    seen: list[Any] = []

    @hydra.main(config_path=str(tmp_path), config_name="app", version_base="1.2")
    def app(config: DictConfig) -> None:
        before = (GlobalHydra.instance().hydra, HydraConfig.get(), VersionBase.instance().version_base)
        seen.append(compose(["model=linear"])["model"]["in_features"])
        with pytest.raises(ConfigError, match="no option"):
            compose(["model=nope"])
        assert (GlobalHydra.instance().hydra, HydraConfig.get(), VersionBase.instance().version_base) == before
        assert JobRuntime.instance().get("name") == before[1].job.name != "loader"
        seen.append(hydra.compose("app", overrides=["x=2"]).x)

    app()
    assert seen == [10, 2]


def test_without_an_application_nothing_is_left_behind() -> None:
    version = VersionBase.instance().version_base
    compose()
    assert not GlobalHydra.instance().is_initialized()
    assert VersionBase.instance().version_base is version


def test_two_threads_do_not_disturb_each_other() -> None:
    found: dict[str, Any] = {}

    def work(name: str) -> None:
        found[name] = compose([f"model={name}"])["model"]

    threads = [threading.Thread(target=work, args=(name,)) for name in ("linear", "custom", "simple_net") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: model["_target_"].rpartition(".")[2] for name, model in found.items()} == {
        "linear": "LinearModel",
        "custom": "CustomModel",
        "simple_net": "SimpleNet",
    }


def test_a_running_hydra_is_set_aside_and_restored() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        running, base = GlobalHydra.instance(), VersionBase.instance()
        kept: Any = OmegaConf.create({"hydra": {"mode": "RUN"}})
        HydraConfig.instance().cfg = kept
        try:
            with hydra_aside():
                assert not GlobalHydra.instance().is_initialized()
                assert not HydraConfig.initialized()
                initialize_config_dir(str(conf_dir()), version_base="1.2").__enter__()
                assert GlobalHydra.instance() is not running
            assert GlobalHydra.instance() is running
            assert running.is_initialized()
            assert VersionBase.instance() is base
            assert HydraConfig.instance().cfg is kept
        finally:
            HydraConfig.instance().cfg = None


COMPOSES = """
import hydra
from torch import nn
from hydra.core.global_hydra import GlobalHydra
if not GlobalHydra.instance().is_initialized():
    hydra.initialize(config_path="zz_configs", version_base="1.2")
class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, hydra.compose("net").width)
"""


def test_a_constructor_may_compose_its_own_config(tmp_path: Path) -> None:
    (tmp_path / "zz_composes.py").write_text(COMPOSES)
    (tmp_path / "zz_configs").mkdir()
    (tmp_path / "zz_configs" / "net.yaml").write_text("width: 2\n")
    torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "a.pt")
    done = run_loader("model._target_=zz_composes.Net", "checkpoint.path=a.pt", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.report["keys"]["loaded"] == 2


def test_paths_of_a_config_lead_from_the_folder_they_were_typed_in() -> None:
    config = {
        "model": {"_target_": "my.Net", "path": "own.txt"},
        "checkpoint": {"path": "runs/a.pth", "key": "path"},
        "parts": {"a.b": {"path": "../b.pth", "key": None}, "c": {"path": None}},
        "verify": {"golden": "g.safetensors", "input": [{"path": "x.pt"}, {"shape": [1], "value": "path"}]},
        "convert": {"path": "new.safetensors"},
        "scaffold": {"path": "conf/experiment/"},
        "seed": 0,
    }
    assert anchored(config, "/typed") == {
        "model": {"_target_": "my.Net", "path": "own.txt"},
        "checkpoint": {"path": "/typed/runs/a.pth", "key": "path"},
        "parts": {"a.b": {"path": "/typed/../b.pth", "key": None}, "c": {"path": None}},
        "verify": {
            "golden": "/typed/g.safetensors",
            "input": [{"path": "/typed/x.pt"}, {"shape": [1], "value": "path"}],
        },
        "convert": {"path": "/typed/new.safetensors"},
        "scaffold": {"path": "/typed/conf/experiment/"},
        "seed": 0,
    }
    assert anchored({"verify": {"input": {"image": {"path": "x.pt"}}}}, "/typed") == {
        "verify": {"input": {"image": {"path": "/typed/x.pt"}}}
    }


def test_values_that_are_not_relative_paths_are_unchanged() -> None:
    for path in ("/a.pth", "~/a.pth", "https://h/a.pth", "https:/h/a.pth", "pkg://p/a.pth", "", "???"):
        assert anchored({"checkpoint": {"path": path}}, "/typed") == {"checkpoint": {"path": path}}
    assert anchored({"verify": {"golden": "auto"}}, "/typed") == {"verify": {"golden": "auto"}}
