from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from loader.examples import SimpleNet
from loader.examples.data import FILE, UnseenDigits
from loader.examples.files import trained_simple_net
from loader.examples.metrics import accuracy

WEIGHTS = Path(str(resources.files("loader.examples"))) / "weights" / "simple_net.safetensors"
GOLDEN = WEIGHTS.with_name(f"{WEIGHTS.name}.golden.safetensors")


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_weights_and_record_are_under_two_megabytes() -> None:
    assert WEIGHTS.stat().st_size + GOLDEN.stat().st_size < 2_000_000


def test_accuracy_is_recorded_and_is_good() -> None:
    about = metadata(WEIGHTS)
    assert about["architecture"] == "loader.examples.SimpleNet"
    assert float(about["test_accuracy"]) > 0.97
    assert int(about["test_images"]) >= 300


def test_record_says_what_it_is() -> None:
    about = metadata(GOLDEN)
    assert about == {"format": "hydra-loader-golden", "schema": "1", "torch": about["torch"], "dtype": "float32"}


def test_record_holds_one_digit_of_each_kind_and_the_model_tells_nearly_all_of_them() -> None:
    record = load_file(GOLDEN)
    images, logits = record["input.0"], record["output.0"]
    assert images.shape == (10, 784)
    assert images.min() >= 0
    assert images.max() == 1
    assert logits.shape == (10, 10)
    assert (logits.argmax(1) == torch.arange(10)).sum() >= 9


def test_record_is_what_the_shipped_weights_give() -> None:
    record = load_file(GOLDEN)
    with torch.no_grad():
        torch.testing.assert_close(trained_simple_net()(record["input.0"]), record["output.0"])


def test_record_tells_an_untrained_model_from_the_trained_one() -> None:
    record = load_file(GOLDEN)
    with torch.no_grad():
        assert not torch.allclose(SimpleNet()(record["input.0"]), record["output.0"], atol=0.1)


def test_the_unseen_digits_are_exactly_those_that_training_leaves_out(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="training needs the [examples] extra")
    from loader.examples.train import load_digits, write_digits

    training, test = load_digits()
    shipped = UnseenDigits()
    assert len(shipped) == len(test.labels) == 360
    assert torch.equal(shipped.images, test.images)
    assert torch.equal(shipped.labels, test.labels)
    seen = {image.numpy().tobytes() for image in training.images}
    assert not [index for index in range(360) if shipped[index][0].numpy().tobytes() in seen]
    write_digits(tmp_path / "again.safetensors", test)
    again, kept = load_file(tmp_path / "again.safetensors"), load_file(FILE)
    assert {name: tensor.dtype for name, tensor in kept.items()} == {"images": torch.uint8, "labels": torch.uint8}
    assert all(torch.equal(again[name], kept[name]) for name in ("images", "labels"))
    assert metadata(FILE) == metadata(tmp_path / "again.safetensors")
    assert FILE.stat().st_size < 30_000


def test_the_shipped_weights_are_right_about_as_many_unseen_digits_as_is_recorded() -> None:
    digits = UnseenDigits()
    with torch.no_grad():
        right = accuracy(trained_simple_net()(digits.images), digits.labels)
    assert f"{right.mean():.4f}" == metadata(WEIGHTS)["test_accuracy"]


def test_training_again_gives_a_model_as_good(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="training needs the [examples] extra")
    from loader.examples.train import accuracy, golden_record, load_digits, train, write

    training, test = load_digits()
    assert not {image.numpy().tobytes() for image in training.images} & {
        image.numpy().tobytes() for image in test.images
    }
    model = train(training, epochs=8)
    assert accuracy(model, test) > 0.9
    path = write(tmp_path, model, test)
    assert load_file(path).keys() == SimpleNet().state_dict().keys()
    shipped = load_file(GOLDEN)
    assert torch.equal(golden_record(model, test)["input.0"], shipped["input.0"])
    assert float(metadata(path)["test_accuracy"]) == round(accuracy(model, test), 4)
