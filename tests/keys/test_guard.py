"""Quantized weights that no rule dequantized are refused, whatever is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import loader
from loader.errors import FitError
from loader.keys.rules.ready import ready_made
from tests.jobs import carry_out, raw, save, snapshot

State = dict[str, Tensor]
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 16, "out_features": 16}
THREE = {"_target_": "torch.nn.Sequential", "_args_": [LINEAR] * 3}
EVERYTHING = {"missing": ["*"], "unexpected": ["*"], "mismatched": ["*"]}


def codes(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.ones(shape).to(dtype)


def floats(*shape: int) -> Tensor:
    return torch.rand(shape) + 0.5


def fp8(name: str) -> Callable[[], State]:
    return lambda: {"weight": codes(torch.float8_e4m3fn, 16, 16), name: floats(1, 1)}


def nf4(kind: str) -> Callable[[], State]:
    return lambda: {
        "weight": codes(torch.uint8, 128, 1),
        "weight.absmax": floats(4),
        "weight.quant_map": floats(16),
        f"weight.quant_state.bitsandbytes__{kind}": codes(torch.uint8, 80),
    }


def int32(**others: Tensor) -> Callable[[], State]:
    return lambda: dict(others)


SCHEMES: dict[str, tuple[str, Callable[[], State]]] = {
    "fp8 of DeepSeek": ("fp8 (float8_e4m3fn)", fp8("weight_scale_inv")),
    "fp8 of compressed-tensors": ("fp8 (float8_e4m3fn)", fp8("weight_scale")),
    "fp8 of DeepSeek's own code": ("fp8 (float8_e4m3fn)", fp8("scale")),
    "fp8 of ComfyUI": ("fp8 (float8_e4m3fn)", fp8("scale_weight")),
    "fp8 with a scale of its name": ("fp8 (float8_e4m3fn)", fp8("weight.scale")),
    "fp8 with exponents": (
        "fp8 (float8_e5m2)",
        lambda: {"weight": codes(torch.float8_e5m2, 16, 16), "weight_scale": codes(torch.uint8, 16, 1)},
    ),
    "int8 of bitsandbytes": ("bitsandbytes int8", lambda: {"weight": codes(torch.int8, 16, 16), "SCB": floats(16)}),
    "int8 of compressed-tensors": (
        "int8 with scales",
        lambda: {"weight": codes(torch.int8, 16, 16), "weight_scale": floats(16, 1)},
    ),
    "int8 of gpt-fast": ("int8 with scales", lambda: {"weight": codes(torch.int8, 16, 16), "scales": floats(16)}),
    "uint8": ("uint8 with scales", lambda: {"weight": codes(torch.uint8, 16, 16), "weight_scale": floats(1)}),
    "int8 by another name": (
        "int8 with scales",
        lambda: {"weight_q": codes(torch.int8, 16, 16), "weight_scale": floats(16)},
    ),
    "int8 with a scale of any name": (
        "int8 with scales",
        lambda: {"weight": codes(torch.int8, 16, 16), "qscale": floats(16)},
    ),
    "int8 with a zero point": (
        "int8 with scales",
        lambda: {"weight": codes(torch.int8, 16, 16), "weight_zero_point": floats(16)},
    ),
    "nf4": ("bitsandbytes nf4", nf4("nf4")),
    "fp4": ("bitsandbytes fp4", nf4("fp4")),
    "GPTQ": (
        "GPTQ",
        lambda: {
            "qweight": codes(torch.int32, 2, 16),
            "qzeros": codes(torch.int32, 1, 2),
            "scales": floats(1, 16),
            "g_idx": codes(torch.int32, 16),
        },
    ),
    "AWQ": (
        "AWQ",
        lambda: {
            "qweight": codes(torch.int32, 16, 2),
            "qzeros": codes(torch.int32, 1, 2),
            "scales": floats(1, 16),
        },
    ),
    "GPTQ without zero points": (
        "packed int32",
        lambda: {"qweight": codes(torch.int32, 2, 16), "scales": floats(1, 16)},
    ),
    "MXFP4": (
        "MXFP4",
        lambda: {"weight_blocks": codes(torch.uint8, 1, 16, 1, 8), "weight_scales": codes(torch.uint8, 1, 16, 1)},
    ),
    "compressed-tensors int4": (
        "compressed-tensors",
        lambda: {"weight_packed": codes(torch.int32, 16, 2), "weight_scale": floats(16, 1)},
    ),
    "NVFP4": (
        "NVFP4",
        lambda: {
            "weight": codes(torch.uint8, 16, 8),
            "weight_scale": codes(torch.float8_e4m3fn, 16, 1),
            "weight_scale_2": floats(1),
        },
    ),
    "HQQ": ("HQQ", lambda: {"W_q": codes(torch.uint8, 8, 16), "scale": floats(16, 1), "zero": floats(16, 1)}),
    "EXL2": ("EXL2", lambda: {"q_weight": codes(torch.int32, 2, 16), "q_scale": codes(torch.int32, 1, 2)}),
    "EXL3": ("EXL3", lambda: {"trellis": codes(torch.int16, 1, 1, 64), "suh": floats(16), "svh": floats(16)}),
    "AQLM": (
        "AQLM",
        lambda: {"codes": codes(torch.int8, 16, 2, 1), "codebooks": floats(1, 256, 1, 8), "scales": floats(16, 1)},
    ),
    "QuIP#": ("QuIP#", lambda: {"Qidxs": codes(torch.int16, 16, 2), "SU": floats(16), "SV": floats(16)}),
    "QuIP# of int64": ("QuIP#", lambda: {"Qidxs": codes(torch.int64, 16, 2), "SU": floats(16), "SV": floats(16)}),
    "SpQR": ("SpQR", lambda: {"dense_weights": codes(torch.int64, 16), "row_offsets": codes(torch.int32, 17)}),
    "VPTQ": ("VPTQ", lambda: {"indices": codes(torch.int32, 1, 16, 2), "centroids.weight": floats(1, 64)}),
    "HIGGS": (
        "HIGGS",
        lambda: {"weight": codes(torch.int16, 16, 4), "scales": floats(16), "tables2": floats(16)},
    ),
    "Quanto": ("Quanto", lambda: {"weight._data": codes(torch.int8, 16, 16), "weight._scale": floats(16, 1)}),
    "torchao": ("torchao", lambda: {"weight_qdata": codes(torch.int8, 16, 16), "weight_scale": floats(16, 1)}),
}  # fmt: skip


def layers(make: Callable[[], State]) -> State:
    """Three layers of one scheme, their biases as they are."""
    state: State = {}
    for number in range(3):
        state |= {f"{number}.{name}": value for name, value in make().items()}
        state[f"{number}.bias"] = torch.zeros(16)
    return state


def refused(path: Path, model: dict[str, Any] = THREE, **settings: Any) -> FitError:
    with pytest.raises(FitError) as refusal:
        carry_out(model, path, **settings)
    refusal.value.message = refusal.value.message.replace(str(path), "FILE")
    return refusal.value


def written(state: State, folder: Path) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "file.safetensors")
    return folder / "file.safetensors"


@pytest.mark.parametrize("name", SCHEMES)
def test_quantized_weights_are_refused_by_name_whatever_is_allowed(name: str, tmp_path: Path) -> None:
    scheme, make = SCHEMES[name]
    path = written(layers(make), tmp_path)

    for settings in ({}, {"allow": EVERYTHING}, {"allow": EVERYTHING, "mode": "plan"}):
        error = refused(path, **settings)

        assert error.message.startswith(f"FILE is quantized: {scheme} in 3 layers (0, 1, 2). Without their scales")
        if scheme.partition(" (")[0] in READY:
            assert error.message.endswith("and no allowance makes them right; the model expects plain weights")
            option = READY[scheme.partition(" (")[0]]
            assert error.hint == f"'rules=[{option}]'   # computes the plain weights"
        else:
            assert error.message.endswith(
                "no allowance, nested key or rule makes them right; the model expects plain weights"
            )
            assert error.hint.startswith("checkpoint.path=…   # a file with plain")
        assert error.exit_code == 4
        assert error.plan is not None


READY = {
    "fp8": "fp8", "bitsandbytes nf4": "bnb4", "bitsandbytes fp4": "bnb4", "bitsandbytes int8": "bnb8", "GPTQ": "gptq",
    "AWQ": "awq", "MXFP4": "mxfp4",
}  # fmt: skip


def test_the_message_names_the_scale_and_the_line(tmp_path: Path) -> None:
    path = written(layers(SCHEMES["int8 of bitsandbytes"][1]), tmp_path)
    error = refused(path)

    assert error.message == (
        "FILE is quantized: bitsandbytes int8 in 3 layers (0, 1, 2). Without their scales (as 0.SCB) these weights "
        "would be wrong, and no allowance makes them right; the model expects plain weights"
    )
    assert error.hint == "'rules=[bnb8]'   # computes the plain weights"
    assert carry_out(THREE, path, rules=["bnb8"]).report.keys.loaded == 6


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("HIGGS", "model.dequantize().save_pretrained('FOLDER')   # in transformers, writes one"),
        (
            "compressed-tensors int4",
            (
                "AutoModel.from_pretrained('MODEL', quantization_config=CompressedTensorsConfig(dequantize=True))"
                ".save_pretrained('FOLDER')   # in transformers, writes one"
            ),
        ),
        ("HQQ", "the library that quantized it may write it dequantized, or take what was quantized"),
    ],
)
def test_a_scheme_without_rules_has_the_way_to_save_plain_weights(name: str, way: str, tmp_path: Path) -> None:
    error = refused(written(layers(SCHEMES[name][1]), tmp_path))

    assert error.hint == f"checkpoint.path=…   # a file with plain weights\n{way}"


def test_two_schemes_in_one_file_need_the_rules_of_both(tmp_path: Path) -> None:
    state = layers(SCHEMES["int8 of bitsandbytes"][1])
    del state["2.SCB"]
    state |= {f"2.{key}": value for key, value in SCHEMES["fp8 of DeepSeek"][1]().items()}
    error = refused(save(state, tmp_path / "file.pt"))

    assert "bitsandbytes int8 in 2 layers (0, 1), fp8 (float8_e4m3fn) in 1 layer (2)" in error.message
    assert error.hint == "'rules=[bnb8,fp8]'   # computes the plain weights"


def test_rules_that_were_typed_stay(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in layers(SCHEMES["fp8 of DeepSeek"][1]).items()}
    path = written(state, tmp_path)

    assert refused(path, rules=["ddp"]).hint == "'rules=[fp8,ddp]'   # computes the plain weights"
    own = refused(path, rules={"own": {"strip": "module."}})
    assert own.hint.startswith("'rules={fp8: {merge: [")
    assert own.hint.endswith('own: {strip: "module."}}\'   # computes the plain weights')
    assert carry_out(THREE, path, rules=["fp8", "ddp"]).report.keys.loaded == 6


def test_a_rule_that_dropped_the_scales_may_stay_when_they_are_taken(tmp_path: Path) -> None:
    path = written(layers(SCHEMES["fp8 of compressed-tensors"][1]), tmp_path)

    offered = refused(path, rules={"d": {"drop": "*_scale"}}).hint

    assert offered.endswith(' d: {drop: "*_scale", optional: true}}\'   # computes the plain weights')
    ready = {name: rule.settings() for name, rule in ready_made()["fp8"].items()}
    value = {**ready, "d": {"drop": "*_scale", "optional": True}}
    assert carry_out(THREE, path, rules=value).report.keys.loaded == 6


@pytest.mark.parametrize(
    ("name", "rules", "option"),
    [
        ("int8 of bitsandbytes", "fp8", "bnb8"),
        ("fp8 of DeepSeek", "bnb4", "fp8"),
        ("nf4", "fp8", "bnb4"),
        ("GPTQ", "awq", "gptq"),
        ("AWQ", "gptq", "awq"),
        ("int8 of compressed-tensors", "fp8", ""),
        ("compressed-tensors int4", "gptq", ""),
    ],
)
def test_the_rules_of_another_scheme_are_answered_with_the_right_ones(
    name: str, rules: str, option: str, tmp_path: Path
) -> None:
    scheme, make = SCHEMES[name]

    error = refused(written(layers(make), tmp_path), rules=[rules])

    assert f"the file is quantized: {scheme} in 3 layers (0, 1, 2)" in error.message
    if option:
        assert error.hint == f"'rules=[{option}]'   # computes the plain weights"
    else:
        assert error.hint.startswith("checkpoint.path=…   # a file with plain weights")


def test_scales_of_stacked_experts_have_a_rule_of_their_own(tmp_path: Path) -> None:
    expert = {"gate_up_proj": codes(torch.float8_e4m3fn, 2, 4, 3), "gate_up_proj_scale_inv": floats(2, 4, 1)}
    state = {"0.weight": codes(torch.float8_e4m3fn, 4, 4), "0.weight_scale_inv": floats(1)}
    state |= {f"experts.{key}": value for key, value in expert.items()} | {"0.bias": floats(4)}
    model = nn.ModuleDict({"0": nn.Linear(4, 4), "experts": Holder({"gate_up_proj": floats(2, 4, 3)})})

    with pytest.raises(FitError, match=r"fp8 \(float8_e4m3fn\) in 2 layers") as refusal:
        loader.load_into(model, state)

    typed = """rules={fp8: {merge: ["(?<!_scale_inv)$", "_scale_inv$"], to: "", by: "fp8"}}"""
    assert refusal.value.hint == f"'{typed}'   # computes the plain weights"
    rule = {"merge": ["(?<!_scale_inv)$", "_scale_inv$"], "to": "", "by": "fp8"}
    loader.load_into(model, state, rules={"fp8": rule})
    found = model["experts"].get_buffer("gate_up_proj")
    assert torch.equal(found, expert["gate_up_proj"].float() * expert["gate_up_proj_scale_inv"])


@pytest.mark.parametrize("name", ["weight_amax", "weight_multiplier", "weight_inv_scale", "weight_scales"])
def test_only_a_name_of_a_factor_shows_that_it_multiplies(name: str, tmp_path: Path) -> None:
    weights = {f"{n}.weight": codes(torch.float8_e4m3fn, 16, 16) for n in range(3)}
    state = weights | {f"{n}.{name}": torch.ones(1) for n in range(3)} | BIASES

    error = refused(save(state, tmp_path / "file.pt"), allow=EVERYTHING)

    assert f"Without their scales (as 0.{name})" in error.message
    assert "no allowance, nested key or rule makes them right" in error.message
    assert "rules=" not in error.hint
    assert f"nothing shows that 0.{name} multiplies the weights" in error.hint


def test_the_line_of_a_part_names_its_rules(tmp_path: Path) -> None:
    make = SCHEMES["fp8 of DeepSeek"][1]
    part = written({**make(), "bias": floats(16)}, tmp_path)
    plain = save(
        {
            f"{at}.{key}": floats(16, 16)[0 if key == "bias" else slice(None)]
            for at in (0, 2)
            for key in ("weight", "bias")
        },
        tmp_path / "plain.pt",
    )

    error = refused(plain, parts={"1": {"path": str(part)}})

    assert "parts.1.rules" in error.hint


def test_moving_float8_elements_is_not_dequantizing_them(tmp_path: Path) -> None:
    state = {
        "0.weight": codes(torch.float8_e4m3fn, 48, 16),
        "0.weight_scale": floats(1),
        **{f"{n}.bias": floats(16) for n in range(3)},
    }
    rules = {"cut": {"split": r"^0\.weight$", "into": [f"{n}.weight" for n in range(3)]}}

    error = refused(written(state, tmp_path), rules=rules, allow=EVERYTHING)

    assert error.message.startswith(
        "FILE is quantized: fp8 (float8_e4m3fn) in 1 layer (0). Without their scales (as 0."
    )
    whole = {**ready_made()["fp8"], **rules}
    assert carry_out(THREE, written(state, tmp_path), rules=settings_of(whole)).report.keys.loaded == 6


def settings_of(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rule if isinstance(rule, dict) else rule.settings() for name, rule in rules.items()}


def test_a_scale_that_a_rule_drops_is_not_applied_either(tmp_path: Path) -> None:
    path = written(layers(SCHEMES["int8 of bitsandbytes"][1]), tmp_path)

    assert "bitsandbytes int8 in 3 layers" in refused(path, rules={"scales": {"drop": "*.SCB"}}).message


def test_quantized_layers_that_a_rule_drops_may_stay_out(tmp_path: Path) -> None:
    state = layers(SCHEMES["int8 of bitsandbytes"][1]) | {"2.weight": floats(16, 16)}
    del state["2.SCB"]
    rules = {"only": {"keep": "2.*"}}

    loaded = carry_out(THREE, written(state, tmp_path), rules=rules, allow={"missing": ["0.*", "1.*"]})

    assert raw(loaded.model.state_dict()["2.weight"]) == raw(state["2.weight"])


def test_a_quantized_network_that_the_model_does_not_have_is_no_reason_to_refuse(tmp_path: Path) -> None:
    student = nn.Linear(16, 16).state_dict()
    teacher = {f"teacher.{key}": value for key, value in SCHEMES["fp8 of DeepSeek"][1]().items()}

    loaded = carry_out(LINEAR, written(student | teacher, tmp_path), allow={"unexpected": ["teacher.*"]})

    assert loaded.report.keys.loaded == 2


@pytest.mark.parametrize("name", ["int8 of bitsandbytes", "GPTQ", "AWQ", "MXFP4", "HQQ", "uint8", "NVFP4"])
def test_a_model_that_keeps_its_weights_so_itself_is_loaded(name: str) -> None:
    model = Holder(SCHEMES[name][1]())
    state = {key: value + 1 if value.dtype == torch.float32 else value for key, value in model.state_dict().items()}

    report = loader.load_into(model, state)

    assert report.keys.loaded == len(state)
    assert all(raw(model.state_dict()[key]) == raw(value) for key, value in state.items())


def test_a_model_of_floats_with_the_names_of_both_is_refused() -> None:
    model = Holder({"weight": floats(16, 16), "weight_scale": floats(16, 1)})
    before = snapshot(model)
    state = {"weight": codes(torch.int8, 16, 16), "weight_scale": floats(16, 1)}

    with pytest.raises(FitError, match=r"is quantized: int8 with scales in 1 layer \(the model itself\)"):
        loader.load_into(model, state)
    assert snapshot(model) == before


def test_exponents_are_not_taken_for_scales() -> None:
    model = Holder({"weight": codes(torch.float8_e4m3fn, 16, 16), "weight_scale": floats(16, 1)})
    state = {"weight": codes(torch.float8_e4m3fn, 16, 16), "weight_scale": codes(torch.uint8, 16, 1)}

    with pytest.raises(FitError, match="is quantized: fp8"):
        loader.load_into(model, state)


@pytest.mark.parametrize("number", [0.1, 2])
@pytest.mark.parametrize("name", ["scale", "weight_scale"])
def test_a_scale_may_be_a_plain_number(name: str, number: float, tmp_path: Path) -> None:
    state = {
        f"{n}.{key}": value for n in range(3) for key, value in {"weight": WEIGHT, name: number, "bias": BIAS}.items()
    }

    for settings in ({}, {"allow": EVERYTHING}):
        error = refused(save(state, tmp_path / "file.pt"), **settings)

        assert error.message.startswith(
            "FILE is quantized: int8 with scales in 3 layers (0, 1, 2). Without their scales (as 0."
        )


INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint64]


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", ["scale", "weight_scale", "weight.scales"])
def test_a_scale_may_have_the_dtype_of_integers(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    for weight in (torch.int8, torch.uint8, torch.float8_e4m3fn):
        if name == "scale" and weight == dtype:
            continue  # all of a layer was cast to float8
        layer = {"weight": codes(weight, 16, 16), name: codes(dtype, 16), "bias": BIAS}
        state = {f"{n}.{key}": value for n in range(3) for key, value in layer.items()}

        error = refused(save(state, tmp_path / "file.pt"), allow=EVERYTHING)

        assert "is quantized: " in error.message
        assert " in 3 layers (0, 1, 2)" in error.message
        known = weight is torch.float8_e4m3fn and dtype is torch.uint8 and name != "weight.scales"
        assert ("rules=[fp8]" in error.hint) is known  # no line is offered that would be refused


def test_a_scale_that_no_rule_takes_is_answered_without_one(tmp_path: Path) -> None:
    weight = {f"{n}.weight": codes(torch.float8_e4m3fn, 16, 16) for n in range(3)}
    number = {**weight, **{f"{n}.weight_scale": 0.1 for n in range(3)}, **BIASES}
    elsewhere = {"sd": {**weight, **BIASES}, "q": {f"{n}.weight_scale": floats(1) for n in range(3)}}

    for state, key in ((number, None), (elsewhere, "sd")):
        error = refused(save(state, tmp_path / "file.pt"), checkpoint={"key": key})

        assert "fp8 (float8_e4m3fn) in 3 layers" in error.message
        assert error.hint.startswith("checkpoint.path=…   # a file with plain weights")


WEIGHT, BIAS = codes(torch.int8, 16, 16), torch.zeros(16)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_what_torch_quantized_is_called_so_for_a_model_of_floats(tmp_path: Path) -> None:
    floating = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    packed = torch.ao.quantization.quantize_dynamic(floating, {nn.Linear})  # type: ignore[no-untyped-call]
    quantize = torch.quantize_per_tensor(torch.rand(16, 16), 0.1, 0, torch.qint8)
    static = {f"{n}.{key}": value for n in range(3) for key, value in {"weight": quantize, "scale": BIAS}.items()}

    for state in (packed.state_dict(), static):
        error = refused(save(state, tmp_path / "file.pt"))

        assert error.message.splitlines()[-1] == "the file is quantized: torch.ao in 3 layers (0, 1, 2)"
        assert "checkpoint.path=…   # a file with plain weights" in error.hint


def test_integers_that_become_weights_are_never_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save({"weight": WEIGHT, "bias": BIAS.half()}, tmp_path / "file.pt")
    listed = [
        {"key": "weight", "checkpoint": "int8", "model": "float32", "loss": ""},
        {"key": "bias", "checkpoint": "float16", "model": "float32", "loss": ""},
    ]

    for mode in ("load", "plan"):
        assert carry_out(LINEAR, path, mode=mode).report.keys.cast == listed
    assert loader.load_into(nn.Linear(16, 16), path).keys.cast == listed
    with caplog.at_level("WARNING", "loader"):
        loader.load_model(LINEAR, path)
        loader.load_model(nn.Linear(16, 16), path)
    assert (
        caplog.messages
        == ["integer tensors in the file became floating-point tensors in the model: weight int8 → float32"] * 2
    )


class Holder(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name, value.clone())


BESIDE: dict[str, State] = {
    "a mask": {"weight_mask": codes(torch.uint8, 16, 16), "scale": floats(16)},
    "a look-up table": {"weight_lut": codes(torch.int8, 16, 16), "scale": floats(16)},
    "a palette": {"palette": codes(torch.uint8, 16, 16), "palette_scale": floats(16)},
    "codes": {"codes": codes(torch.uint8, 16, 16), "codes_scale": floats(16)},
}


@pytest.mark.parametrize("name", BESIDE)
def test_integers_next_to_the_real_weights_are_unexpected_and_no_more(name: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    plain = {"0.weight": floats(16, 16), "0.bias": floats(16)}
    state = {**plain, **{f"0.{key}": value for key, value in BESIDE[name].items()}}

    with pytest.raises(FitError, match="1 unexpected in the file") as refused:
        loader.load_into(model, state)
    assert "quantized" not in f"{refused.value.message} {refused.value.hint}"
    loader.load_into(model, state, allow={"unexpected": ["*"]})
    assert all(raw(model.state_dict()[key]) == raw(value) for key, value in plain.items())


@pytest.mark.parametrize("name", BESIDE)
def test_the_same_integers_in_place_of_the_weights_are_refused(name: str) -> None:
    state = {"0.bias": floats(16), **{f"0.{key}": value for key, value in BESIDE[name].items()}}

    with pytest.raises(FitError, match=r"is quantized: u?int8 with scales in 1 layer"):
        loader.load_into(nn.Sequential(nn.Linear(16, 16)), state, allow=EVERYTHING)


def test_a_mask_that_the_model_keeps_in_another_dtype_is_loaded() -> None:
    model = Holder({"weight": floats(16, 16), "scale": floats(16), "weight_mask": codes(torch.bool, 16, 16)})
    state = {"weight": floats(16, 16), "scale": floats(16), "weight_mask": codes(torch.uint8, 16, 16)}

    assert loader.load_into(model, state).keys.loaded == 3


def test_a_model_of_integers_with_another_name_for_the_scale_is_offered_the_name(tmp_path: Path) -> None:
    model = nn.Sequential(Holder({"weight": codes(torch.int8, 16, 16), "weight_scale": floats(16)}), nn.Linear(16, 16))
    state = {
        "0.weight": codes(torch.int8, 16, 16), "0.scale": floats(16),
        "1.weight": floats(16, 16), "1.bias": floats(16),
    }  # fmt: skip

    with pytest.raises(FitError) as refused:
        loader.load_into(model, save(state, tmp_path / "file.pt"))

    assert "is quantized" not in refused.value.message
    assert "weight_scale" in refused.value.hint


def prefixes() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", {"rules": "auto"}
    yield "model.", {}
    yield "model.", {"rules": "auto"}
    yield "module.", {"checkpoint": {"key": "auto"}, "rules": "auto"}


@pytest.mark.parametrize(("prefix", "settings"), list(prefixes()))
def test_no_line_is_offered_that_would_load_quantized_weights(
    prefix: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    state = {prefix + key: value for key, value in layers(SCHEMES["int8 of bitsandbytes"][1]).items()}

    error = refused(save(state, tmp_path / "file.pt"), **settings)

    assert "quantized: bitsandbytes int8 in 3 layers" in error.message
    assert error.hint == "'rules=[bnb8]'   # computes the plain weights"


def unnamed(scale: Any, name: str) -> dict[str, Any]:
    return {f"{n}.{key}": value for n in range(3) for key, value in {"weight": WEIGHT, name: scale}.items()}


WEIGHTS = {f"{n}.{key}": value for n in range(3) for key, value in {"weight": WEIGHT, "bias": BIAS}.items()}
NUMBERED = [f"{n}.weight" for n in range(3)]
BIASES = {f"{n}.bias": BIAS for n in range(3)}
SCALED_ELSEWHERE: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "a scalar of an unknown name": (unnamed(torch.tensor(0.1), "weight_s") | BIASES, None, "0.weight_s"),
    "a row of an unknown name": (unnamed(floats(16, 1), "weight_amax") | BIASES, None, "0.weight_amax"),
    "a tensor of an unknown name in the module": (unnamed(floats(16), "d") | BIASES, None, "0.d"),
    "blocks": (unnamed(floats(4, 4), "weight.b") | BIASES, None, "0.weight.b"),
    "a float8 weight": (
        {f"{n}.{k}": v for n in range(3) for k, v in {"weight": WEIGHT.to(torch.float8_e4m3fn), "w": floats(1)}.items()}
        | BIASES,
        None,
        "0.w",
    ),
    "a dict next to the weights": (
        {"sd": WEIGHTS, "scales": {f"{key}_s": floats(16) for key in NUMBERED}},
        "sd",
        "scales.0.weight_s",
    ),
    "a dict of the same names": ({"sd": WEIGHTS, "q": {key: floats(16) for key in NUMBERED}}, "sd", "q.0.weight"),
    "a dict of modules": ({"sd": WEIGHTS, "q": {str(n): floats(16) for n in range(3)}}, "sd", "q.0"),
    "a dict of numbers": ({"sd": WEIGHTS, "scales": {str(n): 0.1 for n in range(3)}}, "sd", "scales.0"),
    "a dict deeper down": ({"net": {"sd": WEIGHTS}, "x": {"qscale": {"a": floats(16)}}}, "net.sd", "x.qscale.a"),
    "a prefix": (WEIGHTS | {f"scales.{key}": floats(16) for key in NUMBERED}, None, "scales.0.weight"),
    "a dict of whole numbers": ({"sd": WEIGHTS, "scales": {str(n): 2 for n in range(3)}}, "sd", "scales.0"),
    "a dict of integers": (
        {"sd": WEIGHTS, "s": {f"{key}_scale": codes(torch.int64, 16) for key in NUMBERED}},
        "sd",
        "s.0.weight_scale",
    ),
    "integers of a longer name": (unnamed(codes(torch.int64, 16), "weight_scale_a") | BIASES, None, "0.weight_scale_a"),
    "one number for all": ({"sd": WEIGHTS, "scale": 0.1}, "sd", "scale"),
    "a list": ({"sd": WEIGHTS, "scales": [floats(16), floats(16), floats(16)]}, "sd", "scales.0"),
}


@pytest.mark.parametrize("name", SCALED_ELSEWHERE)
def test_scales_are_found_by_the_weights_that_they_belong_to(name: str, tmp_path: Path) -> None:
    state, key, scale = SCALED_ELSEWHERE[name]
    path = save(state, tmp_path / "file.pt")

    for settings in ({}, {"allow": EVERYTHING}, {"allow": EVERYTHING, "mode": "plan"}):
        error = refused(path, checkpoint={"key": key}, **settings)

        assert "is quantized: " in error.message
        assert f" in 3 layers (0, 1, 2). Without their scales (as {scale}) these weights would be" in error.message


def test_no_nested_key_is_offered_whose_scales_stand_next_to_it(tmp_path: Path) -> None:
    state = SCALED_ELSEWHERE["a dict next to the weights"][0]

    error = refused(save(state, tmp_path / "file.pt"))

    assert error.message.splitlines()[-1] == "the file's 'sd' is quantized: int8 with scales in 3 layers (0, 1, 2)"
    assert "checkpoint.path=…   # a file with plain weights" in error.hint


OF_OTHERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "an average": ({"sd": WEIGHTS, "ema": {key: value.float() for key, value in WEIGHTS.items()}}, "sd"),
    "an optimizer": ({"sd": WEIGHTS, "optimizer": {"state": {0: {"exp_avg": floats(16)}}, "param_groups": []}}, "sd"),
    "a gradient scaler": ({"sd": WEIGHTS, "scaler": {"scale": 65536.0, "growth_factor": 2.0}}, "sd"),
    "hyperparameters": ({"sd": WEIGHTS, "hparams": {"lr": 0.1, "0": 0.5, "res_scale": 1.0}}, "sd"),
    "another network": (WEIGHTS | {"teacher.0.weight": floats(16), "teacher.0.bias": floats(16)}, None),
    "a bias that the model lacks": (WEIGHTS | {"0.bias_k": floats(16), "0.logit_scale": floats(1)}, None),
    "a counter": (WEIGHTS | {"0.steps": torch.tensor(3)}, None),
    "whole hyperparameters": ({"sd": WEIGHTS, "hparams": {"upscale": 2, "0": 3, "scale_factor": 4}}, "sd"),
}


@pytest.mark.parametrize("name", OF_OTHERS)
def test_what_stands_next_to_integers_is_not_always_a_scale(name: str, tmp_path: Path) -> None:
    state, key = OF_OTHERS[name]

    loaded = carry_out(THREE, save(state, tmp_path / "file.pt"), checkpoint={"key": key}, allow=EVERYTHING)

    assert loaded.report.keys.loaded == 6
