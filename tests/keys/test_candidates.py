"""Which nested keys may hold the weights: one ranking, whoever asks."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import loader
from loader.errors import FitError
from loader.formats.tree import Container, Kind, Leaf, Node, TensorEntry
from loader.keys.candidates import LIGHTNING, candidates
from tests.jobs import carry_out, save
from tests.laws import examples
from tests.models import Pair

WEIGHT = TensorEntry("float32", (2, 3))
BIAS = TensorEntry("float32", (2,))
WANTED = [(2, 3), (2,)]


def folder(kind: Kind = "dict", /, **children: Node) -> Container:
    return Container(kind, kind, dict(children))


def ranked(root: Container, wanted: list[Any] | None = None, typed: str | None = None) -> list[tuple[str, str, int]]:
    return [(found.key, found.role, found.fitting) for found in candidates(root, wanted or (), typed)]


def test_the_first_have_most_of_the_models_shapes() -> None:
    root = folder(
        half=folder(weight=WEIGHT, bias=WEIGHT),
        full=folder(weight=WEIGHT, bias=BIAS),
        none=folder(other=TensorEntry("float32", (9,))),
    )

    assert ranked(root, WANTED) == [("full", "weights", 2), ("half", "weights", 1), ("none", "tensors", 0)]


def test_a_key_of_any_shape_takes_what_is_left() -> None:
    assert ranked(folder(weight=BIAS), [None]) == [("", "weights", 1)]
    assert ranked(folder(weight=BIAS), [None, (2,)]) == [("", "weights", 1)]


def test_of_equal_fits_the_weights_come_before_an_average_and_the_outermost_before_the_others() -> None:
    root = folder(
        ema=folder(weight=WEIGHT, bias=BIAS),
        trainer=folder(model=folder(weight=WEIGHT, bias=BIAS)),
        model=folder(weight=WEIGHT, bias=BIAS),
    )

    found = [("model", "weights"), ("trainer.model", "weights"), ("ema", "average")]
    assert ranked(root) == [(key, role, 0) for key, role in found]
    assert ranked(root, WANTED) == [(key, role, 2) for key, role in found]


def test_an_optimizer_is_one_candidate_that_fits_nothing() -> None:
    moments = folder(**{"0": folder(exp_avg=WEIGHT, exp_avg_sq=WEIGHT), "1": folder(exp_avg=BIAS)})
    root = folder(optimizer=folder(state=moments, param_groups=folder("list")), net=folder(weight=WEIGHT))

    optimizer = candidates(root, WANTED)[1]

    assert ranked(root, WANTED) == [("net", "weights", 1), ("optimizer", "optimizer", 0)]
    assert optimizer.names == ("state.0.exp_avg", "state.0.exp_avg_sq", "state.1.exp_avg")
    assert optimizer.why == "an optimizer's state: exp_avg, exp_avg_sq"


def test_the_weights_next_to_an_optimizers_moments_in_one_dict_are_weights() -> None:
    flat = {"net.weight": WEIGHT, "optim.exp_avg.weight": WEIGHT, "optim.exp_avg_sq.weight": WEIGHT}

    assert ranked(folder(**flat), [(2, 3), (2, 3)]) == [("", "weights", 1)]


def test_a_hyperparameter_of_lightning_fits_only_where_it_was_typed() -> None:
    net = folder("module", weight=WEIGHT, bias=BIAS)
    file = folder(
        **{LIGHTNING: Leaf("str")}, hyper_parameters=folder(net=net), state_dict=folder(**{"net.weight": WEIGHT})
    )

    assert ranked(file, WANTED) == [("state_dict", "weights", 1), ("hyper_parameters.net", "tensors", 0)]
    assert ranked(folder(best=file), WANTED)[0] == ("best.state_dict", "weights", 1)
    assert ranked(file, WANTED, "hyper_parameters.net")[0] == ("hyper_parameters.net", "model", 2)


def test_a_file_that_holds_itself_is_walked_once() -> None:
    root = folder(weight=WEIGHT)
    root.children["self"] = root

    assert ranked(root, WANTED) == [("", "weights", 1)]


def first_of(error: FitError) -> str | None:
    """The nested key of the first line to type; the top level is null."""
    words = shlex.split(error.hint.splitlines()[0], comments=True)
    return next((word.partition("=")[2] for word in words if word.startswith("checkpoint.key=")), None)


def by_inspect(path: Path) -> str | None:
    report = loader.load({"mode": "inspect", "checkpoint": {"path": str(path)}}).report
    assert report.inspection is not None
    (file,) = report.inspection["files"]
    return file["candidates"][0]["key"] or "null"


def by_auto(path: Path) -> str | None:
    """The key that auto takes, or the first line of its refusal to choose."""
    try:
        return carry_out("Pair", path, checkpoint={"key": "auto"}, rules="auto").report.parts[""].key or "null"
    except FitError as error:
        return first_of(error)


def by_refusal(path: Path) -> str | None:
    with pytest.raises(FitError) as refused:
        carry_out("Pair", path, checkpoint={"key": "not.in.the.file"})
    return first_of(refused.value)


def weights(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value.detach() for key, value in Pair().state_dict().items()}


NEXT_TO_IT: Mapping[str, Any] = {
    "ema": weights(""),
    "averaged": {"module": weights("")},
    "optimizer": torch.optim.Adam(Pair().parameters()).state_dict(),
    "rng": {"cpu": torch.zeros(5000, dtype=torch.uint8)},
    "scores": [torch.zeros(3), torch.zeros(2, 4)],
    "old": {"head.weight": torch.zeros(2, 4)},
    "grads": weights(""),
    "hyper_parameters": {"net": Pair(), "lr": 0.1},
    LIGHTNING: "2.4.0",
}


@settings(deadline=None, max_examples=examples(25))
@given(
    st.sampled_from([None, "state_dict", "model", "zz", "trainer.net", "trainer.state_dict"]),
    st.sampled_from(["", "module.", "net.", "_orig_mod."]),
    st.sets(st.sampled_from(list(NEXT_TO_IT))),
    st.booleans(),
)
@example("zz", "net.", {"ema", "averaged"}, True)
@example("state_dict", "module.", {"ema", "hyper_parameters", LIGHTNING}, True)
@example(None, "", {"ema", "optimizer", "grads"}, False)
def test_inspect_auto_and_a_refusal_name_the_same_first_key(
    key: str | None, prefix: str, extras: set[str], last: bool
) -> None:
    main: dict[str, Any] = weights(prefix)
    for name in reversed(key.split(".") if key else []):
        main = {name: main}
    others = {name: NEXT_TO_IT[name] for name in sorted(extras)}
    with tempfile.TemporaryDirectory() as place:
        path = save({**others, **main} if last else {**main, **others}, Path(place) / "file.pt")

        found = {by_inspect(path), by_auto(path), by_refusal(path)}

    assert found == {key or "null"}
