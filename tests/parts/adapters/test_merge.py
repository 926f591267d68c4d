"""What adapters make of a base: values, reports, plans, parts and every way in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import loader
from tests.command import REPOSITORY, run, run_loader
from tests.parts.adapters.made import Net, base, change, normal, pair, peft

NODE = "model._target_=tests.parts.adapters.made.Net"


def loaded(file: Path, **adapters: Any) -> tuple[dict[str, torch.Tensor], loader.Report]:
    net = Net()
    report = loader.load_into(net, file, adapters=adapters)
    return net.state_dict(), report


def test_a_product_is_added(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.to_q")
    folder = peft(tmp_path / "lora", tensors)
    found, report = loaded(file, lora={"path": str(folder)})
    torch.testing.assert_close(
        found["block.to_q.weight"], state["block.to_q.weight"] + 2 * change(tensors, "block.to_q")
    )
    assert torch.equal(found["block.to_k.weight"], state["block.to_k.weight"])
    assert report.keys.derived == [
        {"key": "block.to_q.weight", "sources": ["block.to_q.weight", *tensors], "rules": ["lora"]}
    ]
    (said,) = report.parts[""].adapters
    assert (said["name"], said["hits"], said["kind"], said["scale"]) == ("lora", 1, "PEFT LORA, r=2, alpha=4", 1.0)
    assert (said["minus"], said["note"], said["rules"]) == (None, "", [])
    assert [Path(one["path"]).name for one in said["files"]] == ["adapter_model.safetensors", "adapter_config.json"]
    assert said["sha256"] == said["files"][0]["sha256"]
    assert all(len(one["sha256"]) == 64 for one in said["files"])


@pytest.mark.parametrize("dora", [False, True])
def test_a_scale_of_0_is_the_base(tmp_path: Path, *, dora: bool) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.to_q") | {"base_model.model.out.weight": normal(2, 3)}
    if dora:
        tensors["base_model.model.block.to_q.lora_magnitude_vector"] = torch.rand(3)
    found, report = loaded(file, lora={"path": str(peft(tmp_path / "lora", tensors, use_dora=dora)), "scale": 0})
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert report.keys.derived == []
    assert report.parts[""].adapters[0]["hits"] == 2


@given(
    rank=st.integers(1, 4),
    scale=st.floats(-2, 2),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float64]),
)
def test_the_sum_is_rounded_once(
    tmp_path_factory: pytest.TempPathFactory, rank: int, scale: float, dtype: torch.dtype
) -> None:
    folder = tmp_path_factory.mktemp("any")
    file, state = base(folder, **{"block.to_q.weight": normal(3, 3).to(dtype)})
    tensors = pair("block.to_q", rank=rank)
    lora = peft(folder / "lora", tensors, r=rank, lora_alpha=rank)
    net = Net().to(dtype)
    loader.load_into(net, file, adapters={"lora": {"path": str(lora), "scale": scale}})
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.addmm(
        state["block.to_q.weight"].to(wide),
        tensors["base_model.model.block.to_q.lora_B.weight"].to(wide),
        tensors["base_model.model.block.to_q.lora_A.weight"].to(wide),
        alpha=scale,
    )
    assert torch.equal(net.state_dict()["block.to_q.weight"], expected.to(dtype))


def test_names_of_kohya_are_resolved_against_the_modules(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    down, up = normal(2, 3), normal(3, 2, seed=1)
    tensors = {
        "lora_unet_block_to_q.lora_down.weight": down,
        "lora_unet_block_to_q.lora_up.weight": up,
        "lora_unet_block_to_q.alpha": torch.tensor(1.0),
        "lora_unet_out.lora_down.weight": down.clone(),
        "lora_unet_out.lora_up.weight": up[:2].clone(),
    }
    save_file(tensors, tmp_path / "kohya.safetensors")
    found, report = loaded(file, style={"path": str(tmp_path / "kohya.safetensors"), "scale": 0.5})
    torch.testing.assert_close(found["block.to_q.weight"], state["block.to_q.weight"] + 0.5 * (up @ down) / 2)
    torch.testing.assert_close(found["out.weight"], state["out.weight"] + 0.5 * (up[:2] @ down))
    assert report.parts[""].adapters[0]["kind"] == "low-rank products"


@pytest.mark.parametrize(
    "names",
    [("{}.lora_A.weight", "{}.lora_B.weight"), ("{}.lora.down.weight", "{}.lora.up.weight")],
)
def test_names_of_diffusers(tmp_path: Path, names: tuple[str, str]) -> None:
    file, state = base(tmp_path)
    down, up = normal(2, 3), normal(3, 2, seed=1)
    save_file({names[0].format("block.to_q"): down, names[1].format("block.to_q"): up}, tmp_path / "lora.safetensors")
    found, _ = loaded(file, style={"path": str(tmp_path / "lora.safetensors")})
    torch.testing.assert_close(found["block.to_q.weight"], state["block.to_q.weight"] + up @ down)


def test_attention_processors_of_diffusers(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    down, up = normal(2, 3), normal(3, 2, seed=1)
    tensors = {"block.processor.to_q_lora.down.weight": down, "block.processor.to_q_lora.up.weight": up}
    torch.save(tensors, tmp_path / "lora.bin")
    found, _ = loaded(file, style={"path": str(tmp_path / "lora.bin")})
    torch.testing.assert_close(found["block.to_q.weight"], state["block.to_q.weight"] + up @ down)


def test_any_other_file_is_a_difference(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    delta = {"out.weight": normal(2, 3, seed=9), "out.bias": normal(2, seed=8)}
    torch.save({"state_dict": delta}, tmp_path / "delta.pt")
    found, report = loaded(file, delta={"path": str(tmp_path / "delta.pt"), "key": "state_dict", "scale": -2.0})
    for key, value in delta.items():
        torch.testing.assert_close(found[key], state[key] - 2 * value)
    assert report.parts[""].adapters[0]["kind"] == "differences"
    again, _ = loaded(file, delta={"path": str(tmp_path / "delta.pt"), "key": "auto", "scale": -2.0})
    assert all(torch.equal(again[key], found[key]) for key in found)


def test_a_task_vector(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tuned = {key: value + normal(*value.shape, seed=3) for key, value in state.items()}
    origin = {key: value + normal(*value.shape, seed=4) for key, value in state.items()}
    torch.save({"model": tuned}, tmp_path / "tuned.pt")
    save_file(origin, tmp_path / "origin.safetensors")
    found, report = loaded(
        file,
        task={
            "path": str(tmp_path / "tuned.pt"), "minus": str(tmp_path / "origin.safetensors"),
            "key": "model", "scale": 0.3,
        },
    )  # fmt: skip
    for key, value in state.items():
        torch.testing.assert_close(found[key], value + 0.3 * (tuned[key] - origin[key]))
    said = report.parts[""].adapters[0]
    assert said["kind"] == "task vector"
    assert Path(said["minus"]).name == "origin.safetensors"
    assert len(said["files"]) == 2


def test_integers_of_a_task_vector_stay_the_bases(tmp_path: Path) -> None:
    net = nn.Sequential(nn.BatchNorm1d(2))
    state = {key: value + 1 for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "base.pt")
    torch.save({key: value * 3 for key, value in state.items()}, tmp_path / "tuned.pt")
    task = {"path": str(tmp_path / "tuned.pt"), "minus": str(tmp_path / "base.pt")}
    report = loader.load_into(net, tmp_path / "base.pt", adapters={"task": task})
    assert net.state_dict()["0.num_batches_tracked"] == 1
    torch.testing.assert_close(net.state_dict()["0.weight"], 3 * state["0.weight"])
    assert report.parts[""].adapters[0]["note"] == "1 tensor of integers stays the base's: 0.num_batches_tracked"


def test_its_own_rules_work_on_the_modules_that_it_changes(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("model.query") | pair("model.other")
    folder = peft(tmp_path / "lora", tensors)
    rules = {"name": {"regex": r"^model\.query$", "to": "block.to_q"}, "rest": {"drop": "model.*"}}
    found, report = loaded(file, lora={"path": str(folder), "rules": rules})
    torch.testing.assert_close(
        found["block.to_q.weight"], state["block.to_q.weight"] + 2 * change(tensors, "model.query")
    )
    assert report.parts[""].adapters[0]["rules"] == [{"name": "name", "hits": 1}, {"name": "rest", "hits": 1}]


def test_a_rule_splits_the_product_of_a_fused_layer(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.qk", out=6)
    folder = peft(tmp_path / "lora", tensors)
    rules = {"apart": {"split": r"qk$", "into": ["to_q", "to_k"]}}
    found, _ = loaded(file, lora={"path": str(folder), "rules": rules})
    delta = 2 * change(tensors, "block.qk")
    torch.testing.assert_close(found["block.to_q.weight"], state["block.to_q.weight"] + delta[:3])
    torch.testing.assert_close(found["block.to_k.weight"], state["block.to_k.weight"] + delta[3:])


def test_a_state_dict_in_memory_is_a_base_and_stays_as_it_is(tmp_path: Path) -> None:
    _, state = base(tmp_path)
    before = {key: value.clone() for key, value in state.items()}
    tensors = pair("block.to_q")
    net = Net()
    loader.load_into(net, state, adapters={"lora": {"path": str(peft(tmp_path / "lora", tensors))}})
    expected = before["block.to_q.weight"] + 2 * change(tensors, "block.to_q")
    torch.testing.assert_close(net.state_dict()["block.to_q.weight"], expected)
    assert all(torch.equal(state[key], before[key]) for key in state)


def test_load_model_takes_the_same_mapping(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.to_q")
    net = loader.load_model(
        {"_target_": "tests.parts.adapters.made.Net"},
        file,
        adapters={"lora": {"path": str(peft(tmp_path / "lora", tensors))}},
        device="cpu",
    )
    expected = state["block.to_q.weight"] + 2 * change(tensors, "block.to_q")
    torch.testing.assert_close(net.state_dict()["block.to_q.weight"], expected)


def test_tied_weights_are_changed_together(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.words.weight

    words = normal(5, 3)
    tensors = pair("head", out=5)
    folder = peft(tmp_path / "lora", tensors)
    for names in (["words.weight"], ["words.weight", "head.weight"]):
        torch.save({name: words.clone() for name in names}, tmp_path / "base.pt")
        net = Tied()
        loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(folder)}})
        assert net.head.weight is net.words.weight
        torch.testing.assert_close(net.words.weight.data, words + 2 * change(tensors, "head"))


def test_each_part_has_its_own(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.to_q")
    folder = peft(tmp_path / "lora", tensors)
    net = nn.ModuleDict({"a": Net(), "b": Net()})
    parts = {"a": {"path": str(file)}, "b": {"path": str(file), "adapters": {"lora": {"path": str(folder)}}}}
    report = loader.load_into(net, {}, parts=parts)
    assert torch.equal(net.state_dict()["a.block.to_q.weight"], state["block.to_q.weight"])
    torch.testing.assert_close(
        net.state_dict()["b.block.to_q.weight"], state["block.to_q.weight"] + 2 * change(tensors, "block.to_q")
    )
    assert report.parts["a"].adapters == []
    assert report.parts["b"].adapters[0]["hits"] == 1


def test_the_command_line_plans_loads_and_converts(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.to_q")
    folder = peft(tmp_path / "lora", tensors)
    words = [NODE, f"checkpoint.path={file}", f"+adapters={{lora: {{path: {folder}}}}}", "verify.forward=false"]
    planned = run_loader(*words, "mode=plan", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert planned.code == 0, planned.err
    row = next(row for row in planned.report["plan"] if row["key"] == "block.to_q.weight")
    assert (row["rules"], row["sources"]) == (["lora"], ["block.to_q.weight", *tensors])
    assert planned.report["parts"][""]["adapters"][0]["sha256"] is None
    assert "adapter lora: PEFT LORA, r=2, alpha=4, scale 1, 1 change" in planned.out

    written = tmp_path / "merged.safetensors"
    done = run_loader(*words, "mode=convert", f"convert.path={written}", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.code == 0, done.err
    expected = state["block.to_q.weight"] + 2 * change(tensors, "block.to_q")
    torch.testing.assert_close(load_file(written)["block.to_q.weight"], expected)
    with written.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    (said,) = json.loads(header["__metadata__"]["hydra_loader"])["sources"][""]["adapters"]
    assert (said["name"], said["file"], said["scale"]) == ("lora", "adapter_model.safetensors", 1.0)
    assert len(said["sha256"]) == 64
    again = run_loader(
        "model=embedded",
        f"checkpoint.path={written}",
        "trusted_targets=[tests.*]",
        "verify.forward=false",
        cwd=tmp_path,
        PYTHONPATH=str(REPOSITORY),
    )
    assert again.code == 0, again.err


@pytest.fixture
def ready(tmp_path: Path) -> tuple[Path, list[str]]:
    """A base and an adapter in a folder, and the words that load them by relative paths."""
    base(tmp_path)
    peft(tmp_path / "lora", pair("block.to_q"))
    return tmp_path, [NODE, "checkpoint.path=base.pt", "+adapters={lora: {path: lora}}", "verify.forward=false"]


def test_a_replay_notices_another_adapter(ready: tuple[Path, list[str]]) -> None:
    folder, words = ready
    env = {"PYTHONPATH": str(REPOSITORY)}
    recorded = folder / "run"
    assert run_loader(*words, cwd=folder, **env).code == 0
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    replay = ["mode=replay", f"replay.path={recorded}"]
    again = run_loader(*replay, cwd=elsewhere, **env)
    assert again.code == 0, again.err
    assert (
        "adapters of the file: lora: their files are as recorded" in str(again.report["replay"]["compared"]) + again.out
    )
    peft(folder / "lora", pair("block.to_q"), lora_alpha=5)
    changed = run_loader(*replay, cwd=elsewhere, **env)
    assert changed.code == 5
    assert "lora: other files, or another scale, than the recorded lora" in changed.err + changed.out


@pytest.mark.slow
def test_a_sweep_over_scales_reuses_only_what_is_the_same(ready: tuple[Path, list[str]]) -> None:
    folder, words = ready

    def swept(name: str, *more: str) -> list[dict[str, Any]]:
        command = [sys.executable, str(REPOSITORY / "run.py"), "-m", *words, "adapters.lora.scale=0,1", *more]
        done = run(*command, f"hydra.sweep.dir={name}", cwd=folder, PYTHONPATH=str(REPOSITORY))
        assert done.returncode == 0, done.stderr
        jobs: list[dict[str, Any]] = json.loads((folder / name / "summary.json").read_text())["jobs"]
        return jobs

    first = swept("first")
    assert first[0]["fingerprint"] != first[1]["fingerprint"]
    assert [job["status"] for job in swept("second", "sweep.resume=first")] == ["reused", "reused"]
    peft(folder / "lora", pair("block.to_q", seed=9))
    third = swept("third", "sweep.resume=first")
    assert [job["status"] for job in third] == ["ok", "ok"]
    assert third[0]["fingerprint"] == first[0]["fingerprint"]
    assert third[1]["fingerprint"] != first[1]["fingerprint"]


def test_the_golden_record_of_the_base_is_not_that_of_the_sum(tmp_path: Path) -> None:
    linear = nn.Linear(3, 2)
    torch.save(linear.state_dict(), tmp_path / "base.pt")
    torch.save({"weight": normal(2, 3)}, tmp_path / "delta.pt")
    words = ["model={_target_: torch.nn.Linear, in_features: 3, out_features: 2}", "checkpoint.path=base.pt"]
    added = [*words, "adapters={delta: {path: delta.pt}}"]
    assert run_loader(*words, "verify.record=true", cwd=tmp_path).code == 0
    assert (tmp_path / "base.pt.golden.safetensors").is_file()
    done = run_loader(*added, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.report["verification"]["golden_diff"] is None
    assert run_loader(*words, cwd=tmp_path).report["verification"]["golden_diff"] == 0
    refused = run_loader(*added, "verify.record=true", cwd=tmp_path)
    assert refused.code == 2
    assert "verify.record=true writes next to a job's one checkpoint file" in refused.err


def test_a_base_that_the_adapter_holds_as_well_is_replaced_and_then_changed(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    own = normal(3, 3, seed=11)
    tensors = pair("block.to_q") | {"base_model.model.block.to_q.base_layer.weight": own}
    found, report = loaded(file, lora={"path": str(peft(tmp_path / "lora", tensors))})
    torch.testing.assert_close(found["block.to_q.weight"], own + 2 * change(tensors, "block.to_q"))
    assert report.keys.derived[0]["rules"] == ["lora"]


def test_names_with_the_adapters_name_are_those_without(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    tensors = pair("block.to_q")
    raw = {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    raw["base_model.model.out.modules_to_save.default.weight"] = normal(2, 3, seed=12)
    raw["base_model.model.block.to_q.lora_magnitude_vector.default.weight"] = torch.ones(3)
    found, _ = loaded(file, lora={"path": str(peft(tmp_path / "lora", raw, use_dora=True))})
    total = state["block.to_q.weight"] + 2 * change(tensors, "block.to_q")
    torch.testing.assert_close(found["block.to_q.weight"], total / total.norm(dim=1, keepdim=True))
    assert torch.equal(found["out.weight"], normal(2, 3, seed=12))


def test_an_adapter_on_top_of_a_mean_of_files(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    other = {key: value + 1 for key, value in state.items()}
    torch.save(other, tmp_path / "other.pt")
    tensors = pair("block.to_q")
    net = Net()
    report = loader.load_into(
        net,
        {"path": [str(file), str(tmp_path / "other.pt")], "combine": "mean"},
        adapters={"lora": {"path": str(peft(tmp_path / "lora", tensors))}},
    )
    expected = state["block.to_q.weight"] + 0.5 + 2 * change(tensors, "block.to_q")
    torch.testing.assert_close(net.state_dict()["block.to_q.weight"], expected)
    assert report.parts[""].combined is not None
    assert report.parts[""].adapters[0]["hits"] == 1
