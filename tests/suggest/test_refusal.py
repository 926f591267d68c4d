from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader.errors import FitError
from loader.job import execute
from loader.report.data import Report
from tests.jobs import carry_out, save, target
from tests.suggest.architectures import build


def refusal(model: str | dict[str, Any], state: object, folder: Path, **settings: object) -> FitError:
    path = save(state, folder / "file.pt")
    with pytest.raises(FitError) as refused:
        carry_out(model, path, **settings)
    refused.value.message = refused.value.message.replace(str(path), "FILE")
    return refused.value


def state(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in model.state_dict().items()}


def pair() -> nn.Module:
    from tests.models import Pair

    return Pair()


def test_a_refusal_is_grouped_explained_and_carries_the_plan_and_the_line_to_type(tmp_path: Path) -> None:
    error = refusal("Pair", state(pair(), "net."), tmp_path)

    assert error.message == (
        "FILE does not fit the model: 0 of 6 keys would be loaded.\n"
        "  backbone.*  4 missing from the file\n"
        "  head.*      2 missing from the file\n"
        "  net.*       6 unexpected in the file\n"
        "6 of 6 keys would be loaded this way: the file has 'net.' at the start of its keys"
    )
    assert error.hint == """'rules={fit: {strip: "net."}}'"""
    assert error.plan is not None
    assert error.plan.loaded == []
    assert error.exit_code == 4


def test_shapes_are_side_by_side_and_the_other_head_may_stay_out(tmp_path: Path) -> None:
    other = pair().state_dict() | {"head.weight": torch.zeros(7, 4), "head.bias": torch.zeros(7)}

    error = refusal("Pair", other, tmp_path)

    assert error.message == (
        "FILE does not fit the model: 4 of 6 keys would be loaded.\n"
        "  head.weight  model [2, 4]  file [7, 4]\n"
        "  head.bias    model [2]  file [7]\n"
        "2 explanations:\n"
        "  1. 6 of 6 keys would be loaded this way: rows that both have are copied: 'head.weight' [7, 4] → [2, 4], "
        "'head.bias' [7] → [2]\n"
        "  2. 4 of 6 keys would be loaded this way: head.* has another size and stays as the model initializes it"
    )
    copied, kept = error.hint.splitlines()
    doubt = "shapes do not show the order: compare with a golden record"
    assert copied == f"""'rules={{fit: {{resize: "head.*", by: "rows"}}}}'   # {doubt}"""
    assert kept == "'allow.mismatched=[head.*]'"


def test_average_and_raw_weights_are_both_shown_and_numbered_alike(tmp_path: Path) -> None:
    raw = state(pair(), "module.")
    average = {key: value + 1 for key, value in raw.items()}

    error = refusal("Pair", {"model": raw, "ema": average, "epoch": 3}, tmp_path)

    assert error.message.splitlines()[-4:] == [
        "keys of the model that each nested key could fill: model 6, ema 6",
        "2 explanations are equally good:",
        "  1. 6 of 6 keys would be loaded this way: the weights are under 'model'; the file has 'module.' in its keys",
        "  2. 6 of 6 keys would be loaded this way: the weights are under 'ema'; the file has 'module.' in its keys",
    ]
    assert error.hint == "checkpoint.key=model 'rules=[ddp]'\ncheckpoint.key=ema 'rules=[ddp]'"


def test_auto_takes_neither_of_two_and_says_so(tmp_path: Path) -> None:
    raw = state(pair())
    average = {key: value + 1 for key, value in raw.items()}

    error = refusal("Pair", {"model": raw, "ema": average}, tmp_path, checkpoint={"key": "auto"}, rules="auto")

    assert error.message.splitlines()[0] == (
        "checkpoint.key=auto rules=auto: FILE fits the model in 2 ways that are equally good, so none is chosen."
    )
    assert error.hint == "checkpoint.key=model 'rules=[]'\ncheckpoint.key=ema 'rules=[]'"


def test_auto_takes_no_allowance_by_itself(tmp_path: Path) -> None:
    error = refusal("Pair", state(pair()) | {"extra.weight": torch.zeros(3)}, tmp_path, rules="auto")

    assert error.message.splitlines() == [
        "rules=auto: FILE fits only in a way that rules=auto may not choose.",
        "  extra.*  1 unexpected in the file",
        "6 of 6 keys would be loaded this way: extra.* of the file is not loaded",
    ]
    assert error.hint == "'rules=[]' 'allow.unexpected=[extra.*]'"


def test_what_does_not_belong_together_gets_no_line_to_type(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)).state_dict()
    hint = (
        "checkpoint.path=…   # another file: no nested key or rule was found that makes this one fit\n"
        "model=…   # another architecture"
    )

    assert refusal("Pair", other, tmp_path).hint == hint
    assert refusal("Pair", other, tmp_path, rules="auto").hint == hint


def test_auto_explains_as_much_as_the_plain_refusal(tmp_path: Path) -> None:
    turned = {key: value.T.contiguous() if value.dim() > 1 else value for key, value in pair().state_dict().items()}
    nothing = "nothing was found that makes FILE fit the model."
    several = "FILE fits the model in 2 ways that are equally good, so none is chosen."
    for file, found in ((turned, several), ({"backbone.0.weight": torch.zeros(3, 3)}, nothing)):
        plain = refusal("Pair", file, tmp_path).message.splitlines()
        auto = refusal("Pair", file, tmp_path, rules="auto").message.splitlines()
        both = refusal("Pair", {"net": file}, tmp_path, rules="auto", checkpoint={"key": "auto"}).message.splitlines()

        assert len(plain) > 1
        assert auto == [f"rules=auto: {found}", *plain[1:]]
        assert found != nothing or set(plain[1:]) <= set(both)


def test_another_depth_is_reported_and_not_excused(tmp_path: Path) -> None:
    node = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 4}] * 3,
    }
    error = refusal(node, nn.Sequential(*[nn.Linear(4, 4)] * 2).state_dict(), tmp_path)

    assert error.message == (
        "FILE does not fit the model: 4 of 6 keys would be loaded.\n"
        "  2.*  2 missing from the file\n"
        "  different depth: {0..2} in the model, {0,1} in the file"
    )
    assert error.hint == (
        "checkpoint.path=…   # another file: no nested key or rule was found that makes this one fit\n"
        "model=…   # another architecture\n"
        "allow.missing, allow.unexpected and allow.mismatched excuse the keys that you name"
    )


def test_a_rule_that_nothing_needs_should_be_left_out(tmp_path: Path) -> None:
    error = refusal("Pair", state(pair()), tmp_path, rules={"ddp": {"strip": "module."}})

    assert error.message.endswith("\n6 of 6 keys would be loaded this way: if no rules are applied")
    assert error.hint == "'rules=[]'"


def test_a_rule_that_hits_nothing_is_replaced_by_one_that_does(tmp_path: Path) -> None:
    error = refusal("Pair", state(pair(), "net."), tmp_path, rules={"ddp": {"strip": "module."}})

    assert error.message.startswith("1 rule matches none of the 6 keys in FILE: 'ddp' (strip: module.).")
    assert error.message.endswith(
        "\n6 of 6 keys would be loaded this way: the file has 'net.' at the start of its keys"
    )
    assert error.hint == """'rules={fit: {strip: "net."}}'"""


def test_the_users_own_rules_come_first_in_what_is_suggested(tmp_path: Path) -> None:
    error = refusal("Pair", state(pair(), "module.net."), tmp_path, rules={"mine": {"strip": "module."}})

    assert error.hint == """'rules={mine: {strip: "module."}, fit: {strip: "net."}}'"""


def test_parts_get_overrides_of_their_own(tmp_path: Path) -> None:
    node = target("Pair")
    two = {"body": state(pair().get_submodule("backbone"), "module."), "top": pair().get_submodule("head").state_dict()}

    error = refusal(node, two, tmp_path, parts={"backbone": {}, "head": {"key": "top"}})

    assert shlex.split(error.hint) == [
        "parts.backbone.key=body",
        r'parts.backbone.rules={ddp: {regex: "^((?:_orig_mod\.)*)module\.", to: "\1"}}',
    ]
    assert "6 of 6 keys would be loaded this way: backbone: the weights are under 'body'; " in error.message


def test_what_belongs_to_no_part_is_excused_by_name(tmp_path: Path) -> None:
    error = refusal(
        "Pair", {"body": state(pair().get_submodule("backbone"))}, tmp_path, parts={"backbone": {"key": "body"}}
    )

    assert error.message.splitlines()[-1] == "4 of 6 keys would be loaded this way: head.* belongs to no part"
    assert error.hint == "'allow.missing=[head.*]'"


def test_transposed_and_weight_normed_weights_are_reported(tmp_path: Path) -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)).state_dict()
    file = state(pair().get_submodule("backbone"), "backbone.") | {
        f"head.{key}": value for key, value in normed.items()
    }

    text = refusal("Pair", file, tmp_path).message

    assert "\n  weight-normed in the file and plain in the model: head" in text
    turned = refusal("Pair", pair().state_dict() | {"head.weight": torch.zeros(4, 2)}, tmp_path)
    assert "\n  transposed in the file: head.weight" in turned.message
    assert """'rules={fit: {rearrange: "head.weight", pattern: "i o -> o i"}}'   # shapes do not""" in turned.hint


def test_hostile_keys_are_shown_as_text_and_never_typed(tmp_path: Path) -> None:
    error = refusal("Pair", pair().state_dict() | {"\x1b[31m\n'": torch.zeros(1)}, tmp_path)

    assert error.message.splitlines()[1] == "  \\x1b[31m\\n'  1 unexpected in the file [1]"
    assert "\x1b" not in error.hint


def test_a_number_of_the_models_config_is_set_where_it_is_the_size_that_differs(tmp_path: Path) -> None:
    node = {"_target_": "tests.suggest.architectures.build", "name": "named_mlp", "classes": 10}
    file = {"module." + key: value for key, value in build("named_mlp", 37).state_dict().items()}

    error = refusal(node, file, tmp_path)

    head, changed, copied, kept = error.message.splitlines()[-4:]
    prefix = "keys would be loaded this way: the file has 'module.' in its keys;"
    assert head == "3 explanations:"
    assert changed == f"  1. 6 of 6 {prefix} the file's sizes are those of model.classes=37"
    assert copied.startswith(f"  2. 6 of 6 {prefix} rows that both have are copied: 'out.weight' [37, 24] → [10, 24]")
    assert kept == f"  3. 4 of 6 {prefix} out.* has another size and stays as the model initializes it"
    first, second, third = error.hint.splitlines()
    assert first == "'rules=[ddp]' model.classes=37"
    assert '{resize: "out.*", by: "rows"}' in second
    assert third == "'rules=[ddp]' 'allow.mismatched=[out.*]'"


def five(**extra: torch.Tensor) -> dict[str, torch.Tensor]:
    own = {
        f"{name}.{kind}": torch.zeros(8, 8) if kind == "weight" else torch.zeros(8)
        for name in "abcde"
        for kind in KINDS
    }
    return own | extra


KINDS = ("weight", "bias")
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 8, "out_features": 8}
FIVE = {"_target_": "torch.nn.ModuleDict", "modules": dict.fromkeys("abcde", LINEAR)}


def test_more_modules_than_can_be_named_are_left_out_together(tmp_path: Path) -> None:
    file = five(**{f"x{number}.weight": torch.zeros(8, 8) for number in range(15)})

    error = refusal(FIVE, file, tmp_path)

    assert (
        error.message.splitlines()[-1] == "10 of 10 keys would be loaded this way: the rest of the file is not loaded"
    )
    assert error.hint == "'allow.unexpected=[*]'"
    assert carry_out(FIVE, tmp_path / "file.pt", allow={"unexpected": ["*"]}).report.keys.loaded == 10


def test_a_few_keys_that_are_the_models_as_they_are_are_enough(tmp_path: Path) -> None:
    node = {**FIVE, "modules": {"a": LINEAR}}

    error = refusal(node, five(), tmp_path)

    assert error.hint == "'allow.unexpected=[b.*,c.*,d.*,e.*]'"


def test_layers_of_another_depth_are_not_left_out_though_everything_is_there(tmp_path: Path) -> None:
    node = {"_target_": "torch.nn.Sequential", "_args_": [LINEAR] * 3}
    file = nn.Sequential(*[nn.Linear(8, 8)] * 20).state_dict()

    assert refusal(node, file, tmp_path).hint.startswith("checkpoint.path=…   # another file: no nested key or rule")


def test_what_a_profiler_counted_may_be_left_out(tmp_path: Path) -> None:
    counters = {f"{place}{name}": torch.zeros(1, dtype=torch.float64) for place in ("", "a.", "b.") for name in COUNTED}

    error = refusal(FIVE, five(**counters), tmp_path)

    assert error.hint == "'allow.unexpected=[total_ops,total_params,*.total_ops,*.total_params]'"
    assert "10 of 10 keys would be loaded this way: " in error.message


COUNTED = ("total_ops", "total_params")


@pytest.mark.parametrize("prefix", ["", "net."])
def test_extra_state_that_a_file_lacks_in_modules_that_load_may_be_missing(prefix: str, tmp_path: Path) -> None:
    node = {"_target_": "torch.nn.ModuleDict", "modules": {key: {"_target_": "tests.models.Extra"} for key in "ab"}}
    file = {f"{prefix}{name}.weight": torch.ones(2) for name in "ab"}

    error = refusal(node, file, tmp_path)

    assert error.hint.endswith("'allow.missing=[*._extra_state]'")
    assert error.message.splitlines()[-1].endswith("*._extra_state stays as the model initializes it")


def test_a_sub_network_is_found_among_others(tmp_path: Path) -> None:
    node = {"_target_": "torch.nn.ModuleDict", "modules": {"fc": {**LINEAR, "bias": False}}}
    others = {f"conv.{n}.layers.{k}.weight": torch.zeros(8, 8) for n in range(4) for k in range(3)}
    file = {
        "model": {"state_dict": {**others, "composition.fc.weight": torch.ones(8, 8), "mlp.0.weight": torch.zeros(1)}}
    }

    error = refusal(node, file, tmp_path)

    assert error.hint == (
        """checkpoint.key=model.state_dict 'rules={fit: {keep: "composition.*"}, fit2: {strip: "composition."}}'"""
    )
    twice = file["model"]["state_dict"] | {"other.fc.weight": torch.zeros(8, 8)}
    assert refusal(node, twice, tmp_path).hint.startswith("checkpoint.path=…   # another file: no nested key or rule")
    part = file["model"]["state_dict"] | {"composition.out.weight": torch.zeros(8, 8)}
    assert refusal(node, part, tmp_path).hint.startswith("checkpoint.path=…   # another file: no nested key or rule")


def test_a_part_is_found_in_a_file_of_the_whole_model(tmp_path: Path) -> None:
    other = save(pair().state_dict(), tmp_path / "other.pt")
    parts = {"head": {"path": str(other)}}

    error = refusal("Pair", pair().state_dict(), tmp_path, parts=parts)

    assert error.hint == """'parts.head.rules={fit: {keep: "head.*"}, fit2: {strip: "head."}}'"""
    assert "6 of 6 keys would be loaded this way: head: the file has 'head.' at the start of its keys" in error.message


def test_where_no_file_was_given_for_the_rest_it_is_asked_for_first(tmp_path: Path) -> None:
    head = save(pair().get_submodule("head").state_dict(), tmp_path / "head.pt")

    with pytest.raises(FitError) as refused:
        execute({"model": target("Pair"), "parts": {"head": {"path": str(head)}}}, Report())

    assert refused.value.hint.splitlines() == [
        "checkpoint.path=FILE   # fills backbone, which no part does",
        "'allow.missing=[backbone.*]'",
    ]


def test_counters_that_a_hook_makes_up_are_not_counted_as_loaded(tmp_path: Path) -> None:
    node = {"_target_": "torch.nn.Sequential", "_args_": [LAYER, BATCH, LAYER, BATCH]}
    file = {"0.weight": torch.zeros(4, 4), "0.bias": torch.zeros(4)}

    error = refusal(node, file, tmp_path)

    assert error.message.startswith("FILE does not fit the model: 2 of 14 keys would be loaded.")


LAYER = {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 4}
BATCH = {"_target_": "torch.nn.BatchNorm1d", "num_features": 4}
