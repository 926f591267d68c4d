from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from loader.keys.candidates import is_average
from loader.keys.rules.key import Keep, Regex, Strip
from loader.suggest.problem import asked_for, swapped
from tests.jobs import carry_out, same_tensor, save
from tests.models import Pair
from tests.suggest.test_refusal import refusal

SWAPPED = "these are the weights, not the average"
RAW = Pair().state_dict()
AVERAGE = {key: value + 1 for key, value in RAW.items()}


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def undotted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace(".", ""): value for key, value in state.items()} | {"decay": torch.tensor(0.9)}


@pytest.mark.parametrize(
    "name", ["ema", "model_ema", "ema_model", "state.ema", "swa", "polyak", "shadow_params", "averaged.x", "ema2"]
)
def test_what_is_called_an_average_is_one(name: str) -> None:
    assert is_average(name)


@pytest.mark.parametrize("name", ["model", "schema", "emanate", "state_dict", "", "average_pool_weight_s"])
def test_what_is_not_called_so_is_none(name: str) -> None:
    assert is_average(name) == (name == "average_pool_weight_s")


def test_what_was_asked_for_is_recognised_by_the_key_and_the_rules() -> None:
    assert asked_for(None, {}) is None
    assert asked_for("auto", {}) is None
    assert asked_for("state_dict", {}) is False
    assert asked_for("ema", {}) is True
    assert asked_for("state_dict", {"a": Keep("model_ema.*")}) is True
    assert asked_for(None, {"a": Regex(r"^model_ema\.(.*)", to=r"\1")}) is True
    assert asked_for(None, {"a": Strip("ema.", enabled=False)}) is None


def test_only_the_other_of_the_two_is_a_swap() -> None:
    assert swapped(True, "state_dict", ["model.a", "model.b"]) == SWAPPED
    assert swapped(True, "ema", ["a", "b"]) == ""
    assert swapped(True, None, ["model_ema.a", "model_ema.b"]) == ""
    assert swapped(False, "ema", ["a"]) == "this is the average, not the weights"
    assert swapped(None, "ema", ["a"]) == ""
    assert swapped(False, "state_dict", ["a"]) == ""


RULES = {"only": {"keep": "model_ema.*"}, "off": {"strip": "model_ema."}}


def test_weights_in_place_of_an_average_are_said_to_be_that(tmp_path: Path) -> None:
    file = {"state_dict": under("model.", RAW) | under("model_ema.", undotted(AVERAGE))}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": "state_dict"}, rules=RULES)

    assert error.message.splitlines()[-2:] == [
        (
            "6 of 6 keys would be loaded this way: the file has 'model.' at the start of its keys; without the "
            "rules only, off; these are the weights, not the average; only model.* is taken"
        ),
        (
            "'state_dict.model_ema.*' is an average whose names have lost their dots (as LitEma writes them), of 6 of "
            "the model's 6 parameters; no rule puts them back"
        ),
    ]


def test_a_way_that_keeps_the_average_is_the_only_one_offered(tmp_path: Path) -> None:
    file = {"state_dict": under("model.", RAW) | under("model_ema.net.", AVERAGE)}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": "state_dict"}, rules=RULES)

    assert error.hint == ("""'rules={only: {keep: "model_ema.*"}, off: {strip: "model_ema."}, fit: {strip: "net."}}'""")
    assert SWAPPED not in error.message


@pytest.mark.parametrize("rules", ["auto", {"a": {"strip": "model_emma."}}, {}])
def test_weights_and_averages_under_the_key_that_was_typed_are_both_offered(rules: object, tmp_path: Path) -> None:
    file = {"state_dict": under("model.", RAW) | under("model_ema.", AVERAGE)}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": "state_dict"}, rules=rules)

    ways = [f'rules={{fit: {{keep: "{name}.*"}}, fit2: {{strip: "{name}."}}}}' for name in ("model", "model_ema")]
    assert error.hint.splitlines() == [f"'{way}'" for way in ways]


@pytest.mark.parametrize("key", ["ema_state_dict", "ema"])
def test_another_key_than_the_one_that_was_typed_is_said_to_be_one(key: str, tmp_path: Path) -> None:
    file = {"state_dict": RAW, "ema": {"head.bias": torch.zeros(2)}}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": key})

    assert error.message.splitlines()[-1] == (
        f"6 of 6 keys would be loaded this way: the weights are under 'state_dict' and not under '{key}'; {SWAPPED}"
    )


def test_parts_in_place_of_an_average_are_said_to_be_the_weights(tmp_path: Path) -> None:
    halves = {
        name: {key.removeprefix(f"{name}."): v for key, v in RAW.items() if key.startswith(name)} for name in HALVES
    }

    error = refusal("Pair", {"ema": {"lost": torch.zeros(3)}, **halves}, tmp_path, checkpoint={"key": "ema"})

    assert error.hint == "'parts={backbone: {key: backbone}, head: {key: head}}'"
    assert error.message.endswith(f"; {SWAPPED}")


HALVES = ("backbone", "head")


def test_auto_does_not_load_the_weights_where_rules_ask_for_an_average(tmp_path: Path) -> None:
    file = {"state_dict": RAW, "ema": {"head.bias": torch.zeros(2)}}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": "ema"}, rules="auto")

    assert SWAPPED in error.message


@pytest.mark.parametrize("key", [None, "ema"])
def test_an_average_that_is_a_list_is_named(key: str | None, tmp_path: Path) -> None:
    listed = {"decay": 0.9, "num_updates": 3, "shadow_params": list(AVERAGE.values())}

    error = refusal("Pair", {"net": {"a": torch.zeros(3)}, "ema": listed}, tmp_path, checkpoint={"key": key})

    assert error.message.splitlines()[-1] == (
        "'ema.shadow_params' is an average kept as a list of 6 tensors without names, in the order of the model's "
        "parameters; no rule names them"
    )


MOMENTS: dict[str, Any] = {
    "nested": {"exp_avg": RAW, "exp_avg_sq": AVERAGE},
    "flat": under("exp_avg.", RAW) | under("exp_avg_sq.", AVERAGE),
    "behind": {f"{key}.exp_avg": value for key, value in RAW.items()},
    "by parameter": {"optimizer": {"state": {"w": {"exp_avg": RAW["head.bias"]}}, "param_groups": []}},
    "in front": under("optimizer.m.", RAW),
}


@pytest.mark.parametrize("name", ["nested", "flat", "behind", "in front"])
def test_a_file_of_moments_is_said_to_hold_no_weights(name: str, tmp_path: Path) -> None:
    for settings in ({}, {"rules": "auto"}, {"checkpoint": {"key": "auto"}, "rules": "auto"}):
        error = refusal("Pair", MOMENTS[name], tmp_path, **settings)

        assert "the file holds the state of an optimizer" in error.message
        assert "would be loaded this way" not in error.message
        assert error.hint == ("checkpoint.path=…   # the file with the weights, often next to this one")


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_next_to_other_weights_are_never_offered(name: str, tmp_path: Path) -> None:
    file = {"model": {"other.weight": torch.zeros(3, 3)}} | MOMENTS[name]

    for settings in ({}, {"rules": "auto"}, {"checkpoint": {"key": "nope"}}):
        error = refusal("Pair", file, tmp_path, **settings)

        assert error.hint.startswith(
            ("checkpoint.path=…   # another file: no nested key or rule", "none of these fits the model")
        )
        assert "would be loaded this way" not in error.message


def test_a_moment_that_is_named_by_its_key_is_what_was_asked_for(tmp_path: Path) -> None:
    path = save(MOMENTS["nested"], tmp_path / "file.pt")

    model = carry_out("Pair", path, checkpoint={"key": "exp_avg"}).model

    assert model is not None
    assert all(same_tensor(model.state_dict()[key], value) for key, value in RAW.items())


def offered(file: dict[str, Any], tmp_path: Path, key: str | None = None, rules: Any = None) -> str:
    return refusal("Pair", file, tmp_path, checkpoint={"key": key}, rules=rules or {}).hint


@pytest.mark.parametrize(
    ("raw", "average", "typed"),
    [
        ("state_dict", "state_dict_ema", "state_dict_emma"),
        ("state_dict", "state_dict_ema", "state_dict_eam"),
        ("model", "model_ema", "model_emma"),
        ("model", "model_ema", "modelema"),
        ("net", "ema", "eam"),
        ("model", "ema", "em"),
    ],
)
def test_a_mistyped_key_of_an_average_is_answered_with_the_average(
    raw: str, average: str, typed: str, tmp_path: Path
) -> None:
    assert offered({raw: RAW, average: AVERAGE}, tmp_path, typed) == f"checkpoint.key={average}"


def test_a_mistyped_last_segment_is_answered_with_the_whole_key(tmp_path: Path) -> None:
    file = {"model": RAW, "training": {"states": {"ema": AVERAGE}}}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": "emma"})

    assert "(did you mean 'training.states.ema'?)" in error.message
    assert error.hint == "checkpoint.key=training.states.ema"


def test_a_mistyped_key_of_the_weights_is_answered_with_the_weights(tmp_path: Path) -> None:
    assert offered({"state_dict": RAW, "state_dict_ema": AVERAGE}, tmp_path, "statedict") == "checkpoint.key=state_dict"


def test_a_key_that_is_close_to_nothing_is_answered_with_both(tmp_path: Path) -> None:
    hint = offered({"state_dict": RAW, "state_dict_ema": AVERAGE}, tmp_path, "xyz")

    assert hint.splitlines() == ["checkpoint.key=state_dict", "checkpoint.key=state_dict_ema"]


@pytest.mark.parametrize(
    "rules",
    [
        {"a": {"keep": "model_em.*"}, "b": {"strip": "model_em."}},
        {"a": {"regex": r"^model_emma\.(.*)", "to": r"\1"}},
    ],
)
def test_a_mistyped_prefix_of_an_average_is_not_answered_with_the_weights_alone(rules: Any, tmp_path: Path) -> None:
    file = {"state_dict": under("model.", RAW) | under("model_ema.", AVERAGE)}

    hint = offered(file, tmp_path, "state_dict", rules)

    ways = [f'rules={{fit: {{keep: "{name}.*"}}, fit2: {{strip: "{name}."}}}}' for name in ("model", "model_ema")]
    assert hint.splitlines() == [f"'{way}'" for way in ways]


@pytest.mark.parametrize("typed", ["ema.", "em.", "emma."])
def test_an_average_next_to_weights_that_fit_as_they_are_is_offered_alone(typed: str, tmp_path: Path) -> None:
    hint = offered(RAW | under("ema.", AVERAGE), tmp_path, rules={"a": {"strip": typed}})

    assert hint == """'rules={fit: {keep: "ema.*"}, fit2: {strip: "ema."}}'"""


def test_a_line_that_answers_a_typo_loads_the_average(tmp_path: Path) -> None:
    rules = {"fit": {"keep": "ema.*"}, "fit2": {"strip": "ema."}}
    path = save(RAW | under("ema.", AVERAGE), tmp_path / "a.pth")

    model = carry_out("Pair", path, rules=rules).model

    assert model is not None
    assert all(same_tensor(value, AVERAGE[key]) for key, value in model.state_dict().items())


WHOLE = RAW | {"foreign": torch.zeros(3)}
LACKING = {key: value for key, value in RAW.items() if key != "head.bias"}
RESIZED = RAW | {"head.weight": torch.zeros(7, 3)}
UNFIT = {"a foreign tensor": WHOLE, "a missing tensor": LACKING, "a tensor of another shape": RESIZED}
COUNTED = under("module.", AVERAGE) | {"n_averaged": torch.tensor(3)}
AUTO: list[dict[str, Any]] = [{"checkpoint": {"key": "auto"}, "rules": "auto"}, {"checkpoint": {"key": "auto"}}]


@pytest.mark.parametrize("settings", AUTO, ids=["key and rules", "key"])
@pytest.mark.parametrize("name", ["ema", "model_ema", "ema_state_dict", "state_dict_ema", "swa", "polyak"])
@pytest.mark.parametrize("place", ["", "state_dict", "trainer.net"])
def test_auto_offers_the_weights_and_the_average_where_only_the_average_fits_as_it_is(
    place: str, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    file: dict[str, Any] = WHOLE
    for key in reversed(place.split(".") if place else []):
        file = {key: file}

    error = refusal("Pair", file | {name: AVERAGE}, tmp_path, **settings)

    rules = " 'rules=[]'" if "rules" in settings else ""
    assert error.hint.splitlines() == [
        f"checkpoint.key={place or 'null'}{rules} 'allow.unexpected=[foreign]'",
        f"checkpoint.key={name}{rules}",
    ]
    first, _, heading, raw, average = error.message.splitlines()
    assert first.endswith("FILE fits the model in 2 ways, so none is chosen.")
    assert heading == "2 explanations:"
    assert raw.endswith("; foreign of the file is not loaded")
    assert average.endswith("; this is the average, not the weights")


@pytest.mark.parametrize("settings", AUTO, ids=["key and rules", "key"])
@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("where", ["ema", "callbacks.ema.state"])
def test_auto_never_chooses_an_average_next_to_weights_that_do_not_fit(
    where: str, unfit: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    file: dict[str, Any] = AVERAGE
    for key in reversed(where.split(".")):
        file = {key: file}

    error = refusal("Pair", {"state_dict": UNFIT[unfit]} | file, tmp_path, **settings)

    assert error.hint.splitlines()[-1].startswith(f"checkpoint.key={where}")
    assert error.message.endswith("; this is the average, not the weights")


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("key", ["auto", "state_dict"])
def test_auto_never_chooses_an_average_under_a_prefix(key: str, unfit: str, tmp_path: Path) -> None:
    file = {"state_dict": under("model.", UNFIT[unfit]) | under("model_ema.", AVERAGE)}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": key}, rules="auto")

    assert 'keep: "model_ema.*"' in error.hint.splitlines()[-1]
    assert "this is the average, not the weights" in error.message


@pytest.mark.parametrize("unfit", UNFIT)
def test_auto_never_chooses_an_averaged_model_by_another_name(unfit: str, tmp_path: Path) -> None:
    error = refusal("Pair", {"state_dict": UNFIT[unfit], "other": COUNTED}, tmp_path, **AUTO[0])

    assert error.hint.splitlines()[-1] == "checkpoint.key=other 'rules=[ema]'"


def test_auto_finds_no_key_of_an_average_where_the_weights_need_a_rule(tmp_path: Path) -> None:
    error = refusal("Pair", {"state_dict": under("module.", RAW), "ema": AVERAGE}, tmp_path, checkpoint={"key": "auto"})

    assert error.hint.splitlines() == ["checkpoint.key=state_dict 'rules=[ddp]'", "checkpoint.key=ema"]


def test_every_line_that_auto_offers_loads_what_it_says(tmp_path: Path) -> None:
    path = save(WHOLE | {"ema": AVERAGE}, tmp_path / "file.pt")

    raw = carry_out("Pair", path, allow={"unexpected": ["foreign"]}).model
    average = carry_out("Pair", path, checkpoint={"key": "ema"}, rules="auto").model

    assert raw is not None
    assert average is not None
    assert all(same_tensor(value, RAW[key]) for key, value in raw.state_dict().items())
    assert all(same_tensor(value, AVERAGE[key]) for key, value in average.state_dict().items())


@pytest.mark.parametrize(
    "file",
    [
        {"ema": AVERAGE},
        {"ema": AVERAGE, "optimizer": {"exp_avg": RAW, "exp_avg_sq": RAW}},
        {"ema": AVERAGE, "discriminator": {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}},
        {"other": COUNTED},
    ],
    ids=["alone", "optimizer", "another network", "counter"],
)
def test_auto_loads_an_average_that_is_all_that_could_be_the_weights(file: dict[str, Any], tmp_path: Path) -> None:
    model = carry_out("Pair", save(file, tmp_path / "file.pt"), **AUTO[0]).model

    assert model is not None
    assert all(same_tensor(value, AVERAGE[key]) for key, value in model.state_dict().items())


def test_a_part_that_is_called_an_average_is_one(tmp_path: Path) -> None:
    path = save({"state_dict": LACKING, "ema": AVERAGE}, tmp_path / "file.pt")
    root = {"_target_": "torch.nn.ModuleDict", "modules": {"ema": {"_target_": "tests.models.Pair"}}}

    parts: dict[str, dict[str, str]] = {"ema": {}}
    model = carry_out(root, path, parts=parts, **AUTO[0]).model

    assert model is not None
    assert all(same_tensor(value, AVERAGE[key.removeprefix("ema.")]) for key, value in model.state_dict().items())
