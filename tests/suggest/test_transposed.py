"""Square weights next to transposed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import loader
from loader.errors import FitError
from loader.keys.plan import Match, Mismatch, Plan, Taken, Wanted
from loader.report.terminal import lines
from loader.suggest.layouts import ways
from loader.suggest.nature import in_doubt, transposed
from tests.jobs import carry_out, save
from tests.suggest.architectures import build

DOUBT = "square and next to transposed ones, so they may be transposed too: "
GPT = {"_target_": "tests.suggest.architectures.build", "name": "gpt"}
PROJECTIONS = "transformer.h.{0..2}.attn.c_proj.weight"


Shapes = Mapping[str, tuple[int, ...]]


def planned(loaded: Shapes, crossed: Shapes) -> tuple[Plan, dict[str, Wanted]]:
    wanted = {key: Wanted(shape, "float32", "parameter", key) for key, shape in {**loaded, **crossed}.items()}
    plan = Plan(
        matches=[Match(key, Taken(key, shape, "float32")) for key, shape in loaded.items()],
        mismatched=[Mismatch(key, shape, (shape[1], shape[0], *shape[2:])) for key, shape in crossed.items()],
    )
    return plan, wanted


def doubt(loaded: Shapes, crossed: Shapes) -> str:
    return in_doubt(*planned(loaded, crossed)).removeprefix(DOUBT)


def test_a_square_next_to_a_transposed_one_is_in_doubt() -> None:
    assert doubt({"a.out.weight": (4, 4), "a.out.bias": (4,)}, {"a.qkv.weight": (12, 4)}) == "a.out.weight"


def test_a_square_among_straight_ones_is_not() -> None:
    loaded = {"vision.up.weight": (8, 4), "vision.out.weight": (4, 4), "text.out.weight": (4, 4)}

    assert doubt(loaded, {"text.qkv.weight": (12, 4)}) == "text.out.weight"


def test_nothing_is_in_doubt_where_nothing_is_transposed() -> None:
    assert doubt({"a.weight": (4, 4), "b.weight": (8, 4)}, {}) == ""
    plan, wanted = planned({"a.out.weight": (4, 4)}, {})
    other = replace(plan, mismatched=[Mismatch("a.qkv.weight", (12, 4), (13, 4))])
    assert in_doubt(other, wanted) == ""


def test_kernels_of_transposed_convolutions_are_distinguished_from_their_channels() -> None:
    assert doubt({"up.1.weight": (8, 8, 3, 3), "fc.weight": (4, 4)}, {"up.0.weight": (16, 8, 3, 3)}) == "up.1.weight"


@pytest.mark.parametrize(
    ("model", "file", "crossed"),
    [((2, 3), (3, 2), True), ((2, 2), (2, 2), False), ((2, 3, 5), (3, 2, 5), True), ((2, 3, 5), (5, 3, 2), True),
     ((2,), (3,), False), ((2, 3), (2, 4), False), ((), (1,), False)],
)  # fmt: skip
def test_shapes_are_transposed(model: tuple[int, ...], file: tuple[int, ...], crossed: bool) -> None:
    assert bool(ways(model, file)) is crossed


def test_hostile_names_are_shown_as_text_and_many_are_cut() -> None:
    loaded = {f"{name}\x1b.{n}.weight": (n, n) for n, name in enumerate("abcdef", 4)}
    plan, wanted = planned(loaded, {"x.weight": (12, 4)})
    message = transposed(plan, wanted)[1]

    assert "\x1b" not in message
    assert message.endswith(", …")


def conv1d() -> dict[str, torch.Tensor]:
    """A GPT-2 as OpenAI's code keeps it: every matrix of a block transposed."""
    state = build("gpt").state_dict()
    return {k: v.t().contiguous() if ".c_" in k and v.dim() == 2 else v for k, v in state.items()}


def test_a_refusal_names_the_squares_that_would_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(FitError) as refused:
        carry_out(GPT, save(conv1d(), tmp_path / "gpt.pt"))

    assert f"\n  {DOUBT}{PROJECTIONS}" in refused.value.message


ALLOWED = ["*.attn.c_attn.weight", "*.mlp.c_*.weight"]


@pytest.mark.parametrize(
    "settings",
    [
        {"allow": {"mismatched": ALLOWED}},
        {"allow": {"missing": ALLOWED}, "rules": {"a": {"drop": ALLOWED[0]}, "b": {"drop": ALLOWED[1]}}},
    ],
)
@pytest.mark.parametrize("mode", ["load", "plan"])
def test_a_load_that_passes_says_it_in_its_report(mode: str, settings: dict[str, object], tmp_path: Path) -> None:
    report = carry_out(GPT, save(conv1d(), tmp_path / "gpt.pt"), mode=mode, **settings).report

    assert report.status == "ok"
    assert report.parts[""].note == DOUBT + PROJECTIONS
    assert DOUBT + PROJECTIONS in [text for _, text, _ in lines(report)]


def test_a_live_model_says_it_too(tmp_path: Path) -> None:
    report = loader.load_into(build("gpt"), save(conv1d(), tmp_path / "gpt.pt"), allow={"mismatched": ALLOWED})

    assert report.parts[""].note == DOUBT + PROJECTIONS


def test_a_load_without_transposed_weights_notes_nothing(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    state = model.state_dict() | {"1.weight": torch.zeros(3, 4), "1.bias": torch.zeros(3)}
    report = loader.load_into(model, save(state, tmp_path / "m.pt"), allow={"mismatched": ["1.*"]})

    assert report.parts[""].note == ""
