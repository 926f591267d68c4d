"""Adapters that are refused: before anything is read, with all faults and a line to type."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import loader
from loader.formats.limits import LARGEST_CONFIG, LARGEST_RANK
from tests.command import REPOSITORY, Finished, run_loader
from tests.parts.adapters.made import Net, base, change, normal, pair, peft


def refused(file: Any, error: type[loader.LoaderError], **adapters: Any) -> loader.LoaderError:
    """Loads into a live model; returns the refusal, which left the model as it was."""
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(error) as caught:
        loader.load_into(net, file, adapters=adapters)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    return caught.value


def run(folder: Path, *words: str) -> Finished:
    return run_loader(
        "model._target_=tests.parts.adapters.made.Net",
        "verify.forward=false",
        *words,
        cwd=folder,
        PYTHONPATH=str(REPOSITORY),
    )


def test_an_adapter_alone_is_refused_with_its_base(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"), base_model_name_or_path=str(file))
    done = run(tmp_path, "checkpoint.path=lora")
    assert done.code == 3
    said = f"{folder} is a PEFT adapter (LORA, r=2, alpha=4, for {file}) without the weights that it changes"
    fix = f"checkpoint.path={file} '+adapters={{lora: {{path: {folder}}}}}'"
    assert done.report["error"]["message"] == said
    assert done.report["error"]["hint"] == fix
    assert run(tmp_path, *shlex.split(fix)).code == 0


@pytest.mark.parametrize(("name", "place"), [("org/base", "hf://org/base"), ("", "BASE"), ("/srv/base", "/srv/base")])
def test_the_base_of_an_adapter_alone_is_named(tmp_path: Path, name: str, place: str) -> None:
    folder = peft(tmp_path / "lora", pair("block.to_q"), base_model_name_or_path=name)
    refusal = refused(folder, loader.CheckpointError)
    assert f"(LORA, r=2, alpha=4, for {name or 'an unnamed base'})" in refusal.message
    assert refusal.fixes[0].line == f"checkpoint.path={place} '+adapters={{lora: {{path: {folder}}}}}'"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_the_weights_of_an_adapter_alone_are_refused_like_its_folder(tmp_path: Path, name: str) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.to_q")
    weights = peft(tmp_path / "lora", tensors, base_model_name_or_path=str(file)) / name
    torch.save(tensors, tmp_path / "lora" / "adapter_model.bin")
    if name.endswith(".bin"):
        (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    refusal = refused(weights, loader.CheckpointError)
    assert refusal.message == (
        f"{weights} is a PEFT adapter (LORA, r=2, alpha=4, for {file}) without the weights that it changes"
    )
    [fix] = refusal.fixes
    assert fix.line == f"checkpoint.path={file} '+adapters={{lora: {{path: {weights}}}}}'"
    net = Net()
    loader.load_into(net, file, adapters={"lora": {"path": str(weights)}})
    torch.testing.assert_close(net.block["to_q"].weight, state["block.to_q.weight"] + 2 * change(tensors, "block.to_q"))


def test_inspect_shows_an_adapter_alone(tmp_path: Path) -> None:
    peft(tmp_path / "lora", pair("block.to_q"), base_model_name_or_path="org/base")
    done = run(tmp_path, "mode=inspect", "checkpoint.path=lora")
    assert done.code == 0
    assert "adapter: LORA, r=2, alpha=4, for org/base" in done.out
    assert "checkpoint.path=hf://org/base '+adapters={lora: {path:" in done.out


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "LOKR", "VERA", "ADALORA", "OFT", "PROMPT_TUNING"])
def test_another_type_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"), peft_type=kind)
    refusal = refused(file, loader.CheckpointError, lora={"path": str(folder)})
    assert refusal.message == (
        f"adapter 'lora': {folder}/adapter_config.json says peft_type={kind}, which is unsupported: adapters of the "
        "type LORA are merged (LoRA, rsLoRA, DoRA)"
    )
    assert refusal.fixes[0].line == "model.merge_and_unload().save_pretrained('FOLDER')"
    assert f"({kind}, for an unnamed base)" in refused(folder, loader.CheckpointError).message


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights=pissa_niter_4"),
        ("init_lora_weights", "olora", "init_lora_weights=olora"),
        ("use_qalora", True, "use_qalora"),
        ("alora_invocation_tokens", [1], "alora_invocation_tokens"),
        ("target_parameters", ["experts"], "target_parameters"),
        ("trainable_token_indices", [1], "trainable_token_indices"),
        ("layer_replication", [[0, 1]], "layer_replication"),
    ],
)
def test_what_is_no_sum_of_products_is_refused_by_name(tmp_path: Path, setting: str, value: Any, named: str) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"), **{setting: value})
    refusal = refused(file, loader.CheckpointError, lora={"path": str(folder)})
    assert f"adapter_config.json sets {named}, which is unsupported" in refusal.message


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("ia3_l", "IA3"),
        ("vera_lambda_b", "VeRA"),
        ("oft_blocks", "OFT"),
        ("dora_scale", "DoRA of LyCORIS"),
        ("lora_mid.weight", "LoCon with a third factor"),
    ],
)
def test_another_type_of_file_is_refused_by_name(tmp_path: Path, end: str, kind: str) -> None:
    file, _ = base(tmp_path)
    save_file({f"lora_unet_block_to_q.{end}": normal(2, 2)}, tmp_path / "a.safetensors")
    refusal = refused(file, loader.CheckpointError, lora={"path": str(tmp_path / "a.safetensors")})
    assert refusal.message == (
        f"the adapter 'lora' ({tmp_path}/a.safetensors) is an adapter of an unsupported type: {kind}; products of two "
        "matrices are merged (LoRA, rsLoRA, DoRA)"
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 0}, "r is 0, expected a whole number from 1"),
        ({"r": True}, "r is True, expected a whole number from 1"),
        ({"r": 2.0}, "r is 2.0, expected a whole number from 1"),
        ({"r": 10**40}, f"r is {10**40}, expected a whole number from 1"),
        ({"lora_alpha": 1e308}, "lora_alpha is 1e+308, expected a number that float32 can hold"),
        ({"lora_alpha": 10**400}, "expected a number that float32 can hold"),
        ({"lora_alpha": "4"}, "lora_alpha is 4, expected a number that float32 can hold"),
        ({"rank_pattern": {"q": -1}}, "rank_pattern.q is -1, expected a whole number from 1"),
        ({"alpha_pattern": [1]}, "alpha_pattern is [1], expected numbers by pattern"),
        ({"use_rslora": 1}, "use_rslora is 1, expected true or false"),
        ({"use_rslora": "true"}, "use_rslora is 'true', expected true or false"),
        ({"use_dora": []}, "use_dora is [], expected true or false"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out is 1, expected true or false"),
        ({"peft_type": None}, "peft_type is missing, expected LORA"),
        ({"rank_pattern": {"(a+)+$": 2}}, "the pattern '(a+)+$', which repeats what repeats or branches itself"),
        ({"rank_pattern": {"a|" * 150: 2}}, "holds a pattern of 300 characters, at most 200 are supported"),
    ],
)
def test_hostile_settings_are_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"), **config)
    refusal = refused(file, loader.CheckpointError, lora={"path": str(folder)})
    assert f"{folder}/adapter_config.json is invalid: " in refusal.message
    assert said[:60] in refusal.message


def test_a_config_that_is_no_config_is_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"))
    for text, said in (
        ("[]", "is not a mapping"),
        ('{"r": NaN}', "is not JSON"),
        (" " * (LARGEST_CONFIG + 1), "bytes"),
    ):
        (folder / "adapter_config.json").write_text(text)
        assert said in refused(file, loader.CheckpointError, lora={"path": str(folder)}).message


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        folder = peft(tmp_path / name.partition(".")[0], pair("block.to_q"))
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        refusal = refused(file, loader.CheckpointError, lora={"path": str(folder)})
        assert "is a link that leads out of its folder" in refusal.message


def test_a_rank_that_contradicts_the_config(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q", rank=3) | pair("block.to_k"), rank_pattern={"to_k": 5})
    refusal = refused(file, loader.CheckpointError, lora={"path": str(folder)})
    assert "contradicts the adapter's tensors: " in refusal.message
    assert "block.to_q has rank 3, the config says 2" in refusal.message
    assert "block.to_k has rank 2, the config says 5" in refusal.message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lora_A.weight": torch.zeros(0, 3)}, "[3, 2] and [0, 3] have no product"),
        ({"lora_A.weight": torch.zeros(3, 3)}, "[3, 2] and [3, 3] have no product"),
        ({"lora_A.weight": torch.zeros(2)}, "[3, 2] and [2] have no product"),
        ({"lora_A.weight": torch.zeros(2, 3, dtype=torch.int64)}, "is strided int64, expected dense floating-point"),
        ({"lora_A.weight": torch.zeros(0, 3), "lora_B.weight": torch.zeros(3, 0)}, "has rank 0, expected 1 to"),
        (
            {"lora_A.weight": torch.zeros(2000, 3), "lora_B.weight": torch.zeros(3, 2000)},
            f"has rank 2,000, expected 1 to {LARGEST_RANK:,}",
        ),
        ({"lora_magnitude_vector": torch.zeros(3)}, "it has a lora_magnitude_vector, the config says use_dora=False"),
        ({"lora_magnitude_vector": torch.zeros(4)}, "its magnitude has the shape [4], expected 3 numbers"),
    ],
)
def test_tensors_that_contradict_each_other(tmp_path: Path, changed: dict[str, torch.Tensor], said: str) -> None:
    file, _ = base(tmp_path)
    own = {f"base_model.model.block.to_q.{key}": value for key, value in changed.items()}
    folder = peft(tmp_path / "lora", pair("block.to_q") | own)
    refusal = refused(file, loader.CheckpointError, lora={"path": str(folder)})
    assert "contradicts itself: " in refusal.message
    assert said in refusal.message


def test_a_tensor_that_says_it_is_larger_than_its_data(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    peft(tmp_path / "lora", {})
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    tensors = pair("block.to_q") | {"base_model.model.block.to_q.lora_A.weight": torch.zeros(1, 3).expand(2, 3)}
    torch.save(tensors, tmp_path / "lora" / "adapter_model.bin")
    refusal = refused(file, loader.CheckpointError, lora={"path": str(tmp_path / "lora")})
    assert "lora_A.weight [2, 3] says it is larger than its data" in refusal.message


def test_a_product_of_another_shape_is_bounded_by_the_base(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    rank = {"r": 1, "lora_alpha": 1}
    folder = peft(
        tmp_path / "lora", pair("block.to_q", out=100_000, width=70_000, rank=1) | pair("out", 3, 3, 1), **rank
    )
    refusal = refused(file, loader.FitError, lora={"path": str(folder)})
    assert f"the adapter 'lora' ({folder}/adapter_model.safetensors) does not fit {file}: " in refusal.message
    assert (
        "base_model.model.block.to_q.lora_A.weight makes [100000, 70000] for block.to_q.weight [3, 3] float32"
        in refusal.message
    )
    assert "base_model.model.out.lora_A.weight makes [3, 3] for out.weight [2, 3] float32" in refusal.message


def test_a_turned_product_is_offered_turned(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("out", 3, 2), fan_in_fan_out=False)
    refusal = refused(file, loader.FitError, lora={"path": str(folder)})
    assert refusal.fixes[0].line == "'+adapters.lora.rules={turned: {rearrange: *, pattern: \"i o -> o i\"}}'"
    assert refusal.fixes[0].note == "shapes do not show the order of square ones: compare with a golden record"
    words = [f"checkpoint.path={file}", f"+adapters={{lora: {{path: {folder}}}}}"]
    assert run(tmp_path, *words, *shlex.split(refusal.fixes[0].line)).code == 0


def test_every_change_must_find_its_place(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(
        tmp_path / "lora", pair("block.to_q") | pair("block.to_v") | {"base_model.model.head.bias": normal(2)}
    )
    refusal = refused(file, loader.FitError, lora={"path": str(folder)})
    assert refusal.message == (
        f"{file}, which the adapter 'lora' ({folder}/adapter_model.safetensors) changes, has no place for 2 changes: "
        "base_model.model.head.bias (no 'head.bias'), base_model.model.block.to_v.lora_A.weight (no 'block.to_v'; did "
        "you mean 'block.to_q'?)"
    )


@pytest.mark.parametrize(("names", "rule"), [("wrapped.block", "strip: wrapped."), ("to_q", "add: block.")])
def test_a_prefix_of_all_names_is_mended_by_the_offered_rule(tmp_path: Path, names: str, rule: str) -> None:
    file, _ = base(tmp_path)
    modules = ("wrapped.block.to_q", "wrapped.out") if names != "to_q" else ("to_q", "to_k")
    tensors = pair(modules[0]) | pair(modules[1], 2 if modules[1].endswith("out") else 3)
    folder = peft(tmp_path / "lora", tensors)
    refusal = refused(file, loader.FitError, lora={"path": str(folder)})
    assert refusal.fixes[0].line == f"'+adapters.lora.rules={{names: {{{rule}}}}}'"
    words = [f"checkpoint.path={file}", f"+adapters={{lora: {{path: {folder}}}}}"]
    done = run(tmp_path, *words, *shlex.split(refusal.fixes[0].line))
    assert done.code == 0, done.err
    assert done.report["parts"][""]["adapters"][0]["hits"] == 2


def test_another_network_of_a_kohya_file_is_left_out_by_the_offered_rule(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    tensors: dict[str, torch.Tensor] = {}
    for name in ("lora_unet_block_to_q", "lora_te_text_q", "lora_te_text_k"):
        tensors |= {f"{name}.lora_down.weight": normal(2, 3), f"{name}.lora_up.weight": normal(3, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    refusal = refused(file, loader.FitError, style={"path": str(tmp_path / "a.safetensors")})
    assert "has no place for 2 changes" in refusal.message
    (fix,) = refusal.fixes
    assert (fix.line, fix.note) == ("'+adapters.style.rules={rest: {drop: lora_te_text_*}}'", "leaves them out")
    words = [f"checkpoint.path={file}", f"+adapters={{style: {{path: {tmp_path}/a.safetensors}}}}"]
    assert run(tmp_path, *words, *shlex.split(fix.line)).code == 0


def test_an_ambiguous_name_of_kohya_is_refused(tmp_path: Path) -> None:
    net = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(3, 3)}), "a_b": nn.Linear(3, 3)})
    torch.save(net.state_dict(), tmp_path / "base.pt")
    tensors = {"lora_unet_a_b.lora_down.weight": normal(2, 3), "lora_unet_a_b.lora_up.weight": normal(3, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(loader.FitError) as caught:
        loader.load_into(net, tmp_path / "base.pt", adapters={"style": {"path": str(tmp_path / "a.safetensors")}})
    assert caught.value.message == ("1 name of an adapter may mean several modules: lora_unet_a_b (a.b or a_b)")


def test_tensors_without_their_partner_are_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    tensors = {"lora_unet_block_to_q.lora_down.weight": normal(2, 3), "strange": normal(1)}
    save_file(tensors, tmp_path / "a.safetensors")
    refusal = refused(file, loader.FitError, lora={"path": str(tmp_path / "a.safetensors")})
    assert refusal.message == (
        f"the adapter 'lora' ({tmp_path}/a.safetensors) has 2 tensors without a place in a product of two matrices, or "
        "with a place that another one has: strange, lora_unet_block_to_q.lora_down.weight"
    )


def test_peft_without_its_config_is_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    save_file(pair("block.to_q"), tmp_path / "a.safetensors")
    refusal = refused(file, loader.CheckpointError, lora={"path": str(tmp_path / "a.safetensors")})
    assert "adapter_config.json, which has their factor, is not next to it" in refusal.message


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e300])
def test_an_alpha_that_float32_cannot_hold_is_refused_when_it_is_read(tmp_path: Path, alpha: float) -> None:
    file, _ = base(tmp_path)
    tensors = {
        "block.to_q.lora_down.weight": normal(2, 3),
        "block.to_q.lora_up.weight": normal(3, 2),
        "block.to_q.alpha": torch.tensor(alpha, dtype=torch.float64),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    refusal = refused(file, loader.CheckpointError, lora={"path": str(tmp_path / "a.safetensors")})
    assert "an adapter multiplies its product by" in refusal.message
    assert "expected a number that float32 can hold" in refusal.message


def test_files_of_a_task_vector_hold_the_same_tensors(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    torch.save({key: value for key, value in state.items() if key != "out.bias"}, tmp_path / "b.pt")
    torch.save(
        {"more": state["out.bias"], "out.weight": normal(3, 2), **state} | {"out.weight": normal(3, 2)},
        tmp_path / "c.pt",
    )
    refusal = refused(file, loader.FitError, task={"path": str(tmp_path / "b.pt"), "minus": str(tmp_path / "c.pt")})
    assert refusal.message == (
        f"{tmp_path}/b.pt minus {tmp_path}/c.pt needs the same tensors in both: only in {tmp_path}/c.pt: more, "
        "out.bias, out.weight is [2, 3] float32 and [3, 2] float32"
    )


def test_a_rule_without_a_hit_names_the_adapters_rules(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"))
    refusal = refused(file, loader.FitError, lora={"path": str(folder), "rules": {"mine": {"strip": "model."}}})
    assert "1 rule matches none of the 1 key in the adapter 'lora'" in refusal.message
    assert any(fix.line.startswith("adapters.lora.rules.mine.optional=true") for fix in refusal.fixes)


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        ("+adapters={path: lora}", "'adapters.path' is set, expected a name for each adapter", "{lora: {path: lora}}"),
        ("+adapters={lora: 3}", "'adapters.lora' is '3', expected a mapping", "+adapters.lora={path: FOLDER}"),
        ("+adapters={lora: {scale: 2}}", "'adapters.lora.path' is required", "+adapters.lora.path=FOLDER"),
        ("+adapters={lora: {path: lora, scale: nan}}", "'adapters.lora.scale' is nan, expected a number that", "=1.0"),
        ("+adapters={lora: {path: lora, scale: 1e39}}", "'adapters.lora.scale' is 1e+39, expected a number", "=1.0"),
        ("+adapters={lora: {path: lora, rules: auto}}", "'adapters.lora.rules' is 'auto'", "strip: model."),
        (
            "+adapters={lora: {pth: lora}}",
            "unknown config key 'adapters.lora.pth' (did you mean 'path'?)",
            ".path=lora",
        ),
    ],
)
def test_mistakes_in_a_config(tmp_path: Path, words: str, said: str, fix: str) -> None:
    file, _ = base(tmp_path)
    done = run(tmp_path, f"checkpoint.path={file}", words)
    assert done.code == 2
    assert said in done.report.get("error", {}).get("message", done.err)
    assert fix in done.err


def test_a_missing_adapter_is_named_with_its_config_path(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    peft(tmp_path / "lora", pair("block.to_q"))
    done = run(tmp_path, f"checkpoint.path={file}", "+adapters={style: {path: lara}}")
    assert done.code == 3
    assert f"adapter 'style': no such file: {tmp_path}/lara (adapters.style.path is lara)" in done.err
    assert "try  adapters.style.path=" in done.err


def test_a_missing_file_to_subtract_is_named_with_its_config_path(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    torch.save(state, tmp_path / "tuned.pt")
    words = [f"checkpoint.path={file}", "+adapters={task: {path: tuned.pt, minus: bse.pt}}"]
    done = run(tmp_path, *words)
    assert done.code == 3
    assert f"adapter 'task': no such file: {tmp_path}/bse.pt (adapters.task.minus is bse.pt)" in done.err
    fix = done.report["error"]["hint"].partition("   #")[0]
    assert fix == f"adapters.task.minus={file}"
    assert run(tmp_path, *words, fix).code == 0
    assert "adapters.task.path" not in done.err


def test_adapters_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"))
    net = nn.ModuleDict({"a": Net()})
    with pytest.raises(loader.ConfigError) as caught:
        loader.load_into(net, {}, parts={"a": {"path": str(file)}}, adapters={"lora": {"path": str(folder)}})
    assert caught.value.message == (
        "adapters has lora, which nothing uses: the parts fill the whole model, and each has adapters of its own"
    )
    assert caught.value.fixes[0].line == f"'+parts.a.adapters={{lora: {{path: {folder}}}}}'"


def test_a_pickled_model_takes_no_adapter(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"))
    with pytest.raises(loader.ConfigError, match="adapters needs a declared architecture, and model is null"):
        loader.load({"model": None, "checkpoint": {"path": str(file)}, "adapters": {"lora": {"path": str(folder)}}})


def test_a_peft_adapter_has_nothing_to_subtract(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"))
    refusal = refused(file, loader.ConfigError, lora={"path": str(folder), "minus": str(file)})
    assert (
        f"'adapters.lora.minus' is set, and {folder} is a PEFT adapter: it is a difference already" in refusal.message
    )


def test_json_of_a_config_is_hostile(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"))
    for text in (
        '{"peft_type": ' + "[" * 100_000,
        json.dumps({"peft_type": "LORA", "r": 2, "rank_pattern": {"\x1b[31m": 0}}),
    ):
        (folder / "adapter_config.json").write_text(text)
        refusal = refused(file, loader.CheckpointError, lora={"path": str(folder)})
        assert "\x1b" not in str(refusal)


def test_no_line_is_offered_below_a_name_that_cannot_be_typed(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("wrapped.block.to_q"))
    refusal = refused(file, loader.FitError, **{"my.lora": {"path": str(folder)}})
    assert "the adapter 'my.lora'" in refusal.message
    assert refusal.fixes == ()
    missing = refused(file, loader.CheckpointError, **{"my.lora": {"path": str(tmp_path / "none")}})
    assert not any(fix.line for fix in missing.fixes)


def test_an_alpha_and_a_scale_that_are_too_large_together(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q"), lora_alpha=3e38)
    refusal = refused(file, loader.CheckpointError, lora={"path": str(folder), "scale": 1e30})
    assert "an adapter multiplies its product by 1.5e+68" in refusal.message


@pytest.mark.parametrize(
    ("others", "combine", "kept"),
    [
        (1, "mean", "checkpoint.path={0} checkpoint.combine=null"),
        (2, "mean", "'checkpoint.path=[{0},{1}]' checkpoint.combine=mean"),
        (2, [0.5, 0.25, 0.25], "'checkpoint.path=[{0},{1}]' 'checkpoint.combine=[0.5,0.25]'"),
    ],
)
def test_an_adapter_among_the_files_of_a_list_is_added_to_the_others(
    others: int, combine: Any, kept: str, tmp_path: Path
) -> None:
    file, _ = base(tmp_path)
    lora = {"base_model.model.out.lora_A.weight": normal(2, 3), "base_model.model.out.lora_B.weight": normal(2, 2)}
    folder = peft(tmp_path / "lora", lora, r=2, lora_alpha=4)
    (tmp_path / "other.pt").write_bytes(file.read_bytes())
    files = [str(file), str(tmp_path / "other.pt")][:others]

    for at in {others, 0} if combine == "mean" else {others}:
        paths = [*files[:at], str(folder), *files[at:]]
        with pytest.raises(
            loader.CheckpointError, match=r"lora is a PEFT adapter \(LORA, r=2, alpha=4, for "
        ) as refused:
            loader.load_into(Net(), {"path": paths, "combine": combine})

        expected = f"{kept.format(*files)} '+adapters={{lora: {{path: {folder}}}}}'"
        assert [fix.line for fix in refused.value.fixes] == [expected]
