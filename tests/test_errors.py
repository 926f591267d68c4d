from __future__ import annotations

import pickle

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from loader.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    FitError,
    LoaderError,
    VerificationError,
    located,
)
from loader.keys.plan import Match, Plan, Taken
from loader.text.lines import Fix

KINDS: list[tuple[type[LoaderError], int, type[Exception]]] = [
    (LoaderError, 1, Exception),
    (ConfigError, 2, ValueError),
    (CheckpointError, 3, ValueError),
    (FitError, 4, ValueError),
    (VerificationError, 5, RuntimeError),
    (DeviceError, 6, RuntimeError),
]


@pytest.mark.parametrize(("kind", "code", "builtin"), KINDS)
def test_each_refusal_has_its_exit_code_and_is_caught_as_the_builtin_it_resembles(
    kind: type[LoaderError], code: int, builtin: type[Exception]
) -> None:
    error = kind("what was found", Fix("key=value"))

    assert error.exit_code == code
    assert isinstance(error, builtin)
    assert isinstance(error, LoaderError)


@pytest.mark.parametrize("kind", [kind for kind, _, _ in KINDS])
def test_a_refusal_carries_its_message_and_hint(kind: type[LoaderError]) -> None:
    error = kind("what was found", Fix("key=value"))

    assert (error.message, error.hint) == ("what was found", "key=value")
    assert str(error) == "what was found\nkey=value"


def test_a_refusal_without_a_hint_ends_with_its_message() -> None:
    assert str(LoaderError("what was found")) == "what was found"
    assert LoaderError("what was found").hint == ""


@pytest.mark.parametrize("kind", [kind for kind, _, _ in KINDS])
def test_a_refusal_survives_pickling(kind: type[LoaderError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what was found", Fix("key=value"))))

    assert type(error) is kind
    assert (error.message, error.hint, error.exit_code) == ("what was found", "key=value", kind.exit_code)


def test_a_misfit_takes_its_plan_along_when_it_is_pickled() -> None:
    error = FitError("does not fit")
    error.plan = Plan(matches=[Match("weight", Taken("weight", (2, 3), "float32"))], missing=["bias"])

    copied = pickle.loads(pickle.dumps(error))

    assert copied.plan == error.plan
    assert FitError("another").plan is None


def test_a_refusal_from_below_names_its_file_and_key() -> None:
    with pytest.raises(CheckpointError) as caught, located("/d/a.pt under 'sd'", "w\x1b"), located("", "inner"):
        raise CheckpointError("a tensor of this file is odd", Fix(note="do not load it"))
    assert str(caught.value) == "/d/a.pt under 'sd', 'inner': a tensor of this file is odd\ndo not load it"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    with pytest.raises(CheckpointError) as caught, located("/d/a.pt", "w\x1b"):
        raise CheckpointError("a tensor of this file is odd")
    assert caught.value.message == "/d/a.pt, 'w\\x1b': a tensor of this file is odd"


@pytest.mark.parametrize("message", ["/d/a.pt is damaged: w", "/d/a-2.pt is damaged"])
def test_a_refusal_that_names_its_file_is_left_as_it_is(message: str) -> None:
    with pytest.raises(CheckpointError) as caught, located("/d/a.pt under 'sd'", "w"):
        raise CheckpointError(message)
    assert caught.value.message == message


def test_only_refusals_of_a_checkpoint_are_located() -> None:
    with pytest.raises(ConfigError, match=r"^a key is wrong$"), located("/d/a.pt"):
        raise ConfigError("a key is wrong")


def test_a_refusal_that_hydra_shows_by_its_repr_reads_well() -> None:
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "tests.test_errors.raises_refusal"})
    assert str(caught.value).endswith(
        "tests.test_errors.raises_refusal':\nConfigError: what was found\nand more\n'key=[a b]'"
    )
    assert repr(LoaderError("what was found")) == "LoaderError: what was found"


def raises_refusal() -> None:
    raise ConfigError("what was found\nand more", Fix("'key=[a b]'"))


def test_a_refusal_offers_each_fix_once_and_leaves_empty_ones_out() -> None:
    error = FitError("does not fit", Fix("rules=[ddp]"), Fix(), Fix("rules=[ddp]"), Fix(note="ask its owner"))

    assert error.fixes == (Fix("rules=[ddp]"), Fix(note="ask its owner"))
    assert error.hint == "rules=[ddp]\nask its owner"


def test_a_fix_is_one_harmless_line_without_secrets() -> None:
    error = ConfigError("wrong", Fix("a=1\nb=2", "sees\x1b[31m https://me:pass@host/a"))

    assert error.fixes == (Fix("a=1\\nb=2", "sees\\x1b[31m https://***@host/a"),)
    assert error.hint.count("\n") == 0


def test_fixes_survive_pickling_and_being_located() -> None:
    with pytest.raises(CheckpointError) as caught, located("/d/a.pt"):
        raise CheckpointError("is odd", Fix("checkpoint.path=FILE", "another one"))

    assert pickle.loads(pickle.dumps(caught.value)).fixes == (Fix("checkpoint.path=FILE", "another one"),)
