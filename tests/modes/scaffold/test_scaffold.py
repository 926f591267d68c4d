"""What `mode=scaffold` writes, and that it runs."""

from __future__ import annotations

import argparse
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import loader
from loader.errors import FitError
from loader.modes import lines
from loader.modes.scaffold import arguments
from tests.command import run_loader
from tests.jobs import save
from tests.models import filled
from tests.modes.scaffold import nets
from tests.suggest.sizes import builders

NETS = "tests.modes.scaffold.nets."
BUILDERS = "tests.suggest.sizes.builders."
TESTS = str(Path(__file__).resolve().parents[3])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scaffold(target: str, path: Path | str, *overrides: str) -> tuple[dict[str, Any], str]:
    """The config that is written, and its text."""
    typed = ["mode=scaffold", f"model._target_={NETS}{target}", f"checkpoint.path={path}", *overrides]
    report = loader.load(typed).report
    assert report.written is not None
    text = Path(report.written["path"]).read_text()
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False), text  # type: ignore[return-value]


def run(name: str, *overrides: str) -> nn.Module:
    """Loads what a written config says, without a process of its own."""
    written = OmegaConf.to_container(OmegaConf.load(f"conf/experiment/{name}.yaml"), resolve=True)
    assert isinstance(written, dict)
    model = written["model"] | dict(o.removeprefix("model.").split("=") for o in overrides)
    rules = [o["override /rules"] for o in written["defaults"] if "override /rules" in o]
    settings = {"rules": {"ddp": {"strip": "module."}}} if rules == [["ddp"]] else {"rules": written.get("rules", {})}
    node = {"model": model, "checkpoint": written["checkpoint"], "verify": {"forward": False}, "device": "cpu"}
    return loader.load(node | settings).model


def refuses_to_choose(name: str, *ways: str) -> None:
    """Runs what a written config says as the loader composes it, which has to name the ways and take none of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADER_CONFIG_DIR", "conf")
        with pytest.raises(FitError) as refusal:
            loader.load([f"experiment={name}"])
    assert set(ways) <= set(refusal.value.hint.splitlines()), refusal.value.hint


def test_a_nested_file_of_a_parallel_run_becomes_a_config_that_loads_it(tmp_path: Path) -> None:
    net = filled(nets.MLP(7, 33, 5, depth=4, bias=False))
    save(nets.ddp(net), tmp_path / "epoch=3-step=10.ckpt")
    made = run_loader(
        "mode=scaffold", f"model._target_={NETS}MLP", "checkpoint.path=epoch=3-step=10.ckpt", cwd=tmp_path,
        PYTHONPATH=TESTS,
    )  # fmt: skip

    assert made.code == 0, made.err
    line = "--config-dir conf experiment=epoch_3-step_10"
    assert f"run.py {line}\n" in made.out
    assert Path("conf/experiment/epoch_3-step_10.yaml").read_text().splitlines()[4:] == [
        "defaults:",
        "  - override /model: null",
        "  - override /checkpoint: file",
        "  - override /rules: [ddp]",
        "model:",
        "  _target_: tests.modes.scaffold.nets.MLP",
        "  in_features: 7   # from the shapes",
        "  hidden: 33       # from the shapes",
        "  out_features: 5  # from the shapes",
        "  depth: 4         # from the shapes",
        "  bias: false      # from the shapes",
        "  dropout: 0.0     # the default; no shape depends on it",
        "checkpoint:",
        '  path: "epoch=3-step=10.ckpt"',
        "  key: state_dict",
    ]
    ran = run_loader(*line.split(), cwd=tmp_path, PYTHONPATH=TESTS)
    assert ran.code == 0, ran.err
    assert ran.report["keys"]["loaded"] == len(net.state_dict())
    again = run_loader(
        "mode=scaffold", f"model._target_={NETS}MLP", "checkpoint.path=epoch=3-step=10.ckpt", cwd=tmp_path,
        PYTHONPATH=TESTS,
    )  # fmt: skip
    assert again.code == 2
    assert "epoch_3-step_10.yaml already exists and is not overwritten" in again.err
    assert "scaffold.path=conf/experiment/epoch_3-step_10_2.yaml" in again.err


def test_a_lightning_file_fills_in_what_no_shape_tells(tmp_path: Path) -> None:
    net = filled(nets.Transformer(11, 6, 3, 4))
    save(nets.lightning(net, vocab=11, d_model=6, nhead=3, num_layers=4, lr=1e-3), tmp_path / "last.ckpt")
    made = run_loader(
        "--config-dir", "mine", "mode=scaffold", f"model._target_={NETS}Transformer", "checkpoint.path=last.ckpt",
        cwd=_with(tmp_path, "mine"), PYTHONPATH=TESTS,
    )  # fmt: skip

    assert made.code == 0, made.err
    written = OmegaConf.load("mine/experiment/last.yaml")
    assert (written.model.nhead, written.model.num_layers) == (3, 4)
    text = Path("mine/experiment/last.yaml").read_text()
    assert "  nhead: 3        # from the file's hyper_parameters\n" in text
    assert "  num_layers: 4   # from the file's hyper_parameters, as the shapes say\n" in text
    ran = run_loader("--config-dir", "mine", "experiment=last", cwd=tmp_path, PYTHONPATH=TESTS)
    assert ran.code == 0, ran.err


def test_what_is_left_open_is_named_when_the_config_is_run(tmp_path: Path) -> None:
    save(filled(nets.Transformer(11, 6, 3, 4)).state_dict(), tmp_path / "net.pt")
    made = run_loader(
        "mode=scaffold", f"model._target_={NETS}Transformer", "checkpoint.path=net.pt", cwd=tmp_path, PYTHONPATH=TESTS
    )

    assert made.code == 0, made.err
    assert "required   model.nhead=???   # no shape depends on it\n" in made.out
    assert "  nhead: ???      # no shape depends on it\n" in Path("conf/experiment/net.yaml").read_text()
    line = ["--config-dir", "conf", "experiment=net"]
    ran = run_loader(*line, cwd=tmp_path, PYTHONPATH=TESTS)
    assert (ran.code, ran.err) == (2, "error  'model.nhead' is required\n  try  model.nhead=VALUE\n")
    assert run_loader(*line, "model.nhead=3", cwd=tmp_path, PYTHONPATH=TESTS).code == 0


def test_an_image_net_runs_without_a_forward_pass_where_the_proposed_input_does_not_fit(tmp_path: Path) -> None:
    save(filled(nets.ConvNet(1, 6, (2, 1, 3), 5, 20)).state_dict(), tmp_path / "conv.pt")
    written, text = scaffold("ConvNet", "conv.pt")

    assert written["model"]["blocks"] == [2, 1, 3]
    assert written["verify"] == {"forward": False}
    assert "proposed from stem (Conv2d): the forward pass raised RuntimeError" in text
    run("conv")


def test_given_arguments_stay_as_they_are(tmp_path: Path) -> None:
    save(filled(nets.Attention(12, 6, 16)).state_dict(), tmp_path / "a.pt")
    written, text = scaffold("Attention", "a.pt", "model.head_dim=16")

    assert written["model"] == {"_target_": f"{NETS}Attention", "head_dim": 16, "dim": 12, "heads": 6}
    assert "head_dim: 16  # as typed" in text


def test_what_several_arguments_decide_together_is_left_open(tmp_path: Path) -> None:
    save(filled(nets.Attention(12, 6, 16)).state_dict(), tmp_path / "a.pt")
    written, text = scaffold("Attention", "a.pt")

    assert written["model"]["dim"] == 12
    assert "???" in {written["model"]["heads"], written["model"]["head_dim"]}
    assert "fits, and other values do as well, with another" in text


def test_averages_beside_the_weights_leave_the_nested_key_open(tmp_path: Path) -> None:
    net = filled(nets.MLP(4, 5, 3))
    save({"model": net.state_dict(), "ema": filled(nets.MLP(4, 5, 3), 2).state_dict()}, tmp_path / "both.pt")
    written, text = scaffold("MLP", "both.pt")

    assert written["checkpoint"] == {"path": "both.pt", "key": "auto"}
    assert "# checkpoint.key=model\n# checkpoint.key=ema\n" in text
    refuses_to_choose("both", "checkpoint.key=ema", "checkpoint.key=model")


def test_averages_next_to_the_weights_under_prefixes_leave_the_rules_open(tmp_path: Path) -> None:
    raw, mean = filled(nets.MLP(4, 5, 3)).state_dict(), filled(nets.MLP(4, 5, 3), 2).state_dict()
    flat = {f"model.{key}": value for key, value in raw.items()}
    save({"sd": flat | {f"ema_model.{key}": value for key, value in mean.items()}}, tmp_path / "flat.pt")
    written, text = scaffold("MLP", "flat.pt")

    assert (written["checkpoint"], "rules" in written) == ({"path": "flat.pt", "key": "sd"}, False)
    assert "  - override /rules: [auto]\n" in text
    ways = [f'rules={{fit: {{keep: "{name}.*"}}, fit2: {{strip: "{name}."}}}}' for name in ("model", "ema_model")]
    refuses_to_choose("flat", *(f"'{way}'" for way in ways))


@pytest.mark.parametrize("last", [[], [torch.zeros(9)]], ids=["missing", "another shape"])
def test_an_average_next_to_weights_that_do_not_fit_is_not_written_as_the_weights(
    last: list[torch.Tensor], tmp_path: Path
) -> None:
    raw, mean = filled(nets.MLP(4, 5, 3)).state_dict(), filled(nets.MLP(4, 5, 3), 2).state_dict()
    name, _ = raw.popitem()
    save({"model": raw | dict(zip([name], last, strict=False)), "ema": mean}, tmp_path / "both.pt")
    sizes = ["model.in_features=4", "model.hidden=5", "model.out_features=3"]
    written, text = scaffold("MLP", "both.pt", *sizes)

    assert written["checkpoint"] == {"path": "both.pt", "key": "auto"}
    assert "# The file fits only with the average next to its weights; to load it, add:\n" in text
    refuses_to_choose("both", "checkpoint.key=ema")


def test_rules_that_are_not_ready_made_are_written_out(tmp_path: Path) -> None:
    net = filled(nets.MLP(4, 5, 3))
    save({f"net.inner.{key}": value for key, value in net.state_dict().items()}, tmp_path / "in.pt")
    written, _ = scaffold("MLP", "in.pt")

    assert written["rules"] == {"fit": {"strip": "net.inner."}}
    run("in")


def test_tensors_beside_the_models_own_are_allowed_by_name(tmp_path: Path) -> None:
    net = filled(nets.MLP(4, 5, 3))
    save(net.state_dict() | {"criterion.weight": torch.ones(3)}, tmp_path / "more.pt")
    written, _ = scaffold("MLP", "more.pt")

    assert written["allow"] == {"unexpected": ["criterion.*"]}


def test_settings_that_differ_from_the_defaults_are_kept(tmp_path: Path) -> None:
    save(filled(nets.MLP(4, 5, 3)).state_dict(), tmp_path / "s.pt")
    written, _ = scaffold(
        "MLP",
        "s.pt",
        "dtype=float64",
        "checkpoint.mmap=false",
        "trusted_targets=[tests.*]",
        "verify.input={shape: [2, 4]}",
    )

    assert written["dtype"] == "float64"
    assert written["trusted_targets"] == ["tests.*"]
    assert written["checkpoint"] == {"path": "s.pt", "mmap": False}
    assert written["verify"] == {"input": {"shape": [2, 4]}}


def test_an_argument_that_nothing_tells_is_left_open_and_said_to_be_untried(tmp_path: Path) -> None:
    save(nn.Linear(4, 3).state_dict(), tmp_path / "w.pt")
    written, text = scaffold("Wrapping", "w.pt")

    assert written["model"] == {"_target_": f"{NETS}Wrapping", "backbone": "???", "classes": "???"}
    assert written["checkpoint"]["key"] == "auto"
    assert (
        "# Not tried: the model cannot be built until its arguments are set and its packages are installed.\n" in text
    )


def test_a_file_of_another_architecture_is_refused_with_the_closest_build(tmp_path: Path) -> None:
    save(filled(nets.Attention(12)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(loader.FitError) as refused:
        scaffold("MLP", "a.pt")

    assert refused.value.message.startswith(
        "no arguments of tests.modes.scaffold.nets.MLP were found with which it has the"
    )
    assert not Path("conf").exists()


def test_the_default_model_that_does_not_fit_asks_for_a_class(tmp_path: Path) -> None:
    save(filled(nets.Attention(12)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(loader.FitError) as refused:
        loader.load(["mode=scaffold", "checkpoint.path=a.pt"])

    assert refused.value.hint == "model._target_=my_pkg.Net   # the class of the model in the file"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=null"], "mode=scaffold needs the class of the model"),
        (["model=embedded"], "model=embedded needs no config"),
        (["parts={a: {path: a.pt}}"], "mode=scaffold writes the config of one checkpoint"),
        (["scaffold.path=my.yaml"], "where the command line would not find it"),
        (["scaffold.path=conf/experiment/a b.yaml"], "is not a name that experiment=NAME accepts"),
        (["scaffold.path=conf/experiment/linear.yaml"], "experiment=linear is a shipped experiment"),
        (["model._target_=no_such_pkg.Net"], "there is no module 'no_such_pkg'"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    save(filled(nets.Attention(12)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(loader.ConfigError, match=message):
        loader.load(["mode=scaffold", "checkpoint.path=a.pt", *overrides])


def test_a_checkpoint_called_like_a_shipped_experiment_gets_another_name(tmp_path: Path) -> None:
    save(filled(nets.Attention(12)).state_dict(), tmp_path / "linear.pt")
    scaffold("Attention", "linear.pt")

    assert Path("conf/experiment/my_linear.yaml").is_file()


def test_the_report_names_the_file_and_the_line(tmp_path: Path) -> None:
    save(filled(nets.Attention(12)).state_dict(), tmp_path / "a.pt")
    report = loader.load(["mode=scaffold", f"model._target_={NETS}Attention", "checkpoint.path=a.pt"]).report

    assert report.written is not None
    assert report.written["files"] == ["conf/experiment/a.yaml"]
    assert report.written["bytes"] == Path("conf/experiment/a.yaml").stat().st_size
    shown = {label: text for label, text, _ in lines(report) if label}
    assert shown["load it"].endswith("--config-dir conf experiment=a")
    assert "keys" not in shown


def test_a_namespace_of_arguments_is_read_as_data(tmp_path: Path) -> None:
    net = filled(nets.Transformer(11, 6, 3, 4))
    settings = argparse.Namespace(nhead=3, model={"d_model": 6, "vocab": "${oc.env:HOME}"}, lr=0.1)
    save({"model": net.state_dict(), "args": settings}, tmp_path / "n.pt")
    written, text = scaffold("Transformer", "n.pt")

    assert written["model"]["nhead"] == 3
    assert written["model"]["vocab"] == 11
    assert "# from the file's args, as the shapes say" in text


def _with(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder


def test_a_search_that_is_cut_off_leaves_open_what_it_did_not_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "_MOST_SECONDS", 0)
    path = save(filled(nets.MLP(2, 16, 16)).state_dict(), tmp_path / "mlp.pt")
    node, _ = scaffold("MLP", path)

    assert "???" in node["model"].values()
    told = "16 fits; the search ended after 1 build, before every other value was tried"
    assert told in Path("conf/experiment/mlp.yaml").read_text()


def test_a_refusal_after_a_search_that_was_cut_off_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_MOST_SECONDS", 0)
    path = save(filled(nets.MLP(9, 16, 16)).state_dict(), tmp_path / "mlp.pt")

    with pytest.raises(FitError, match=r"the closest of 1 build, after which the search was cut off, was MLP\("):
        scaffold("MLP", path)


def test_a_file_that_says_pretrained_is_not_believed(tmp_path: Path) -> None:
    net = filled(builders.Recording(6, 3))
    hparams = {"depth": 3, "pretrained": True, "force_download": True}
    save({"state_dict": net.state_dict(), "hyper_parameters": hparams}, tmp_path / "r.pt")
    builders.CALLS.clear()
    written, _ = scaffold("Recording", "r.pt", f"model._target_={BUILDERS}Recording")

    assert written["model"] == {"_target_": f"{BUILDERS}Recording", "width": 6, "depth": 3, "bias": True}
    assert len(builders.CALLS) > 3
    outside = ("pretrained", "weights", "force_download", "push_to_hub")
    assert not any(call[name] for call in builders.CALLS for name in outside)


def test_a_constructor_that_fetches_is_refused_with_the_switch_that_keeps_it_from_that(tmp_path: Path) -> None:
    save(filled(builders.Fetching(6, pretrained=False)).state_dict(), tmp_path / "f.pt")
    with socket.create_server(("127.0.0.1", 0)) as server:
        builders.PORT[0] = server.getsockname()[1]
        server.settimeout(0)
        with pytest.raises(loader.ConfigError) as refused:
            scaffold("Fetching", "f.pt", f"model._target_={BUILDERS}Fetching")
        with pytest.raises(BlockingIOError):
            server.accept()

    told = r"model: its constructor connects to something outside \(socket\.\w+\), which a trial build may not do"
    assert re.fullmatch(told, refused.value.message)
    assert refused.value.hint == "model.pretrained=false"
    written, _ = scaffold("Fetching", "f.pt", f"model._target_={BUILDERS}Fetching", refused.value.hint)
    assert written["model"]["width"] == 6


@pytest.mark.parametrize("builder", ["built", "Derived", "Holding"])
def test_arguments_behind_keywords_are_found_from_shapes_and_from_what_the_file_says(
    builder: str, tmp_path: Path
) -> None:
    net = filled(getattr(builders, builder)(classes=7, scale=3.0))
    save({"state_dict": net.state_dict(), "hyper_parameters": {"classes": 7}}, tmp_path / "k.pt")
    written, text = scaffold(builder, "k.pt", f"model._target_={BUILDERS}{builder}")

    assert {name: written["model"][name] for name in ("classes", "scale")} == {"classes": 7, "scale": 3.0}
    assert "# from the file's hyper_parameters, as the shapes say" in text
    assert written["model"].keys() - {"rate"} == {"_target_", "classes", "scale"}
    run("k")


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize(
    "switches", [{"wide": True}, {"deep": True}, {"other": True}, {"flat": True}, {"wide": True, "deep": True}]
)
def test_a_switch_is_kept_also_where_it_changes_names(width: int, switches: dict[str, bool], tmp_path: Path) -> None:
    save(filled(nets.Switched(width, **switches)).state_dict(), tmp_path / "s.pt")
    written, text = scaffold("Switched", "s.pt")

    turned = {name for name, value in written["model"].items() if value is True}
    assert (written["model"]["width"], turned) == (width, set(switches))
    assert text.count("true") == len(switches)
    assert "rules" not in written
    run("s")


def test_defaults_that_cannot_be_compared_are_no_bug(tmp_path: Path) -> None:
    save(filled(builders.Defaults(6)).state_dict(), tmp_path / "d.pt")
    written, text = scaffold("Defaults", "d.pt", f"model._target_={BUILDERS}Defaults")

    assert written["model"] == {"_target_": f"{BUILDERS}Defaults", "width": 6, "sizes": [2, 2], "rate": float("inf")}
    assert "sizes: [2, 2]  # the default" in text


def test_rules_for_tensors_are_written_with_what_shapes_do_not_show(tmp_path: Path) -> None:
    state = filled(nets.Apart(12)).state_dict()
    file = {key: value for key, value in state.items() if key[0] not in "qkv"}
    file |= {f"qkv.{leaf}": torch.cat([state[f"{role}.{leaf}"] for role in "qkv"]) for leaf in ("weight", "bias")}

    config, text = scaffold("Apart", save(file, tmp_path / "fused.pt"))

    assert config["model"]["width"] == 12
    assert config["rules"] == {"fit": {"split": r"^qkv\.", "into": ["q.", "k.", "v."]}}
    assert "shapes do not show the order: compare with a golden record" in text
    loaded = run("fused").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
