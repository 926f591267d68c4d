"""Where batches come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from loader.errors import ConfigError, LoaderError, VerificationError
from loader.evaluate.data import Data
from tests.evaluate.things import Bare, Line, Ragged, Rows, Stopping, Stream, batches, measured, node


def sizes(made: Any, size: int = 4, most: int | None = None) -> list[int]:
    return [len(x) for x, _ in Data(made, "mine").batches(size, most)]


@given(st.integers(1, 30), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 9)))
def test_a_dataset_is_read_in_order_each_sample_once(n: int, size: int, most: int | None) -> None:
    rows = Rows(n)
    taken = sizes(rows, size, most)
    wanted = n if most is None else min(n, most * size)
    assert rows.read == list(range(wanted))
    assert sum(taken) == wanted
    assert set(taken[:-1]) <= {size}
    assert Data(rows, "mine").lengths(size, most) == (wanted, len(taken))


def test_data_sets_are_recognized() -> None:
    assert Data(Rows(), "mine").is_dataset
    assert Data(Subset(Rows(), [1, 2]), "mine").is_dataset
    assert Data(Bare(), "mine").is_dataset
    for made in (Stream(), batches(), list(batches()), DataLoader(Rows(), batch_size=3)):
        assert not Data(made, "mine").is_dataset
    assert sizes(Bare(), 2) == [2, 2, 1]


def test_an_iterable_is_read_as_it_is() -> None:
    assert sizes(batches((3, 2))) == [3, 2]
    assert sizes(list(batches((3, 2)))) == [3, 2]
    assert sizes(DataLoader(Rows(7), batch_size=3)) == [3, 3, 1]
    assert sizes(Stream(None)) == [3, 3]


def test_no_batch_after_the_last_one_is_read_and_a_generator_is_closed() -> None:
    seen: list[str] = []

    def counting() -> Iterator[Any]:
        try:
            for number in range(5):
                seen.append(f"made {number}")
                yield torch.rand(2, 4), torch.rand(2, 4)
        finally:
            seen.append("closed")

    assert sizes(counting(), most=2) == [2, 2]
    assert seen == ["made 0", "made 1", "closed"]
    assert sizes(batches((3, 2)), most=9) == [3, 2]


def test_workers_of_a_data_loader_are_used() -> None:
    loader = DataLoader(TensorDataset(torch.rand(5, 4), torch.rand(5, 4)), batch_size=2, num_workers=1)
    assert sizes(loader) == [2, 2, 1]
    assert sizes(loader, most=1) == [2]


@pytest.mark.parametrize(
    ("made", "message", "fixes"),
    [
        (Rows(10, fails_at=5), "raised ValueError: row 5 is damaged (", ["evaluate.batches=1"]),
        (Rows(10, fails_at=0), "raised ValueError: row 0 is damaged (", ["evaluate=null"]),
        (Rows(3, claims=4), "raised IndexError: 3 (", ["evaluate=null"]),
        (
            Ragged(10),
            "raised RuntimeError: stack expects each tensor to be",
            ["evaluate.batch_size=1", "evaluate=null"],
        ),
        (Rows(6, claims=10), "raised IndexError: 6 (", ["evaluate.batches=1"]),
        (Stopping(10), "ended after 1 batch, expected 3 by its length", ["evaluate.batches=1"]),
        (Stream(4), "ended after 2 batches, expected 4 by its length", ["evaluate.batches=2"]),
    ],
)
def test_data_that_raises_or_ends_early_is_refused(made: Any, message: str, fixes: list[str]) -> None:
    with pytest.raises(VerificationError) as refusal:
        sizes(made)
    assert f"evaluate.data (mine) {message}" in refusal.value.message
    assert [fix.line for fix in refusal.value.fixes] == fixes


def test_the_batch_that_failed_is_named() -> None:
    with pytest.raises(VerificationError, match=r"reading batch 2\n"):
        sizes(Rows(10, fails_at=5))


def test_a_data_loader_of_a_stream_may_be_shorter_than_its_estimate() -> None:
    assert sizes(DataLoader(Stream(9), batch_size=None)) == [3, 3]


@pytest.mark.parametrize(
    ("made", "described"),
    [
        (3, "a value of the type int"),
        ("text", "a value of the type str"),
        ({"x": 1}, "a mapping of x"),
        (torch.rand(3, 4), "a tensor [3, 4] float32"),
        (Rows, "a value of the type type"),
        (None, "None"),
    ],
)
def test_what_gives_no_batches_is_refused(made: Any, described: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Data(made, "my.data")
    assert refusal.value.message == (
        f"evaluate.data: my.data made {described}, expected an iterable of batches or a map-style torch Dataset"
    )
    assert refusal.value.fixes[0].line == "evaluate.data._target_=my_pkg.Data"


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("broken", 5, "evaluate.data (tests.evaluate.things.broken) raised OSError: the disk is gone ("),
        ("exiting", 5, "evaluate.data (tests.evaluate.things.exiting) exited: it called sys.exit(3) ("),
        ("empty", 5, "evaluate.data (tests.evaluate.things.empty) holds no samples: it ended after 0 batches"),
        (
            "triples",
            2,
            "evaluate.data yields a tuple of 3, expected (input, target), or a mapping with inputs and one ",
        ),
        ("alone", 2, "evaluate.data yields a tensor [2, 4] float32, expected (input, target), or a mapping"),
        ("number", 2, "evaluate.data: tests.evaluate.things.number made a value of the type int, expected an iterable"),
        ("unbuildable", 2, "evaluate.data: tests.evaluate.things.unbuildable raised FileNotFoundError: no such folder"),
    ],
)
def test_data_that_fails_is_refused_with_its_exit_code(name: str, code: int, message: str) -> None:
    with pytest.raises(LoaderError) as refusal:
        measured(Line(), data=node(name))
    assert refusal.value.exit_code == code
    assert message in refusal.value.message
    assert refusal.value.fixes


def test_a_failure_without_a_place_in_the_users_code_names_none_of_ours() -> None:
    class NoLength(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return index

    with pytest.raises(VerificationError) as refusal:
        measured(Line(), data=NoLength())
    text = refusal.value.message.partition(" raised ")[2]
    assert text == "TypeError: object of type 'NoLength' has no len(), asked for its length"


def test_an_interruption_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(Line(), data=node("interrupted"))


def test_endless_data_needs_a_number_of_batches() -> None:
    assert measured(Line(), data=node("endless"), batches=7).batches == 7
