"""The ways in which people meet a checkpoint, each as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from loader.examples.files import write_examples
from tests.command import Finished, run_loader

TRAINED = {"state_dict", "saved_on_gpu", "ddp", "whole_model_own_class", "training_checkpoint"}

TENSORS = {
    "gpt2_conv1d": 28,
    "llama_meta": 21,
    "bert_lora": 37,
    "fp8": 2,
    "mean_of_epochs": 2,
    "grown_vocabulary": 37,
    "vit_resolution": 32,
}
"""Experiment → keys of its model, for files whose tensors differ from the model's."""

Run = Callable[..., Finished]
"""Runs an experiment with overrides; the same line runs once."""

OWN_GLOBALS = "[my_project.Net,torch.nn.modules.linear.Linear]"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return folder


@pytest.fixture(scope="module")
def experiment(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    @cache
    def run(name: str, *overrides: str) -> Finished:
        folder = tmp_path_factory.mktemp(name)
        return run_loader(f"experiment={name}", *overrides, cwd=folder, LOADER_EXAMPLES=str(examples))

    return run


def checks(report: dict[str, Any]) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in report["verification"]["checks"]}


def assert_loaded(done: Finished, *, tensors: int, outputs: list[list[int]]) -> dict[str, Any]:
    assert done.code == 0, done.out + done.err
    report = done.report
    assert (report["status"], report["exit_code"], report["error"]) == ("ok", 0, None)
    keys = report["keys"]
    assert keys["loaded"] == tensors
    assert [keys[name] for name in ("missing", "unexpected", "mismatched", "dropped", "cast")] == [[], [], [], [], []]
    assert [output["shape"] for output in report["verification"]["outputs"]] == outputs
    assert all(output["finite"] for output in report["verification"]["outputs"])
    assert all(checks(report).values())
    return report


def test_a_plain_state_dict(experiment: Run) -> None:
    report = assert_loaded(experiment("state_dict"), tensors=4, outputs=[[10, 10]])
    assert report["parts"][""]["format"] == "torch-zip"
    assert report["model"]["target"] == "loader.examples.SimpleNet"
    assert checks(report)["golden record"]


def test_b_saved_on_a_gpu(experiment: Run) -> None:
    report = assert_loaded(experiment("saved_on_gpu"), tensors=4, outputs=[[10, 10]])
    if not torch.accelerator.is_available():
        assert report["model"]["device"] == "cpu"
    assert checks(report)["golden record"]


def test_c_ddp(experiment: Run) -> None:
    report = assert_loaded(experiment("ddp"), tensors=4, outputs=[[10, 10]])
    assert report["parts"][""]["rules"] == [{"name": "ddp", "hits": 2}]
    assert checks(report)["golden record"]


def test_d_whole_model_of_standard_layers(experiment: Run) -> None:
    report = assert_loaded(experiment("whole_model"), tensors=9, outputs=[[1, 10]])
    assert report["config"]["checkpoint"]["allow_globals"] == []
    assert report["config"]["checkpoint"]["trust"] is False


def test_e_whole_model_whose_class_is_not_here(experiment: Run) -> None:
    report = assert_loaded(experiment("whole_model_own_class"), tensors=4, outputs=[[10, 10]])
    assert report["config"]["checkpoint"]["allow_globals"] == []
    assert report["config"]["checkpoint"]["trust"] is False
    assert checks(report)["golden record"]


def test_f_training_checkpoint(experiment: Run) -> None:
    report = assert_loaded(experiment("training_checkpoint"), tensors=4, outputs=[[10, 10]])
    assert report["parts"][""]["key"] == "model_state_dict"
    assert checks(report)["golden record"]


def test_g_linear(experiment: Run) -> None:
    assert_loaded(experiment("linear"), tensors=2, outputs=[[1, 2]])


def test_h_custom_layer(experiment: Run) -> None:
    assert_loaded(experiment("custom_layer"), tensors=4, outputs=[[1, 10]])


def test_i_two_models(experiment: Run) -> None:
    report = assert_loaded(experiment("two_models"), tensors=4, outputs=[[1, 5], [1, 2]])
    assert {name: part["key"] for name, part in report["parts"].items()} == {
        "a": "modelA_state_dict",
        "b": "modelB_state_dict",
    }


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_become_those_that_the_file_stands_for(experiment: Run, name: str) -> None:
    done = experiment(name)
    assert done.code == 0, done.out + done.err
    report = done.report
    assert report["keys"]["loaded"] == TENSORS[name]
    assert [report["keys"][key] for key in ("missing", "unexpected", "mismatched")] == [[], [], []]
    assert checks(report)["golden record"]
    assert all(checks(report).values())
    assert report["verification"]["golden_diff"] < 1e-5


@pytest.mark.parametrize(
    ("name", "override", "code", "said"),
    [
        ("gpt2_conv1d", "rules=[]", 4, 'pattern: "i o -> o i"'),
        ("gpt2_conv1d", "rules.conv1d_attn_proj.enabled=false", 5, "golden record"),
        ("llama_meta", "rules.rope.enabled=false", 5, "golden record"),
        ("llama_meta", "rules.rope.axes.d=4", 5, "golden record"),
        ("bert_lora", "adapters={}", 5, "golden record"),
        ("fp8", "rules=[]", 4, "is quantized"),
        ("mean_of_epochs", "checkpoint.combine=null", 2, "checkpoint.combine"),
        ("mean_of_epochs", "checkpoint.combine=[1,0,0]", 5, "golden record"),
        ("grown_vocabulary", "rules={}", 4, "embeddings.word_embeddings.weight"),
        ("vit_resolution", "rules.positions.by=nearest", 5, "golden record"),
    ],
)
def test_without_the_right_rule_they_are_refused(
    experiment: Run, name: str, override: str, code: int, said: str
) -> None:
    done = experiment(name, override)
    assert done.code == code, done.out + done.err
    assert said in done.err
    assert "Traceback" not in done.err


def test_all_files_of_the_trained_weights_have_one_fingerprint(experiment: Run) -> None:
    runs = [experiment(name) for name in sorted(TRAINED)]
    assert [done.code for done in runs] == [0] * len(runs)
    prints = {done.report["verification"]["fingerprint"] for done in runs}
    assert len(prints) == 1


def test_plus_sign_before_the_group_works_too(experiment: Run, examples: Path, tmp_path: Path) -> None:
    done = run_loader("+experiment=ddp", cwd=tmp_path, LOADER_EXAMPLES=str(examples))
    assert_loaded(done, tensors=4, outputs=[[10, 10]])


def test_without_its_rule_the_ddp_file_does_not_fit(experiment: Run) -> None:
    done = experiment("ddp", "rules=[]")
    assert done.code == 4
    assert "2 of 4 keys would be loaded" in done.err
    assert "fc1" in done.err
    assert "Traceback" not in done.err


def test_architecture_out_of_the_file_is_refused_until_it_is_admitted(experiment: Run) -> None:
    refused = experiment("whole_model", "model=null")
    assert refused.code == 3
    for name in ("Sequential", "Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"):
        assert name in refused.err
    assert "checkpoint.allow_globals=" in refused.err
    assert "Traceback" not in refused.err


def test_architecture_out_of_the_file_comes_with_the_printed_override(experiment: Run) -> None:
    refused = experiment("whole_model", "model=null")
    (line,) = [line for line in refused.err.splitlines() if "checkpoint.allow_globals=" in line]
    override = line[line.index("checkpoint.allow_globals=") :].split("]")[0] + "]"
    assert_loaded(experiment("whole_model", "model=null", override), tensors=9, outputs=[[1, 10]])


def test_architecture_out_of_the_file_comes_with_trust(experiment: Run) -> None:
    done = experiment("whole_model", "model=null", "checkpoint.trust=true")
    assert_loaded(done, tensors=9, outputs=[[1, 10]])


@pytest.mark.parametrize("permission", ["checkpoint.trust=true", f"checkpoint.allow_globals={OWN_GLOBALS}"])
def test_class_that_cannot_be_imported_is_named_with_what_to_do(experiment: Run, permission: str) -> None:
    done = experiment("whole_model_own_class", "model=null", permission)
    assert done.code == 3
    assert "my_project.Net" in done.err
    assert "PYTHONPATH" in done.err
    assert "model._target_=" in done.err
    assert "Traceback" not in done.err


def test_admitted_class_is_found_where_the_message_says_to_put_it(examples: Path, tmp_path: Path) -> None:
    (tmp_path / "my_project.py").write_text("from loader.examples import SimpleNet\nclass Net(SimpleNet): pass\n")
    done = run_loader(
        "experiment=whole_model_own_class",
        "model=null",
        f"checkpoint.allow_globals={OWN_GLOBALS}",
        cwd=tmp_path,
        LOADER_EXAMPLES=str(examples),
        PYTHONPATH=str(tmp_path),
    )
    assert done.code == 0, done.err
    assert done.report["model"]["target"] == "my_project.Net"
    assert checks(done.report)["golden record"]


def test_missing_example_file_says_how_to_make_it(tmp_path: Path) -> None:
    done = run_loader("experiment=ddp", cwd=tmp_path)
    assert done.code == 3
    assert "simple_net_ddp.pth" in done.err
    assert f"python -m loader.examples {tmp_path / 'examples'}" in done.err
