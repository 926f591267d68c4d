from __future__ import annotations

from loader.builder.pickled import with_classes
from loader.errors import ConfigError
from loader.formats.tree import Container
from loader.text.lines import Fix

NET = Container("module", "my_pkg.Backbone")
ROOT = Container(
    "dict", "dict", {"hyper_parameters": Container("dict", "dict", {"net": NET, "opts": Container("dict", "dict")})}
)


def hint(text: str) -> str:
    return with_classes(ConfigError("missing", *map(Fix, text.split("\n"))), [ROOT]).hint


def test_the_class_that_a_file_names_for_an_argument_is_offered() -> None:
    assert hint("+model.net=…\nmode=scaffold") == "+model.net._target_=my_pkg.Backbone\nmode=scaffold"


def test_an_argument_for_which_it_names_none_stays_as_it_is() -> None:
    assert hint("+model.opts=… +model.width=…") == "+model.opts=… +model.width=…"


def test_another_refusal_is_the_same_one() -> None:
    error = ConfigError("missing", Fix("model.width=3"))

    assert with_classes(error, [ROOT]) is error
