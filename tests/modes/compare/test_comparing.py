"""`mode=compare`: two files, without a model."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import loader
from loader.errors import CheckpointError, ConfigError, FitError, VerificationError
from loader.examples.files import write_examples
from loader.files.file import CheckpointFile
from loader.job import execute
from loader.modes import lines
from loader.report.data import Report
from tests.formats.dcp_writer import write_distributed
from tests.formats.sharding import write_shards
from tests.jobs import save

State = dict[str, torch.Tensor]


def layers(count: int = 3) -> State:
    draw = torch.Generator().manual_seed(1)
    shapes = {"attn.weight": (4, 4), "attn.bias": (4,), "mlp.weight": (6, 4)}
    names = {f"layers.{n}.{name}": shape for n in range(count) for name, shape in shapes.items()}
    return {name: torch.randn(shape, generator=draw) for name, shape in {"embed.weight": (5, 4), **names}.items()}


def changed(state: State, **by: float) -> State:
    """A copy of which the first element of some tensors is moved; `_` stands for a dot."""
    made = {key: value.clone() for key, value in state.items()}
    for key, amount in by.items():
        made[key.replace("_", ".")].view(-1)[0] += amount
    return made


def compared(left: Path | str, right: Path | str, *, report: Report | None = None, **settings: Any) -> Report:
    report = Report() if report is None else report
    other = settings.pop("compare", {})
    checkpoint = {"path": str(left), **settings.pop("checkpoint", {})}
    config = {"mode": "compare", "checkpoint": checkpoint, "compare": {"path": str(right), **other}, **settings}
    execute(config, report)
    return report


def comparison(left: Path | str, right: Path | str, **settings: Any) -> dict[str, Any]:
    found = compared(left, right, **settings).comparison
    assert found is not None
    return found


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in found["tensors"]}


def test_every_tensor_of_either_file_is_compared_or_on_one_side(tmp_path: Path) -> None:
    state = layers()
    other = changed(state, layers_1_mlp_weight=0.5)
    other["extra.bias"] = torch.ones(2)
    del other["embed.weight"]
    found = comparison(save(state, tmp_path / "a.pt"), save(other, tmp_path / "b.pt"))
    assert (found["only_left"], found["only_right"]) == (["embed.weight"], ["extra.bias"])
    assert list(rows(found)) == [key for key in state if key != "embed.weight"]
    row = rows(found)["layers.1.mlp.weight"]
    mine, theirs = (one["layers.1.mlp.weight"].double() for one in (state, other))
    assert row == {
        "key": "layers.1.mlp.weight",
        "shapes": [[6, 4], [6, 4]],
        "dtypes": ["float32", "float32"],
        "max_abs": float((mine - theirs).abs().max()),
        "mean_abs": float((mine - theirs).abs().mean()),
        "cosine": pytest.approx(float(torch.cosine_similarity(mine.view(-1), theirs.view(-1), dim=0)), abs=1e-12),
        "differing": 1,
        "note": "",
    }
    equal = [one for key, one in rows(found).items() if key != "layers.1.mlp.weight"]
    assert all((one["max_abs"], one["mean_abs"], one["cosine"], one["differing"]) == (0, 0, 1, 0) for one in equal)
    assert found["total"]["tensors"], found["total"]["differing"] == (9, 1)
    assert found["total"]["max_abs"] == row["max_abs"]
    assert found["total"]["mean_abs"] == pytest.approx(row["mean_abs"] * 24 / (3 * (16 + 4 + 24)))


def test_the_report_has_both_files_and_no_model(tmp_path: Path) -> None:
    state = layers()
    report = compared(
        save(state, tmp_path / "a.pt"),
        save({"ema": {f"m.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "b.pt"),
        compare={"key": "ema", "rules": {"m": {"strip": "m."}}, "check": "full"},
    )
    assert report.model is None
    assert [*report.parts] == ["", "compare"]
    left, right = report.parts[""], report.parts["compare"]
    assert (left.path, left.key, left.tensors, left.sha256) == (str(tmp_path / "a.pt"), None, 10, None)
    assert (right.path, right.key, right.tensors, right.rules) == (
        str(tmp_path / "b.pt"),
        "ema",
        10,
        [{"name": "m", "hits": 10}],
    )
    assert right.sha256 is not None
    assert right.beside == {"epoch": "3"}
    assert [*report.timings] == ["open", "plan", "compare", "total"]
    settings = {"mode": "compare", "checkpoint": {"path": left.path}, "compare": {"path": left.path}}
    assert loader.load(settings).module is None


@pytest.mark.parametrize("form", ["pt", "legacy", "safetensors", "shards", "dcp", "deflated"])
def test_any_two_formats_are_compared(tmp_path: Path, form: str) -> None:
    state = layers()
    other, settings = changed(state, layers_0_attn_bias=1), {}
    plain = save(state, tmp_path / "a.pt")
    if form in ("pt", "legacy"):
        path = save(other, tmp_path / "b.pt", legacy=form == "legacy")
    elif form == "safetensors":
        path = tmp_path / "b.safetensors"
        save_file(other, path)
    elif form == "shards":
        names = list(other)
        path = write_shards(tmp_path / "b", {n: other[n] for n in names[:4]}, {n: other[n] for n in names[4:]})
    elif form == "dcp":
        path, settings = write_distributed(tmp_path / "b", other), {"key": "model"}
    else:
        path = deflated(save(other, tmp_path / "stored.pt"), tmp_path / "b.pt")
    for mmap in (True, False):
        found = comparison(plain, path, compare={**settings, "mmap": mmap}, checkpoint={"mmap": mmap})
        assert [key for key, row in rows(found).items() if row["differing"]] == ["layers.0.attn.bias"]
        assert rows(found)["layers.0.attn.bias"]["max_abs"] == pytest.approx(1)
        assert found["only_left"] == found["only_right"] == []


def deflated(source: Path, target: Path) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return target


def test_other_shapes_dtypes_and_forms_have_a_row(tmp_path: Path) -> None:
    left = {
        "half": torch.tensor([1.0, 2.0]).half(),
        "shape": torch.ones(2, 3),
        "turned": torch.ones(3, 2),
        "scalar": torch.tensor([3.0]),
        "empty": torch.ones(0, 3),
        "count": torch.tensor(7),
        "flag": torch.tensor([True]),
        "meta": torch.ones(2),
        "epoch": 3,
    }
    right = {
        "half": torch.tensor([1.0, 2.5]),
        "shape": torch.ones(3, 3),
        "turned": torch.ones(2, 3).T,
        "scalar": torch.tensor(3.5),
        "empty": torch.ones(0, 3),
        "count": torch.tensor(9),
        "flag": torch.tensor([1.0]),
        "meta": torch.ones(2, device="meta"),
        "epoch": 4,
    }
    found = comparison(save(left, tmp_path / "a.pt"), save(right, tmp_path / "b.pt"))
    numbers = {key: row["max_abs"] for key, row in rows(found).items()}
    assert numbers == {
        "half": 0.5, "shape": None, "turned": 0, "scalar": 0.5, "empty": 0, "count": 2, "flag": 0, "meta": None,
    }  # fmt: skip
    assert rows(found)["half"]["dtypes"] == ["float16", "float32"]
    assert (rows(found)["shape"]["note"], rows(found)["shape"]["shapes"]) == ("shapes differ", [[2, 3], [3, 3]])
    assert rows(found)["meta"]["note"] == f"saved on the meta device, without values: {tmp_path / 'b.pt'}"
    assert (found["only_left"], found["only_right"]) == ([], [])


def test_layers_that_differ_alike_are_one_module_and_the_largest_comes_first(tmp_path: Path) -> None:
    state = layers(12)
    by = {f"layers_{n}_attn_weight": 0.25 + n / 100 for n in range(12)}
    other = changed(state, embed_weight=0.5, layers_3_mlp_weight=2, **by)
    other["layers.5.attn.bias"] = torch.ones(5)
    other["head.weight"] = torch.ones(2)
    report = compared(save(state, tmp_path / "a.pt"), save(other, tmp_path / "b.pt"))
    assert report.comparison is not None
    modules = [(m["module"], m["count"], m["tensors"], m["differing"]) for m in report.comparison["modules"]]
    assert modules[0] == ("layers.5.attn", 1, 2, 2)
    assert modules[1] == ("layers.3.mlp", 1, 1, 1)
    assert modules[2] == ("embed", 1, 1, 1)
    assert [m for m in modules if m[0] == "head"] == [("head", 1, 0, 0)]
    assert sum(m[2] for m in modules) == len(state)
    assert [m["max_abs"] for m in report.comparison["modules"] if m["module"] == "layers.{0..4,6..11}.attn"] == [
        pytest.approx(0.36)
    ]
    table = [text for label, text, _ in lines(report)]
    assert "37 tensors: 22 equal, 14 different, 1 of other shapes" in table
    assert f"only in {tmp_path / 'b.pt'}, 1: head.weight" in table
    assert "shapes differ: layers.5.attn.bias [4] and [5]" in table
    heads = next(text for label, text, _ in lines(report) if label == "by module")
    assert heads.split() == ["module", "tensors", "differ", "max", "abs", "mean", "abs", "cosine"]
    assert table[table.index(heads) + 2].split()[:4] == ["layers.3.mlp", "1", "1", "2"]
    assert not [text for text in table if text.startswith("layers.{0..2")]  # equal ones are not listed


def test_a_limit_makes_a_difference_a_failure(tmp_path: Path) -> None:
    state = layers(1)
    one = save(state, tmp_path / "a.pt")
    other = save(changed(state, embed_weight=0.5, layers_0_mlp_weight=0.125), tmp_path / "b.pt")
    report = Report()
    with pytest.raises(VerificationError) as refusal:
        compared(one, other, compare={"atol": 0.25}, report=report)
    assert refusal.value.message == (
        f"{one} and {other} are not equal within compare.atol=0.25: 1 tensor by more: embed.weight by 0.5"
    )
    assert [str(fix) for fix in refusal.value.fixes] == ["compare.atol=0.5   # accepts the differences"]
    assert report.exit_code == 5
    assert report.comparison is not None
    assert compared(one, other, compare={"atol": 0.5}).exit_code == 0
    assert compared(one, one, compare={"atol": 0}).exit_code == 0


LEAVE_OUT = "a rule of kind drop or keep leaves tensors out, in rules and in compare.rules"
UNPAIRED = [
    (
        {"new.a": torch.ones(1), "new.b": torch.ones(1)},
        "2 tensors only in {b}: new.a, new.b",
        "'+compare.rules={apart: {drop: new.*}}'   # leaves them out",
    ),
    (
        {"embed.weight": None},
        "1 tensor only in {a}: embed.weight",
        "'+rules={apart: {drop: embed.weight}}'   # leaves them out",
    ),
    (
        {"embed.weight": torch.ones(2)},
        "1 tensor without a number: embed.weight [5, 4] and [2]: shapes differ",
        LEAVE_OUT,
    ),
    (
        {"embed.weight": torch.full((5, 4), math.nan)},
        "1 tensor without a number: embed.weight [5, 4] and [5, 4]: 20 elements: NaN or infinity on one side",
        LEAVE_OUT,
    ),
]


@pytest.mark.parametrize(("change", "said", "fix"), UNPAIRED)
def test_what_has_no_partner_or_no_number_is_beyond_any_limit(
    tmp_path: Path, change: dict[str, Any], said: str, fix: str
) -> None:
    state = layers(1)
    other = {key: value for key, value in {**state, **change}.items() if value is not None}
    one, two = save(state, tmp_path / "a.pt"), save(other, tmp_path / "b.pt")
    with pytest.raises(VerificationError) as refusal:
        compared(one, two, compare={"atol": 1e9})
    assert refusal.value.message.endswith(f"compare.atol=1e+09: {said.format(a=one, b=two)}")
    assert [str(each) for each in refusal.value.fixes] == [fix]
    assert compared(one, two).exit_code == 0


def test_files_without_a_common_key_are_listed_and_equal_to_nothing(tmp_path: Path) -> None:
    one, two = save({"a": torch.ones(1)}, tmp_path / "a.pt"), save({"b": torch.ones(1)}, tmp_path / "b.pt")
    found = comparison(one, two)
    assert (found["only_left"], found["only_right"], found["tensors"]) == (["a"], ["b"], [])
    with pytest.raises(VerificationError, match="1 tensor only in"):
        compared(one, two, compare={"atol": 1})


def test_each_side_has_its_rules_and_refusals_name_its_keys(tmp_path: Path) -> None:
    state = layers(1)
    one = save({"net": state}, tmp_path / "a.pt")
    two = save({f"module.{key}": value for key, value in state.items()}, tmp_path / "b.pt")
    found = comparison(one, two, checkpoint={"key": "net"}, compare={"rules": ["ddp"]})
    assert len(found["tensors"]) == 4
    with pytest.raises(FitError) as refusal:
        compared(one, two)
    assert [str(fix) for fix in refusal.value.fixes] == ["checkpoint.key=net   # 4 tensors, weights"]
    with pytest.raises(FitError) as refusal:
        compared(two, one)
    assert [str(fix) for fix in refusal.value.fixes] == ["compare.key=net   # 4 tensors, weights"]
    with pytest.raises(FitError, match=r"1 rule matches none of the 4 keys") as refusal:
        compared(two, one, compare={"key": "net", "rules": {"x": {"strip": "nothing."}}})
    assert all("compare.rules" in fix.line for fix in refusal.value.fixes if "rules" in fix.line)
    with pytest.raises(CheckpointError, match=r"compare\.format says safetensors") as failed:
        compared(two, one, compare={"format": "safetensors"})
    assert [fix.line for fix in failed.value.fixes] == ["compare.format=torch-zip"]
    with pytest.raises(ConfigError, match=r"compare\.check is 'all'|'compare.check'"):
        compared(two, one, compare={"check": "all"})


def test_auto_takes_the_names_of_the_other_side(tmp_path: Path) -> None:
    state = layers()
    one = save(changed(state, embed_weight=1), tmp_path / "a.pt")
    wrapped = {f"module._orig_mod.{key}": value for key, value in state.items()}
    two = save({"state": wrapped, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "b.pt")
    report = compared(one, two, compare={"key": "auto", "rules": "auto"})
    assert report.comparison is not None
    assert len(report.comparison["tensors"]) == 10
    assert report.parts["compare"].key == "state"
    assert report.parts["compare"].applied == ["compare.key=state", "'compare.rules=[ddp,compile]'"]
    report = compared(two, one, checkpoint={"key": "auto"}, rules="auto")
    assert report.comparison is not None
    assert len(report.comparison["tensors"]) == 10
    assert compared(two, one, checkpoint={"key": "auto"}).parts[""].applied == ["checkpoint.key=state"]
    with pytest.raises(FitError, match="both sides have auto settings"):
        compared(two, one, checkpoint={"key": "auto"}, rules="auto", compare={"rules": "auto"})
    alien = save({"x": torch.ones(77)}, tmp_path / "c.pt")
    with pytest.raises(FitError, match=r"compare\.rules=auto: .*c\.pt gets the names of the other file in no way"):
        compared(one, alien, compare={"rules": "auto"})


def test_auto_does_not_mind_what_only_one_side_has(tmp_path: Path) -> None:
    state = layers()
    wrapped = {f"module.{key}": value for key, value in state.items() if key != "embed.weight"}
    wrapped["module.extra.bias"] = torch.ones(3)
    found = comparison(save(state, tmp_path / "a.pt"), save(wrapped, tmp_path / "b.pt"), compare={"rules": "auto"})
    assert (found["only_left"], found["only_right"]) == (["embed.weight"], ["extra.bias"])


def test_parts_are_compared_under_the_models_names(tmp_path: Path) -> None:
    encoder, head = layers(1), {"weight": torch.ones(3)}
    whole = {**{f"encoder.{key}": value for key, value in encoder.items()}, "head.weight": torch.zeros(3)}
    paths = {"encoder": save(encoder, tmp_path / "e.pt"), "head": save(head, tmp_path / "h.pt")}
    parts = {name: {"path": str(path)} for name, path in paths.items()}
    report = compared("", save(whole, tmp_path / "whole.pt"), parts=parts)
    assert report.comparison is not None
    assert [key for key, row in rows(report.comparison).items() if row["differing"]] == ["head.weight"]
    assert [*report.parts] == ["encoder", "head", "compare"]
    with pytest.raises(ConfigError, match="a part is called 'compare'"):
        compared("", save(whole, tmp_path / "whole.pt"), parts={"compare": parts["head"]})


def test_damage_is_refused_on_either_side(tmp_path: Path) -> None:
    state = {"w": torch.arange(4096.0), "b": torch.ones(64)}
    one = save(state, tmp_path / "a.pt")
    broken = bytearray(one.read_bytes())
    broken[len(broken) // 2] ^= 1
    two = tmp_path / "b.pt"
    two.write_bytes(broken)
    for left, right in ((one, two), (two, one), (two, two)):
        for mmap in (True, False):
            with pytest.raises(CheckpointError, match=r"b\.pt is damaged: checksum mismatch .* damaged with them: w"):
                compared(left, right, checkpoint={"mmap": mmap}, compare={"mmap": mmap})
    found = comparison(one, two, compare={"check": "structure"}, checkpoint={"check": "structure"})
    assert rows(found)["w"]["differing"] == 1


def test_the_same_bytes_of_one_file_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"w": torch.arange(4096.0), "tied": torch.zeros(8), "nan": torch.full((3,), math.nan)}
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    (tmp_path / "b.safetensors").symlink_to(path)

    def unread(*_: object) -> None:
        raise AssertionError("the bytes were read")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFile, "mapping", property(unread))
        patch.setattr(CheckpointFile, "fill", unread)
        patch.setattr(CheckpointFile, "read_into", unread)
        found = comparison(path, tmp_path / "b.safetensors", compare={"atol": 0})
    assert all((row["max_abs"], row["cosine"]) == (0, 1) for row in found["tensors"])


def test_the_other_file_is_required(tmp_path: Path) -> None:
    path = save(layers(1), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"mode=compare needs compare\.path") as refusal:
        compared(path, "")
    assert [fix.line for fix in refusal.value.fixes] == ["compare.path=FILE"]
    with pytest.raises(ConfigError, match=r"'compare\.atol' is -1\.0, expected a number from 0"):
        compared(path, path, compare={"atol": -1})


def test_a_hostile_name_is_harmless_in_the_table(tmp_path: Path) -> None:
    one = save({"a\x1b[31m.w": torch.ones(1), "b\nc.w": torch.ones(1)}, tmp_path / "a.pt")
    two = save({"a\x1b[31m.w": torch.zeros(1), "\u202ed": torch.ones(1)}, tmp_path / "b.pt")
    shown = "".join(f"{label} {text}" for label, text, _ in lines(compared(one, two)))
    assert not {"\x1b", "\n", "\u202e"} & set(shown)


FUSED = {"rules": {"qkv": {"split": "qkv", "into": ["q", "k", "v"]}}}


def test_a_rule_takes_sizes_from_the_other_side(tmp_path: Path) -> None:
    fused, apart = (
        {"qkv": torch.arange(8.0).view(8, 1)},
        dict(zip("qkv", torch.split(torch.arange(8.0).view(8, 1), [4, 2, 2]), strict=True)),
    )
    one, two = save(fused, tmp_path / "a.pt"), save(apart, tmp_path / "b.pt")
    for left, right, settings in ((one, two, FUSED), (two, one, {"compare": FUSED})):
        found = comparison(left, right, **settings)
        assert [row["max_abs"] for row in found["tensors"]] == [0, 0, 0]
        assert [row["shapes"][0] for row in found["tensors"]] == [[4, 1], [2, 1], [2, 1]]


def test_computed_tensors_are_compared_before_they_are_rounded(tmp_path: Path) -> None:
    one = save({"w": torch.tensor([1.0, 3.0]).bfloat16()}, tmp_path / "a.pt")
    two = save({"w": torch.tensor([1.001, 3.0])}, tmp_path / "b.pt")
    found = comparison(one, two, rules={"more": {"scale": "w", "by": 1.0, "plus": 0.001}})
    assert rows(found)["w"]["dtypes"] == ["bfloat16", "float32"]
    assert rows(found)["w"]["max_abs"] == pytest.approx(0.001, rel=1e-3)
    assert rows(found)["w"]["differing"] == 1


def test_initial_values_of_a_model_are_refused(tmp_path: Path) -> None:
    one, two = save({"w": torch.ones(2, 3)}, tmp_path / "a.pt"), save({"w": torch.ones(4, 3)}, tmp_path / "b.pt")
    rule = {"resize": "w", "by": "rows"}
    with pytest.raises(
        FitError, match=r"a rule takes initial values of the model for w in .*, and mode=compare has no"
    ):
        compared(one, two, rules={"more": rule})
    assert rows(comparison(one, two, rules={"more": {**rule, "fill": "mean"}}))["w"]["max_abs"] == 0


def test_a_side_may_be_several_files(tmp_path: Path) -> None:
    one, two = (save({"w": torch.tensor(values)}, tmp_path / f"{values[0]}.pt") for values in ([1.0, 2.0], [3.0, 6.0]))
    half = save({"w": torch.tensor([2.0, 5.0])}, tmp_path / "half.pt")
    both = [str(one), str(two)]
    found = comparison(half, "", compare={"path": both, "combine": "mean"})
    assert (rows(found)["w"]["max_abs"], rows(found)["w"]["differing"]) == (1, 1)
    assert comparison("", one, checkpoint={"path": both, "combine": [1, 0]}, compare={"atol": 0})["tensors"]
    with pytest.raises(
        ConfigError, match=r"'compare\.path' lists 2 files .*, and 'compare\.combine' does not say"
    ) as refusal:
        compared(half, "", compare={"path": both})
    assert refusal.value.fixes[0].line == "compare.combine=mean"


def test_adapters_are_added_to_the_left_side(tmp_path: Path) -> None:
    write_examples(tmp_path)
    base, adapter = tmp_path / "tiny_bert.safetensors", str(tmp_path / "tiny_bert_lora")
    found = comparison(base, base, adapters={"lora": {"path": adapter}})
    assert found["total"]["differing"] == 4
    assert comparison(base, base, adapters={"lora": {"path": adapter, "scale": 0}}, compare={"atol": 0})["tensors"]
    report = compared(base, base, adapters={"lora": {"path": adapter}})
    assert [one["name"] for one in report.parts[""].adapters] == ["lora"]
    assert comparison(adapter, adapter, compare={"atol": 0})["total"]["tensors"] == 8


def test_files_with_few_common_names_come_with_the_rules_that_find_more(tmp_path: Path) -> None:
    state = layers()
    one = save(state, tmp_path / "a.pt")
    two = save({f"module.{key}": value for key, value in state.items()}, tmp_path / "b.pt")
    report = compared(one, two)
    assert report.parts["compare"].note == (
        "0 tensors of 10 and 10 have the same name; 'compare.rules=[ddp]' finds more"
    )
    assert compared(one, two, compare={"rules": ["ddp"]}).parts["compare"].note == ""
    alien = save({"x": torch.ones(1), "y": torch.ones(1)}, tmp_path / "c.pt")
    assert compared(one, alien).parts["compare"].note.endswith("; rules and compare.rules rename them")


def test_quantized_weights_come_with_the_rule_that_makes_them_plain(tmp_path: Path) -> None:
    write_examples(tmp_path)
    quantized, plain = tmp_path / "tiny_fp8.safetensors", tmp_path / "plain.safetensors"
    save_file({"linear.weight": torch.ones(130, 160), "linear.bias": torch.ones(130)}, plain)
    said = "its quantized weights are compared without their scales; '{}' makes them plain"
    assert compared(quantized, plain).parts[""].note == said.format("rules=[fp8]")
    assert compared(plain, quantized).parts["compare"].note == said.format("compare.rules=[fp8]")
    assert compared(quantized, plain, rules=["fp8"]).parts[""].note == ""
    assert compared(quantized, quantized).parts[""].note == ""
