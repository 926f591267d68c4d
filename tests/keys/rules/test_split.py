"""One tensor into several: `split`."""

from __future__ import annotations

import pytest
import torch

from loader.errors import ConfigError, FitError
from tests.keys.rules.moving import counted, moved, rewriting

QKV = {"split": r"qkv\.", "into": ["q.", "k.", "v."]}
ROWS = {"qkv.weight": counted(24, 8)}


def test_a_split_cuts_a_tensor_into_equal_pieces() -> None:
    pieces = moved(ROWS, QKV)

    assert list(pieces) == ["q.weight", "k.weight", "v.weight"]
    assert [piece.shape for piece in pieces.values()] == [(8, 8)] * 3
    assert torch.equal(torch.cat(list(pieces.values())), ROWS["qkv.weight"])


def test_sizes_are_proportions() -> None:
    pieces = moved(ROWS, {**QKV, "sizes": [4, 1, 1]})

    assert [piece.shape for piece in pieces.values()] == [(16, 8), (4, 8), (4, 8)]
    assert torch.equal(torch.cat(list(pieces.values())), ROWS["qkv.weight"])


def test_without_sizes_each_piece_is_as_long_as_its_model_key_and_the_others_share_the_rest() -> None:
    pieces = moved(ROWS, QKV, {"q.weight": (12, 8)})

    assert [piece.shape for piece in pieces.values()] == [(12, 8), (6, 8), (6, 8)]


def test_null_drops_a_piece() -> None:
    pieces = moved(ROWS, {**QKV, "into": ["q.", None, "v."]})

    assert list(pieces) == ["q.weight", "v.weight"]
    assert torch.equal(pieces["v.weight"], ROWS["qkv.weight"][16:])


def test_groups_cut_the_dim_into_equal_runs_first() -> None:
    pieces = moved(ROWS, {**QKV, "groups": 4})

    assert torch.equal(pieces["k.weight"], ROWS["qkv.weight"].view(4, 3, 2, 8)[:, 1].reshape(8, 8))


def test_a_text_names_one_tensor_per_index() -> None:
    pieces = moved({"moe.w1": counted(12, 2, 3)}, {"split": r"\.w1$", "into": ".experts.{}.w1.weight"})

    assert list(pieces) == [f"moe.experts.{index}.w1.weight" for index in range(12)]
    assert torch.equal(torch.stack(list(pieces.values())), counted(12, 2, 3))


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"sizes": [3, 2, 2]}, "qkv.weight [24, 8] is not divisible along dim 0: 24 into sizes: [3, 2, 2], 7 parts"),
        ({"groups": 5}, "qkv.weight [24, 8] is not divisible along dim 0: 24 into groups: 5"),
        ({"dim": 2}, "qkv.weight [24, 8] has 2 dims, none of which is dim 2"),
    ],
)
def test_a_tensor_that_cannot_be_cut_is_refused(rule: dict[str, object], fault: str) -> None:
    with pytest.raises(FitError) as refused:
        rewriting(ROWS, {"r": {**QKV, **rule}})

    assert refused.value.message.endswith(f"does not fit the file: {fault}")
    assert refused.value.message.startswith(r"rule 'r' (split: qkv\., into: [q., k., v.]")


def test_sizes_of_the_model_that_do_not_sum_are_refused_with_all_shapes() -> None:
    with pytest.raises(FitError, match=r"rule 'r' \(split") as refused:
        rewriting(ROWS, {"r": QKV}, {"q.weight": (8, 8), "k.weight": (8, 8), "v.weight": (4, 8)})

    assert refused.value.message.endswith(
        "qkv.weight [24, 8] cannot be cut along dim 0 into q.weight [8, 8], k.weight [8, 8], v.weight [4, 8]: "
        "the sizes sum to 20, expected 24"
    )


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"split": "("}, r"the regular expression '\(' does not work"),
        ({"into": [r"\2"]}, r"with into: '\\\\2' does not work: invalid group reference 2"),
        ({"into": "q."}, "'into' is 'q.', expected a list of names, or one with {} where the number belongs"),
        ({"into": "q.{}", "groups": 2}, "'sizes' and 'groups' belong to a list of names"),
        ({"into": [None]}, "'into' names no piece"),
        ({"sizes": [1, 1]}, "'sizes' has 2 sizes for the 3 pieces of 'into'"),
        ({"sizes": [1, 1, 0]}, "'sizes' is 0, expected a whole number from 1"),
        ({"groups": 0}, "'groups' is 0, expected a whole number from 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(rule: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule 'r': .*{reason}"):
        rewriting(ROWS, {"r": {**QKV, **rule}})


def test_lines_to_type_mend_the_settings() -> None:
    def hint(rule: dict[str, object]) -> str:
        with pytest.raises((ConfigError, FitError)) as refused:
            rewriting(ROWS, {"r": {**QKV, **rule}})
        return refused.value.hint

    model = "rules.r.sizes=null   # each piece is as long as its key in the model"
    assert hint({"sizes": [3, 2, 2]}) == hint({"sizes": [1, 1]}) == hint({"sizes": [1, 1, 0]}) == model
    assert hint({"groups": 0}) == "rules.r.groups=1"
    assert hint({"dim": 2}) == "rules.r.dim=0"
    assert hint({"split": "("}) == r"""'rules.r.split="\.qkv\."' 'rules.r.into=[".q.",".k.",".v."]'"""
