"""The shipped dequantizers on files as the tools write them, next to plain tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import loader
from loader.errors import CheckpointError, ConfigError, FitError
from loader.keys.rules.ready import ready_made
from tests.command import run_loader
from tests.jobs import carry_out
from tests.keys.rules import test_packed as packed
from tests.keys.rules.dequantizing import join, values_of
from tests.keys.rules.test_quantized import float8, four_bits, mxfp4, random
from tests.keys.test_guard import Holder

State = dict[str, Tensor]


class Block(nn.Module):
    """Two layers, and a norm that no tool quantizes."""

    def __init__(self, out: int, into: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.fc = nn.Linear(into, out, dtype=dtype)
        self.norm = nn.LayerNorm(out, dtype=dtype)
        self.proj = nn.Linear(into, out, bias=False, dtype=dtype)


def file(folder: Path, layer: State, out: int, **others: Tensor) -> Path:
    """A file of two such layers, and the plain tensors of a block."""
    layers = {f"{name}.{key}": value for name in ("fc", "proj") for key, value in layer.items()}
    plain = {"fc.bias": random(out), "norm.weight": random(out), "norm.bias": random(out)}
    path = folder / "model.safetensors"
    save_file({key: value.contiguous().clone() for key, value in (layers | plain | others).items()}, path)
    return path


def loaded(path: Path, out: int, into: int, rules: Any, **settings: Any) -> dict[str, Tensor]:
    node = {"_target_": f"{__name__}.Block", "out": out, "into": into}
    return carry_out(node, path, rules=rules, **settings).model.state_dict()


def test_fp8_of_every_spelling(tmp_path: Path) -> None:
    weight, scale = float8(4, 6), random(4, 1)
    names = ["weight_scale_inv", "weight_scale", "weight.scale", "scale", "scale_weight"]
    for number, name in enumerate(names):
        state = {"weight": weight, name: scale, **({"input_scale": torch.ones(1)} if number % 2 else {})}
        (folder := tmp_path / str(number)).mkdir()

        found = loaded(file(folder, state, 4), 4, 6, ["fp8"])

        assert torch.equal(found["fc.weight"], weight.float() * scale)
        assert torch.equal(found["proj.weight"], weight.float() * scale)
        assert torch.equal(found["norm.weight"], random(4))
        assert torch.equal(found["fc.bias"], random(4))


def test_a_scale_of_a_norm_is_not_taken_for_one_of_a_weight() -> None:
    plain = {
        "norm.scale": random(4),
        "other.scale": random(4),
        "other.weight": random(4, 4),
        "int.weight_scale": random(1),
    }
    plain["int.weight"] = torch.ones(4, 4, dtype=torch.int8)
    model = Holder({"weight": torch.zeros(4, 4)})
    for name in ("norm", "other", "int"):
        inside = {key.rpartition(".")[2]: value for key, value in plain.items() if key.startswith(name)}
        model.add_module(name, Holder({key: torch.zeros_like(value) for key, value in inside.items()}))
    state = {"weight": float8(4, 4), "scale": random(1), **plain}

    report = loader.load_into(model, state, rules=["fp8"])

    assert report.keys.loaded == len(state) - 1
    assert all(torch.equal(model.state_dict()[key], value) for key, value in plain.items())
    assert torch.equal(model.get_buffer("weight"), state["weight"].float() * random(1))


def test_layers_that_a_rule_leaves_are_refused(tmp_path: Path) -> None:
    layer = {"weight": float8(4, 6), "weight_scale": random(4, 1)}
    rule = {**_settings("fp8")["fp8"], "merge": [r"^(fc\.)weight$", r"^(fc\.)weight_scale$"]}

    with pytest.raises(FitError, match=r"is quantized: fp8 \(float8_e4m3fn\) in 1 layer \(proj\)"):
        loaded(file(tmp_path, layer, 4), 4, 6, {"fp8": rule}, allow={"unexpected": ["*"]})


def test_4_and_8_bits_of_bitsandbytes(tmp_path: Path) -> None:
    four = four_bits()
    named = {"weight": "weight", "absmax": "weight.absmax", "quant_map": "weight.quant_map"}
    state = {named.get(role, "weight.quant_state.bitsandbytes__nf4"): value for role, value in four.items()}

    found = loaded(file(tmp_path, state, 2), 2, 5, ["bnb4"])

    assert torch.equal(found["fc.weight"], values_of(join("bnb4"), four))
    eight = {
        "weight": torch.ones(2, 5, dtype=torch.int8),
        "SCB": torch.tensor([127.0, 254.0]),
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    found = loaded(file(tmp_path, eight, 2), 2, 5, ["bnb8"])
    assert torch.equal(found["proj.weight"], values_of(join("bnb8"), eight))


def test_gptq_takes_bits_and_version_from_the_folder(tmp_path: Path) -> None:
    layer, weight = packed.gptq(8, 32, 8, 2, zero=0)
    path = file(tmp_path, layer, 8)
    config = {"quantization_config": {"bits": 8, "checkpoint_format": "gptq_v2", "quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    for place in (path, tmp_path):
        assert torch.equal(loaded(place, 8, 32, ["gptq"])["fc.weight"], weight)


def test_gptq_with_options_and_without_a_config(tmp_path: Path) -> None:
    layer, weight = packed.gptq(8, 32, 8, 2, zero=0)
    path = file(tmp_path, layer, 8)
    patterns = ready_made()["gptq"]["gptq"].settings()
    rule = {**patterns, "by": {"gptq": {"bits": 8, "zero": 0}}}

    assert torch.equal(loaded(path, 8, 32, {"q": rule})["fc.weight"], weight)
    with pytest.raises(FitError) as refused:
        loaded(path, 8, 32, ["gptq"])
    for text in ("rule 'gptq'", "fc.qweight [8, 8]", "fc.scales [2, 8]", "for 4 bits"):
        assert text in refused.value.message
    assert refused.value.hint == "'rules.gptq.by={gptq: {bits: 8}}'   # as the shapes show"
    with pytest.raises(ConfigError, match=r"by.gptq.*bits"):
        loaded(path, 8, 32, {"q": {**patterns, "by": {"gptq": {"bit": 8}}}})


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, packed.gptq(4, 32, 8, 2)[0], 8)
    for content in ("{", '{"quantization_config": {"bits": [[[[' + "[" * 100_000):
        (tmp_path / "config.json").write_text(content)

        with pytest.raises(CheckpointError, match=r"config\.json"):
            loaded(path, 8, 32, ["gptq"])
    (tmp_path / "config.json").write_text('{"quantization_config": ["gptq"]}')
    loaded(path, 8, 32, ["gptq"])


def test_awq(tmp_path: Path) -> None:
    layer, weight = packed.awq(6, 8, 3)

    assert torch.equal(loaded(file(tmp_path, layer, 8), 8, 6, ["awq"])["proj.weight"], weight)


def test_mxfp4_next_to_plain_tensors() -> None:
    members = mxfp4(2, 3, 1)
    model = nn.Module()
    for name, shape in {"gate_up_proj": (2, 32, 3), "gate_up_proj_bias": (2, 3)}.items():
        model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    bias = random(2, 3)
    state = {f"gate_up_proj_{role}": value for role, value in members.items()} | {"gate_up_proj_bias": bias}

    loader.load_into(model, state, rules=["mxfp4"])

    assert torch.equal(model.get_parameter("gate_up_proj"), values_of(join("mxfp4"), members))
    assert torch.equal(model.get_parameter("gate_up_proj_bias"), bias)


def test_quantized_and_fused_is_two_rules(tmp_path: Path) -> None:
    weight, scale = float8(300, 10), random(3, 1)
    save_file({"att.qkv.weight": weight, "att.qkv.weight_scale_inv": scale}, tmp_path / "file.safetensors")
    model = nn.Module()
    model.att = nn.ModuleDict({name: nn.Linear(10, 100, bias=False) for name in "qkv"})
    split = {"split": r"\.qkv\.", "into": [".q.", ".k.", ".v."]}

    report = loader.load_into(model, tmp_path / "file.safetensors", rules={**_settings("fp8"), "fused": split})

    whole = values_of(join("fp8"), {"weight": weight, "scale": scale})
    assert torch.equal(torch.cat([model.get_parameter(f"att.{name}.weight") for name in "qkv"]), whole)
    assert [(one["key"], one["sources"], one["rules"]) for one in report.keys.derived] == [
        (f"att.{name}.weight", ["att.qkv.weight", "att.qkv.weight_scale_inv"], ["fp8", "fused"]) for name in "qkv"
    ]


def _settings(name: str) -> dict[str, Any]:
    return {rule: found.settings() for rule, found in ready_made()[name].items()}


def test_numbered_experts_are_dequantized_and_stacked() -> None:
    weights, scales = [float8(4, 6 + at)[:, :6].contiguous() for at in range(3)], [random(4, 1) + at for at in range(3)]
    state: State = {}
    for at in range(3):
        state |= {f"experts.{at}.weight": weights[at], f"experts.{at}.weight_scale": scales[at]}
    model = nn.Module()
    model.register_parameter("stacked", nn.Parameter(torch.zeros(3, 4, 6)))
    stack = {"merge": r"^experts\.(\d+)\.weight$", "to": "stacked"}

    loader.load_into(model, state, rules={**_settings("fp8"), "stack": stack})

    each = [weight.float() * scale for weight, scale in zip(weights, scales, strict=True)]
    assert torch.equal(model.get_parameter("stacked"), torch.stack(each))


def test_a_scale_without_its_weight_is_no_silent_loss() -> None:
    state = {"fc.weight": float8(4, 6), "fc.weight_scale": random(4, 1), "proj.weight_scale": random(4, 1)}
    model = nn.Module()
    model.fc = nn.Linear(6, 4, bias=False)

    with pytest.raises(FitError, match=r"1 unexpected in the file"):
        loader.load_into(model, state, rules=["fp8"])


def test_a_rule_without_a_quantized_layer_is_refused() -> None:
    for name in ("fp8", "bnb4", "bnb8", "gptq", "awq", "mxfp4"):
        with pytest.raises(FitError, match=f"1 rule matches none of the 2 keys .*'{name}'"):
            loader.load_into(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), rules=[name])


def test_planning_reads_no_tensor_but_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, {"weight": float8(4, 6), "weight_scale": random(4, 1)}, 4)
    monkeypatch.setattr("loader.formats.opened.Checkpoint.read", _refuse)

    assert loaded(path, 4, 6, ["fp8"], mode="plan")


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a tensor was read")


def test_from_the_command_line(tmp_path: Path) -> None:
    weight, scale = float8(2, 4), random(2, 1)
    save_file({"weight": weight, "weight_scale": scale, "bias": random(2)}, tmp_path / "file.safetensors")
    model = ["model._target_=torch.nn.Linear", "model.in_features=4", "model.out_features=2"]

    refused = run_loader(*model, f"checkpoint.path={tmp_path}/file.safetensors", cwd=tmp_path)
    done = run_loader(*model, f"checkpoint.path={tmp_path}/file.safetensors", "rules=[fp8]", cwd=tmp_path)

    assert refused.code == 4
    assert "rules=[fp8]" in refused.err
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("by", "fault", "line"),
    [
        ("gptk", "'by' is 'gptk' (did you mean 'gptq'?)", "rules.q.by=gptq"),
        ({"gptq": {"bit": 8}}, "'by.gptq' has 'bit' (did you mean 'bits'?)", "'rules.q.by={gptq: {bits: 8}}'"),
        ({"gptq": {"bits": "8"}}, "'by.gptq.bits' is '8', expected a whole number or null", "rules.q.by=gptq"),
        ({"gptq": {"bits": 9}}, "'by.gptq.bits' is 9, expected a number from 2 to 8", "'rules.q.by={gptq: {bits: 4}}'"),
        ({"gptq": 8}, "'by.gptq' is '8', expected a mapping of options", "rules.q.by=gptq"),
    ],
)
def test_invalid_options_end_with_2_and_the_line(by: Any, fault: str, line: str) -> None:
    rule = {**_settings("gptq")["gptq"], "by": by}

    with pytest.raises(ConfigError) as refused:
        loader.load_into(nn.Linear(32, 8), packed.gptq(4, 32, 8, 2)[0], rules={"q": rule})

    assert fault in refused.value.message
    assert refused.value.hint == line


def test_a_mean_of_quantized_files_is_refused(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(str(file(tmp_path / name, {"weight": float8(4, 6), "weight_scale": random(4, 1)}, 4)))
    node = {"_target_": f"{__name__}.Block", "out": 4, "into": 6}

    for rules in ([], ["fp8"]):
        job = {"model": node, "checkpoint": {"path": paths, "combine": "mean"}, "device": "cpu", "rules": rules}
        with pytest.raises(FitError, match=r"the files are quantized: fp8 \(float8_e4m3fn\) in 2 layers \(fc, proj\)"):
            loader.load(job)


def test_scales_that_a_rule_computed_are_refused() -> None:
    state = {"weight": float8(4, 6), "weight_scale": random(4, 1), "bias": random(4)}
    rules = {"twice": {"scale": "*weight_scale", "by": 2.0}, **_settings("fp8")}

    with pytest.raises(FitError, match="scale is computed of others, expected one as it was written"):
        loader.load_into(nn.Linear(6, 4), state, rules=rules)


def test_a_line_for_a_part_names_the_rules_of_the_part(tmp_path: Path) -> None:
    layer, weight = packed.gptq(8, 32, 8, 2)
    save_file(layer, path := tmp_path / "file.safetensors")
    model = nn.ModuleDict({"fc": nn.Linear(32, 8, bias=False)})
    rule = _settings("gptq")["gptq"]
    parts: dict[str, Any] = {"fc": {"path": str(path), "rules": {"q": rule}}}

    with pytest.raises(FitError) as refused:
        loader.load_into(model, path, parts=parts)

    assert refused.value.hint == "'parts.fc.rules.q.by={gptq: {bits: 8}}'   # as the shapes show"
    parts["fc"]["rules"] = {"q": {**rule, "by": {"gptq": {"bits": 8}}}}
    loader.load_into(model, path, parts=parts)
    assert torch.equal(model["fc"].get_parameter("weight"), weight)
