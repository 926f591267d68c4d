from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import FitError
from loader.formats.tree import Container, Kind, Leaf, Node, TensorEntry
from loader.keys.select import find, select, tree

WEIGHT = TensorEntry("float32", (2, 3))
BIAS = TensorEntry("float32", (2,))


def folder(kind: Kind = "dict", name: str = "dict", /, **children: Node) -> Container:
    return Container(kind, name, dict(children))


def training_file() -> Container:
    return folder(
        state_dict=folder(weight=WEIGHT, bias=BIAS),
        ema=folder(model=folder(weight=WEIGHT)),
        optimizer=folder(state=folder(**{"0": folder(exp_avg=WEIGHT)}), param_groups=folder("list", "list")),
        epoch=Leaf("int", "3"),
    )


WANTED = {"weight": (2, 3), "bias": (2,)}


def refusal(root: Container, key: str | None) -> FitError:
    with pytest.raises(FitError, match="In the file:") as refused:
        select(root, key, WANTED, "/runs/a.pt")
    return refused.value


def test_without_a_key_the_top_level_is_selected() -> None:
    root = folder(weight=WEIGHT)

    assert select(root, None, {}, "a.pt") is root


def test_a_nested_key_is_followed_through_its_dots() -> None:
    root = training_file()

    assert select(root, "state_dict", {}, "a.pt") is root.children["state_dict"]
    assert list(select(root, "ema.model", {}, "a.pt").children) == ["weight"]


def test_a_name_that_holds_dots_itself_is_found_too() -> None:
    inner = folder(weight=WEIGHT)
    root = folder(**{"runs.1": folder(**{"model.v2": inner}), "runs": folder(other=folder(weight=BIAS))})

    assert find(root, "runs.1.model.v2") is inner
    assert find(root, "runs.1") is root.children["runs.1"]
    assert find(root, "runs.2") is None
    assert find(folder(a=WEIGHT), "a.b") is None


@given(st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=4))
def test_whatever_its_segments_are_called_a_container_is_found_under_its_dotted_name(segments: list[str]) -> None:
    inner = folder(weight=WEIGHT)
    root: Container = inner
    for segment in reversed(segments):
        root = folder(**{segment: root})

    assert find(root, ".".join(segments)) is not None


def test_the_items_of_a_list_are_found_by_their_number() -> None:
    root = folder("list", "list", **{"0": folder(weight=WEIGHT)})

    assert find(root, "0") is root.children["0"]


def test_a_wrong_key_is_answered_with_the_files_tree() -> None:
    error = refusal(training_file(), "state_dit")

    assert error.message == (
        "the nested key 'state_dit' is not in /runs/a.pt (did you mean 'state_dict'?). In the file:\n"
        "  (top level): dict, 0 tensors, 1 other entry\n"
        "  state_dict: dict, 2 tensors\n"
        "  ema: dict, 0 tensors\n"
        "  optimizer: dict, 0 tensors\n"
        "  ema.model: dict, 1 tensor\n"
        "  optimizer.state: dict, 0 tensors\n"
        "  optimizer.param_groups: list, 0 tensors\n"
        "  optimizer.state.0: dict, 1 tensor"
    )


def test_a_level_without_tensors_is_refused() -> None:
    assert refusal(training_file(), None).message.startswith(
        "the top level of /runs/a.pt holds no tensor itself. In the file:\n"
    )
    assert refusal(training_file(), "ema").message.startswith(
        "the nested key 'ema' of /runs/a.pt holds no tensor itself. In the file:\n"
    )


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("state_dict.weight", "is one tensor, not a state dict"),
        ("epoch", "is an entry of type int, not a state dict"),
        ("optimizer.param_groups", "holds no tensor itself"),
    ],
)
def test_what_is_no_state_dict_is_refused_by_what_it_is(key: str, found: str) -> None:
    message = refusal(training_file(), key).message

    assert message.startswith(f"the nested key '{key}' of /runs/a.pt {found}. In the file:\n")


def test_hostile_names_are_shown_as_text() -> None:
    root = folder(**{"\x1b[2J\nevil": folder("module", "\x1b]0;x\x07", weight=WEIGHT)})

    error = refusal(root, "\x1b[31m")

    assert "\x1b" not in str(error)
    assert "\x07" not in str(error)
    assert "\\x1b[2J\\nevil: pickled \\x1b]0;x\\x07, 1 tensor" in error.message


def test_the_tree_is_bounded_and_counts_what_it_leaves_out() -> None:
    root = folder(**{f"part{n:02}": folder(weight=WEIGHT) for n in range(30)})

    lines = tree(root).splitlines()

    assert lines[0] == "  (top level): dict, 0 tensors"
    assert lines[1] == "  part00: dict, 1 tensor"
    assert lines[12:] == ["  … and 19 more containers"]


def test_the_tree_says_what_a_pickled_module_is_and_counts_other_entries() -> None:
    root = folder("module", "my_pkg.Net", weight=WEIGHT, a=Leaf("int"), b=Leaf("str"))

    assert tree(root) == "  (top level): pickled my_pkg.Net, 1 tensor, 2 other entries"


def test_a_file_that_holds_itself_is_walked_once() -> None:
    root = folder(weight=WEIGHT)
    root.children["self"] = root

    assert tree(root) == "  (top level): dict, 1 tensor"
    assert find(root, "self.self.self") is root
