from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from loader.formats.tree import Container, Storage, TensorEntry
from loader.keys.plan import Hooked, Offered, Taken, Wanted
from loader.keys.rules.key import Strip
from loader.schema import AUTO, AllowConfig
from loader.suggest.problem import Explanation, Problem
from loader.suggest.search import Findings, explain

Shapes = Mapping[str, tuple[int, ...]]

NET: Shapes = {
    f"{layer}.{leaf}": shape
    for layer, (out, size) in {"encoder.0": (8, 4), "encoder.1": (6, 8), "head": (3, 6)}.items()
    for leaf, shape in (("weight", (out, size)), ("bias", (out,)))
}


def state(shapes: Shapes, name: str = "") -> Container:
    """A state dict whose tensors are all different."""
    entries = {key: TensorEntry("float32", shape, storage=Storage(name + key, 0, 4)) for key, shape in shapes.items()}
    return Container("dict", "dict", dict(entries))


def prefixed(prefix: str, shapes: Shapes = NET) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def problem(root: Container, wanted: Shapes = NET, **settings: object) -> Problem:
    wants = {key: Wanted(shape, "float32", "parameter", key) for key, shape in wanted.items()}

    def hooks(offered: Mapping[str, Offered], _: object) -> Hooked:
        entries = {key: offer.entry for key, offer in offered.items()}
        taken = {k: Taken(k, e.shape, e.dtype) for k, e in entries.items() if k in wants and isinstance(e, TensorEntry)}
        return Hooked(taken, tuple(key for key in offered if key not in taken))

    given: dict[str, object] = {"rules": {}, **settings}
    return Problem("", root, wants, hooks, **given)  # type: ignore[arg-type]


def one(findings: Findings) -> Explanation:
    (explanation,) = findings.explanations
    return explanation


def test_every_number_is_that_of_a_real_plan() -> None:
    found = one(explain(problem(state(prefixed("net.")))))

    assert (found.loaded, found.wanted, found.excused) == (6, 6, False)
    assert found.verdict.plan.passes()
    assert found.overrides == ('rules={fit: {strip: "net."}}',)
    assert found.reasons == ("the file has 'net.' at the start of its keys",)


def test_a_prefix_is_added() -> None:
    found = one(explain(problem(state(NET), prefixed("backbone."))))

    assert found.overrides == ('rules={fit: {add: "backbone."}}',)
    assert found.reasons == ("the model has 'backbone.' at the start of its keys",)


def test_a_module_renamed_throughout_is_reported() -> None:
    file = {key.replace("encoder.", "trunk."): shape for key, shape in NET.items()}
    found = one(explain(problem(state(file))))

    assert found.overrides == ('rules={fit: {rename: "trunk.", to: "encoder."}}',)
    assert found.reasons == ("'trunk.' in the file is 'encoder.' in the model",)


def test_shifted_numbers_are_reported_in_an_order_in_which_no_rule_meets_anothers_work() -> None:
    alike = {f"layers.{n}.{leaf}": shape for n in range(3) for leaf, shape in (("weight", (4, 4)), ("bias", (4,)))}
    up = {f"layers.{n + 1}.{leaf}": shape for n in range(3) for leaf, shape in (("weight", (4, 4)), ("bias", (4,)))}

    down = one(explain(problem(state(up), alike)))
    back = one(explain(problem(state(alike), up)))

    assert [rule.settings()["rename"] for rule in down.rules.values()] == ["layers.1.", "layers.2.", "layers.3."]
    assert [rule.settings()["rename"] for rule in back.rules.values()] == ["layers.2.", "layers.1.", "layers.0."]
    assert down.reasons == ("numbers differ: 'layers.1.' in the file is 'layers.0.' in the model",)


def test_the_users_nested_key_decides_between_two_that_are_equally_good() -> None:
    root = Container("dict", "dict", {"raw": state(prefixed("m."), "raw"), "ema": state(prefixed("m."), "ema")})

    assert [e.key for e in explain(problem(root)).explanations] == ["raw", "ema"]
    assert [e.key for e in explain(problem(root, key=AUTO)).explanations] == ["raw", "ema"]
    assert one(explain(problem(root, key="raw"))).key == "raw"


def test_one_tensor_under_two_names_is_not_a_second_explanation() -> None:
    inner = state(prefixed("m."))
    root = Container("dict", "dict", {"model": inner, "copy": Container("dict", "dict", dict(inner.children))})

    assert one(explain(problem(root))).loaded == 6


def test_candidates_are_ranked_by_how_much_of_the_model_they_fill() -> None:
    part = {key: shape for key, shape in NET.items() if key.startswith("encoder.")}
    root = Container("dict", "dict", {"part": state(part), "all": state(NET), "other": state({"x": (99,)})})

    assert [(c.key, c.loaded) for c in explain(problem(root)).candidates] == [("all", 6), ("part", 4)]


def test_what_is_fixed_stays_fixed() -> None:
    root = Container("dict", "dict", {"state_dict": state(prefixed("net."))})

    assert explain(problem(root), keys_free=False).explanations == ()
    assert explain(problem(root, key=AUTO), rules_free=False).explanations == ()
    assert one(explain(problem(root, key=AUTO, rules={"own": Strip("net.")}), rules_free=False)).overrides == (
        "checkpoint.key=state_dict",
    )


def test_allowances_that_were_given_are_kept_and_need_no_others() -> None:
    file = {key: shape for key, shape in prefixed("net.").items() if "head" not in key}
    found = one(explain(problem(state(file), allow=AllowConfig(missing=["head.*"]))))

    assert not found.excused
    assert found.allow == AllowConfig(missing=["head.*"])
    assert one(explain(problem(state(file)))).allow == AllowConfig(missing=["head.*"])


def test_two_towers_that_nothing_tells_apart_are_not_guessed() -> None:
    tower = {"fc1.weight": (4, 4), "fc1.bias": (4,), "fc2.weight": (4, 4), "fc2.bias": (4,)}
    model = {f"{side}.{key}": shape for side in ("alpha", "beta") for key, shape in tower.items()}
    file = {f"{side}.{key}": shape for side in ("one", "two") for key, shape in tower.items()}

    assert len(explain(problem(state(file), model)).explanations) != 1


def test_keys_that_no_terminal_may_show_are_never_typed() -> None:
    assert explain(problem(state(prefixed("\x1b[31m.")))).explanations == ()


@settings(deadline=None)
@given(
    st.dictionaries(st.text("ab.01", max_size=8), st.lists(st.integers(1, 3), max_size=2).map(tuple), max_size=12),
    st.dictionaries(
        st.text("ab.01", max_size=8), st.lists(st.integers(1, 3), max_size=2).map(tuple), min_size=1, max_size=8
    ),
)
def test_any_two_sides_are_explained_the_same_way_twice_and_only_by_plans_that_pass(
    file: Shapes, model: Shapes
) -> None:
    given_ = problem(state(file), model)
    findings = explain(given_)

    assert explain(given_) == findings
    for explanation in findings.explanations:
        assert explanation.verdict.plan.passes()
        assert explanation.overrides or explanation.excused


def test_a_large_file_is_sampled_and_confirmed_in_full() -> None:
    model = {f"layers.{i}.{j}.w": (4, 4) for i in range(100) for j in range(100)}

    found = one(explain(problem(state(prefixed("module.", model)), model)))

    assert found.loaded == 10_000
    assert found.overrides == ("rules=[ddp]",)
