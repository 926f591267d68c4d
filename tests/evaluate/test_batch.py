"""A batch on its way through the model."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from loader.errors import ConfigError, LoaderError
from loader.evaluate.batch import default_step, described, fits, placed, prediction_of, samples_in
from tests.evaluate.things import CPU, HOME, Giving, Keywords, Line, batches, error, measured, node
from tests.libraries import library

META = torch.device("meta")
HALF = torch.float16
Two = namedtuple("Two", ["image", "label"])


def test_inputs_take_the_device_and_the_dtype_and_targets_the_device_alone() -> None:
    x, y, k = torch.rand(2, 3), torch.rand(2), torch.ones(2, dtype=torch.int64)
    for batch in ((x, y), [x, y], Two(x, y)):
        moved = placed(batch, META, HALF)
        assert type(moved) is type(batch)
        assert (moved[0].device, moved[0].dtype) == (META, HALF)
        assert (moved[1].device, moved[1].dtype) == (META, torch.float32)
    moved = placed({"x": x, "ids": k, "labels": y, "name": "a"}, META, HALF)
    assert [moved[key].dtype for key in ("x", "ids", "labels")] == [HALF, torch.int64, torch.float32]
    assert {moved[key].device for key in ("x", "ids", "labels")} == {META}
    assert moved["name"] == "a"
    nested = placed((x, [{"deep": (x, y)}], k), META, HALF)
    assert nested[1][0]["deep"][1].dtype == HALF
    assert placed(x, META, HALF).dtype == HALF


def test_containers_keep_their_class_and_the_users_own_is_not_changed() -> None:
    batch = UserDict(x=torch.rand(2), labels=torch.rand(2))
    moved = placed(batch, META, HALF)
    assert isinstance(moved, UserDict)
    assert batch["x"].device == CPU
    assert isinstance(placed(OrderedDict(x=torch.rand(2)), META, HALF), OrderedDict)
    outputs = library("transformers.modeling_outputs").BaseModelOutput(last_hidden_state=torch.rand(2))
    assert placed(outputs, META, HALF)["last_hidden_state"].dtype == HALF
    encoding = library("transformers").BatchEncoding({"ids": torch.ones(2, 2), "labels": torch.ones(2)})
    moved = placed(encoding, META, HALF)
    assert (moved["ids"].dtype, moved["labels"].dtype, moved["labels"].device) == (HALF, torch.float32, META)
    packed = nn.utils.rnn.pack_sequence([torch.rand(3, 2), torch.rand(2, 2)])
    assert placed((packed, torch.rand(2)), META, HALF)[0].data.device == META


@pytest.mark.parametrize("name", ["labels", "target"])
def test_a_mapping_is_called_by_keyword(name: str) -> None:
    args, kwargs, target = default_step({"x": 1, "mask": 2, name: 3})
    assert (args, kwargs, target) == ((), {"x": 1, "mask": 2}, 3)
    found = measured(Keywords(), data=node("mappings", target=name), metrics={"off": node("error")})
    assert found.metrics["off"] == {"value": 0.0, "stderr": 0.0, "n": 5}


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (torch.rand(2, 3), "a tensor [2, 3] float32"),
        ((1,), "a tuple of 1"),
        ([1, 2, 3], "a list of 3"),
        ({"x": 1}, "a mapping of x"),
        ({"labels": 1}, "a mapping of labels"),
        ({}, "a mapping of nothing"),
        ({"x": 1, "labels": 2, "target": 3}, "a mapping of x, labels, target"),
        ({1: 1, "labels": 2}, "a mapping of 1, labels"),
        ("ab", "a value of the type str"),
        (None, "None"),
    ],
)
def test_any_other_batch_needs_a_step(batch: Any, found: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        default_step(batch)
    assert refusal.value.message == (
        f"evaluate.data yields {found}, expected (input, target), or a mapping with inputs and one of labels and target"
    )
    assert refusal.value.fixes[0].line == "evaluate.step._target_=my_pkg.step"


@pytest.mark.parametrize("form", ["tuple", "list", "mapping", "mapping with logits", "logits without a value"])
def test_the_prediction_is_found_in_an_output(form: str) -> None:
    found = measured(Giving(form), data=node("batches"), metrics={"off": node("error")})
    assert found.metrics["off"]["value"] == 0


@pytest.mark.parametrize(
    ("form", "output"), [("nothing", "a tuple of 0"), ("text", "a value of the type str"), ("none", "None")]
)
def test_an_output_without_a_prediction_needs_a_step(form: str, output: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        measured(Giving(form), data=node("batches"))
    assert refusal.value.message == (
        f"the model returns {output}, which has no logits and no first element to take as its prediction"
    )
    assert refusal.value.fixes[0].line == "evaluate.step._target_=my_pkg.step"


def test_the_output_of_a_transformer_has_logits() -> None:
    outputs = library("transformers.modeling_outputs")
    logits, loss = torch.rand(2, 3), torch.rand(())
    assert prediction_of(outputs.SequenceClassifierOutput(loss=loss, logits=logits)) is logits
    assert prediction_of(outputs.BaseModelOutput(last_hidden_state=logits)) is logits


@pytest.mark.parametrize(
    ("target", "prediction", "samples"),
    [
        (torch.rand(3, 2), torch.rand(5), 3),
        (torch.rand(()), torch.rand(5), 5),
        (torch.nested.nested_tensor([torch.rand(2), torch.rand(3)], layout=torch.jagged), None, 2),
        (7, torch.rand(5, 2), 5),
        ([{"boxes": 1}, {"boxes": 2}], None, 2),
        ({"a": torch.rand(4, 2)}, None, 4),
        (("x", "y", "z"), torch.rand(5), 3),
        (np.zeros((6, 2)), None, 6),
        ("text", 3, 1),
        (None, {"logits": torch.rand(8)}, 8),
    ],
)
def test_samples_are_counted_by_the_target_or_else_the_prediction(target: Any, prediction: Any, samples: int) -> None:
    assert samples_in(target, prediction) == samples


@pytest.mark.parametrize(
    ("target", "prediction", "expected"),
    [
        (torch.tensor(1), torch.rand(3), False),
        (1, torch.rand(3), False),
        ("cat", torch.rand(3), False),
        (np.array(1), torch.rand(3), False),
        (torch.rand(4), torch.rand(3), False),
        (torch.tensor(1), torch.rand(()), True),
        (torch.tensor(1), torch.rand(1, 3), True),
        (torch.rand(3, 7), torch.rand(3, 2), True),
        (torch.rand(1), torch.rand(3), True),
        (["a", "b"], torch.rand(3), True),
        (None, torch.rand(3), True),
        (torch.tensor(1), [torch.rand(3)], True),
    ],
)
def test_a_target_fits_a_prediction_with_as_many_samples(target: Any, prediction: Any, expected: bool) -> None:
    assert fits(target, prediction) is expected


@pytest.mark.parametrize("data", ["Samples", "samples"])
def test_samples_that_are_no_batches_are_refused(data: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        measured(Line(), data=node(data), metrics={"off": node("error")})
    assert refusal.value.message == (
        f"evaluate.data ({HOME}.{data}) seems to yield samples, not batches: in batch 1 the prediction is a tensor [4] "
        "float32 and the target a tensor [] int64, expected the same number of samples in both"
    )
    batched = (
        f"'evaluate.data={{_target_: torch.utils.data.DataLoader, dataset: {{_target_: {HOME}.Samples}}, "
        "batch_size: 64}'"
    )
    own = "evaluate.step._target_=my_pkg.step"
    assert [fix.line for fix in refusal.value.fixes] == ([batched, own] if data == "Samples" else [own])
    if data == "Samples":
        loader = node("torch.utils.data.DataLoader", dataset=node(data), batch_size=4)
        assert measured(Line(), data=loader).samples == 5


def test_half_models_get_half_inputs_and_are_measured_in_single_precision() -> None:
    dtypes: list[torch.dtype] = []

    def note(prediction: torch.Tensor, target: torch.Tensor) -> float:
        dtypes.extend((prediction.dtype, target.dtype))
        return 0.0

    for dtype in (torch.float16, torch.bfloat16):
        found = measured(Line().to(dtype), data=list(batches()), metrics={"note": note, "off": error})
        assert set(dtypes) == {torch.float32}
        assert found.metrics["off"]["value"] < 0.01
    measured(Line().double(), data=list(batches()), metrics={"note": note})
    assert dtypes[-2:] == [torch.float64, torch.float32]


def test_integer_inputs_stay_integers() -> None:
    tokens = [(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))]
    model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(8, 2)).half()
    assert measured(model, data=tokens, metrics={}).samples == 2


def test_a_model_that_raises_is_refused_with_its_input() -> None:
    with pytest.raises(LoaderError) as refusal:
        measured(Line(), data=[(torch.rand(2, 5), torch.rand(2, 5))])
    assert refusal.value.exit_code == 5
    assert "the model raised RuntimeError: The size of tensor a (5) must match" in refusal.value.message
    assert refusal.value.message.endswith("in batch 1 (its input was a tensor [2, 5] float32)")
    assert [fix.line for fix in refusal.value.fixes] == ["evaluate.step._target_=my_pkg.step", "evaluate=null"]
    with pytest.raises(LoaderError, match=r"unexpected keyword argument 'extra'.*its input was x .*, extra a tensor"):
        measured(Line(), data=[{"x": torch.rand(2, 4), "extra": torch.rand(1), "labels": torch.rand(2, 4)}])


def test_values_are_described() -> None:
    assert described(Two(1, 2)) == "a Two of 2"
    assert described({"a": 1}) == "a mapping of a"
    assert described(Line()) == "a value of the type Line"


def test_a_transformer_is_measured_as_its_own_data_comes() -> None:
    transformers = library("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config).eval()
    ids, labels = torch.randint(20, (7, 5)), torch.randint(3, (7,))
    rows = [{"input_ids": ids[at], "attention_mask": torch.ones(5), "labels": labels[at]} for at in range(7)]

    class Sentences(Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return rows[index]

    metric = {"cross_entropy": node("loader.examples.metrics.cross_entropy")}
    found = measured(model, data=Sentences(), batch_size=3, metrics=metric)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=torch.ones(7, 5), labels=labels).loss
    assert found.metrics["cross_entropy"]["value"] == pytest.approx(float(expected), rel=1e-5)
    assert (found.samples, found.batches) == (7, 3)
