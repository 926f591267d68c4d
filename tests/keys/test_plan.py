from __future__ import annotations

from fnmatch import fnmatchcase
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.formats.tree import Leaf, Node, TensorEntry
from loader.keys.plan import Hooked, Match, Mismatch, Offered, Plan, SlotKind, Taken, Wanted, fits, make_plan
from loader.schema import AllowConfig

Shape = tuple[int, ...]

KEY = st.sampled_from(["a.weight", "a.bias", "b.weight", "b.bias", "head.weight", "counter"])
SHAPE = st.sampled_from([(), (1,), (2,), (2, 3), (0,)])
GLOBS = st.lists(st.sampled_from(["*", "a.*", "*.bias", "counter", "head"]), max_size=2)
ALLOW = st.builds(AllowConfig, missing=GLOBS, unexpected=GLOBS, mismatched=GLOBS)


def want(key: str, shape: Shape | None, first: str = "", kind: SlotKind = "parameter") -> tuple[str, Wanted]:
    return key, Wanted(shape, "" if kind == "extra" else "float32", kind, first or key)


def wants(**shapes: Shape | None) -> dict[str, Wanted]:
    return dict(want(key, shape) for key, shape in shapes.items())


def offers(**shapes: Shape) -> dict[str, Offered]:
    return {key: offer(key, TensorEntry("float32", shape)) for key, shape in shapes.items()}


def offer(key: str, entry: Node) -> Offered:
    return Offered("", key, entry)


def namesakes(wanted: dict[str, Wanted], offered: dict[str, Offered]) -> Hooked:
    taken = {}
    for key, want in wanted.items():
        entry = offered[key].entry if key in offered else None
        if isinstance(entry, TensorEntry):
            taken[key] = Taken(key, entry.shape, entry.dtype)
        elif entry is not None and want.kind == "extra":
            taken[key] = Taken(key, (), "")
    return Hooked(taken, tuple(key for key in offered if key not in taken))


def plan_of(wanted: dict[str, Wanted], offered: dict[str, Offered], allow: AllowConfig | None = None) -> Plan:
    return make_plan(wanted, offered, namesakes(wanted, offered), allow or AllowConfig())


@st.composite
def sides(draw: st.DrawFn) -> tuple[dict[str, Wanted], dict[str, Offered]]:
    keys = draw(st.lists(KEY, unique=True))
    wanted: dict[str, Wanted] = {}
    for key in keys:
        ties = [other for other, found in wanted.items() if found.first == other and found.shape is not None]
        tied = draw(st.none() | st.sampled_from(ties)) if ties else None
        shape = wanted[tied].shape if tied else draw(st.none() | SHAPE)
        wanted |= [want(key, shape, tied or "")]
    offered = offers(**draw(st.dictionaries(KEY, SHAPE)))
    return wanted, offered


# Laws


@given(sides(), ALLOW)
def test_every_key_on_either_side_is_listed_once(
    both: tuple[dict[str, Wanted], dict[str, Offered]], allow: AllowConfig
) -> None:
    wanted, offered = both
    plan = plan_of(wanted, offered, allow)

    assert sorted([*plan.loaded, *plan.missing, *(m.key for m in plan.mismatched)]) == sorted(wanted)
    used = [match.taken.key for match in plan.matches] + [second.taken.key for _, second in plan.duplicates]
    assert sorted([*used, *plan.unexpected, *(m.source for m in plan.mismatched)]) == sorted(offered)


@given(sides(), ALLOW, st.randoms())
def test_the_verdict_does_not_depend_on_the_order_of_the_files_keys(
    both: tuple[dict[str, Wanted], dict[str, Offered]], allow: AllowConfig, random: Random
) -> None:
    wanted, offered = both
    shuffled = list(offered)
    random.shuffle(shuffled)

    straight = plan_of(wanted, offered, allow)
    other = plan_of(wanted, {key: offered[key] for key in shuffled}, allow)

    assert sorted(straight.unexpected) == sorted(other.unexpected)
    assert set(straight.refused) == set(other.refused)
    assert straight.matches == other.matches
    assert (straight.loaded, straight.missing, straight.mismatched) == (other.loaded, other.missing, other.mismatched)


@given(sides(), ALLOW)
def test_what_is_refused_is_exactly_what_no_allowance_names(
    both: tuple[dict[str, Wanted], dict[str, Offered]], allow: AllowConfig
) -> None:
    plan = plan_of(*both, allow)
    left = [
        *((key, allow.missing) for key in plan.missing),
        *((key, allow.unexpected) for key in plan.unexpected),
        *((m.key, allow.mismatched) for m in plan.mismatched),
    ]

    assert plan.refused == [key for key, globs in left if not any(fnmatchcase(key, glob) for glob in globs)]


@given(sides(), ALLOW)
def test_a_load_that_loads_nothing_is_refused_under_every_allowance(
    both: tuple[dict[str, Wanted], dict[str, Offered]], allow: AllowConfig
) -> None:
    wanted, offered = both
    everything = AllowConfig(missing=["*"], unexpected=["*"], mismatched=["*"])
    plan = plan_of(wanted, offered, everything)

    assert plan.refused == []
    assert bool(plan.loaded) == bool(plan.matches)
    assert plan.passes() == bool(plan.loaded)
    if not plan.loaded:
        assert not plan.leaves_to_initialize()


# Shapes


def test_equal_names_and_shapes_match() -> None:
    plan = plan_of(wants(weight=(2, 3), bias=(2,)), offers(bias=(2,), weight=(2, 3)))

    assert plan == Plan(
        matches=[
            Match("weight", Taken("weight", (2, 3), "float32")),
            Match("bias", Taken("bias", (2,), "float32")),
        ],
        loaded=["weight", "bias"],
    )
    assert plan.passes()


def test_a_vector_of_one_element_fills_a_scalar() -> None:
    assert plan_of(wants(scale=()), offers(scale=(1,))).loaded == ["scale"]


def test_a_key_without_a_shape_takes_any() -> None:
    assert fits(None, (2, 3))


@pytest.mark.parametrize(("model", "file"), [((1,), ()), ((), (1, 1)), ((), (2,)), ((2, 3), (3, 2)), ((6,), (2, 3))])
def test_no_other_shapes_fit_each_other(model: Shape, file: Shape) -> None:
    plan = plan_of(wants(scale=model), offers(scale=file))

    assert plan.mismatched == [Mismatch("scale", model, file, "scale")]
    assert (plan.loaded, plan.missing, plan.refused) == ([], [], ["scale"])


def test_a_lazy_key_takes_the_files_shape() -> None:
    assert plan_of(wants(weight=None), offers(weight=(7, 5))).loaded == ["weight"]


# Extra state and entries that are no tensors


def test_extra_state_takes_whatever_the_file_has() -> None:
    wanted = dict([want("_extra_state", None, kind="extra"), want("weight", (2,))])
    offered = offers(weight=(2,)) | {"_extra_state": offer("_extra_state", Leaf("dict"))}

    assert plan_of(wanted, offered).loaded == ["_extra_state", "weight"]
    assert plan_of(wanted, offers(weight=(2,), _extra_state=(3,))).loaded == ["_extra_state", "weight"]


def test_an_entry_that_is_no_tensor_is_unexpected_only_under_a_model_key() -> None:
    offered = offers(weight=(2,)) | {
        "counter": offer("counter", Leaf("int")),
        "epoch": offer("epoch", Leaf("int")),
    }

    plan = plan_of(wants(weight=(2,), counter=()), offered)

    assert (plan.missing, plan.unexpected) == (["counter"], ["counter"])


# Tied weights


def tied() -> dict[str, Wanted]:
    return dict([want("embed.weight", (4, 2)), want("head.weight", (4, 2), "embed.weight"), want("bias", (4,))])


@pytest.mark.parametrize("present", ["embed.weight", "head.weight"])
def test_a_file_with_one_name_of_a_tied_weight_is_complete(present: str) -> None:
    plan = plan_of(tied(), offers(**{present: (4, 2), "bias": (4,)}))

    assert plan.loaded == ["embed.weight", "head.weight", "bias"]
    assert (plan.missing, plan.refused, plan.duplicates) == ([], [], [])
    assert plan.tied == [["embed.weight", "head.weight"]]
    assert [match.key for match in plan.matches] == [present, "bias"]


def test_both_names_of_a_tied_weight_are_noted_for_comparison_and_read_once() -> None:
    plan = plan_of(tied(), offers(**{"head.weight": (4, 2), "embed.weight": (4, 2), "bias": (4,)}))

    assert [(first.key, second.key) for first, second in plan.duplicates] == [("embed.weight", "head.weight")]
    assert plan.unread() == {"head.weight"}
    assert len(plan.loaded) == 3


def test_a_tied_weight_that_is_not_there_is_missing_under_all_its_names() -> None:
    assert plan_of(tied(), offers(bias=(4,))).missing == ["embed.weight", "head.weight"]


# What is read, and what is left to the model


def test_data_that_is_of_no_use_is_not_read() -> None:
    plan = plan_of(wants(a=(2,), b=(3,)), offers(a=(2,), b=(4,), more=(9,)))

    assert plan.unread() == {"b", "more"}


@pytest.mark.parametrize(
    ("offered", "allow", "leaves"),
    [
        (offers(a=(2,), b=(3,)), AllowConfig(), False),
        (offers(a=(2,)), AllowConfig(), False),
        (offers(a=(2,)), AllowConfig(missing=["b"]), True),
        (offers(a=(2,), b=(4,)), AllowConfig(mismatched=["b"]), True),
        (offers(), AllowConfig(missing=["*"]), False),
        (offers(a=(2,), b=(3,), c=(1,)), AllowConfig(unexpected=["c"]), False),
    ],
)
def test_allowed_gaps_are_left_to_the_models_own_initialisation(
    offered: dict[str, Offered], allow: AllowConfig, leaves: bool
) -> None:
    assert plan_of(wants(a=(2,), b=(3,)), offered, allow).leaves_to_initialize() is leaves


def test_allowances_are_globs_over_full_keys() -> None:
    wanted = wants(**{"head.weight": (1,), "heads.weight": (1,), "net.head.weight": (1,), "a": (1,)})

    plan = plan_of(wanted, offers(a=(1,)), AllowConfig(missing=["head.*"]))

    assert plan.missing == ["head.weight", "heads.weight", "net.head.weight"]
    assert plan.refused == ["heads.weight", "net.head.weight"]


def test_one_kind_of_allowance_excuses_no_other() -> None:
    plan = plan_of(wants(a=(1,), b=(1,), c=(1,)), offers(a=(1,), c=(2,), d=(1,)), AllowConfig(missing=["*"]))

    assert plan.refused == ["d", "c"]


def test_dropped_keys_are_kept_for_the_record() -> None:
    assert make_plan({}, {}, Hooked({}, ()), AllowConfig(), ["head.weight"]).dropped == ["head.weight"]


def test_what_a_load_hook_computes_has_no_source() -> None:
    hooked = Hooked({"a": Taken("", (2,), "float32"), "b": Taken("", (3,), "float32")}, ("old",))

    plan = make_plan(wants(a=(2,), b=(4,)), offers(old=(2,), converted=(2,)), hooked, AllowConfig())

    assert plan.matches == [Match("a", Taken("", (2,), "float32"))]
    assert plan.mismatched == [Mismatch("b", (4,), (3,), "")]
    assert plan.unexpected == ["old"]


def test_what_load_hooks_make_up_without_the_file_is_not_loaded() -> None:
    hooked = Hooked({"a": Taken("", (2,), "float32")}, ("old",))

    plan = make_plan(wants(a=(2,)), offers(old=(2,)), hooked, AllowConfig(missing=["*"], unexpected=["*"]))

    assert (plan.matches, plan.loaded, plan.missing) == ([], [], ["a"])


def test_a_file_fills_a_tied_tensor_before_what_a_hook_makes_up() -> None:
    hooked = Hooked({"a": Taken("", (2,), "float32"), "b": Taken("b", (2,), "float32")}, ())
    wanted = {name: Wanted((2,), "float32", "buffer", "a") for name in ("a", "b")}

    plan = make_plan(wanted, offers(b=(2,)), hooked, AllowConfig())

    assert plan.matches == [Match("b", Taken("b", (2,), "float32"))]
    assert plan.duplicates == []
