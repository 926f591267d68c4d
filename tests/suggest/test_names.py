from __future__ import annotations

from loader.suggest.names import is_number, likeness, segments, stem, template


def test_a_deep_key_keeps_its_end_together() -> None:
    deep = ".".join(["a"] * 100)

    assert ".".join(segments(deep)) == deep
    assert len(segments(deep)) < 30


def test_numbers_are_taken_out_of_a_template() -> None:
    assert template(("layers", "11", "w")) == (("layers", "{}", "w"), (11,))
    assert not is_number("²")
    assert not is_number("1234567")
    assert not is_number("layer1")
    assert stem("layer12") == "layer"


def test_names_that_mean_the_same_are_alike() -> None:
    query = ("layers", "{}", "attention", "query", "weight")

    assert likeness(query, ("blocks", "{}", "attn", "q", "weight")) > likeness(
        query, ("blocks", "{}", "mlp", "fc", "weight")
    )
    assert likeness(("bn", "gamma"), ("bn", "weight")) > 0.9
    assert likeness(("classifer", "weight"), ("classifier", "weight")) > 0.9


def test_names_that_contradict_each_other_are_not_alike() -> None:
    assert likeness(("fc", "weight"), ("fc", "bias")) == 0
    assert likeness(("attn", "q", "weight"), ("attn", "k", "weight")) == 0
    assert likeness(("bn", "running_mean"), ("bn", "running_var")) == 0
