from __future__ import annotations

import pytest

from loader.config.argv import rewrite


@pytest.mark.parametrize(
    "before",
    [
        "rules={a: {strip: zz.}}", "+rules={a: {strip: zz.}}", "rules.a.strip=zz.", "+rules.a.strip=zz.", "~rules.a",
        "rules=[ddp]", "rules=auto", "+rules=[fsdp]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("last", ["rules=[]", "rules=[compile]", "rules=auto", "rules={b: {strip: y.}}", "rules=null"])
def test_the_rules_typed_last_replace_all_that_were_typed_before(before: str, last: str) -> None:
    assert rewrite([before, last]) == rewrite([last])


def test_rules_typed_after_a_list_are_added_to_it() -> None:
    assert rewrite(["rules=[ddp]", "+rules={a: {strip: x.}}", "rules.ddp.optional=true"]) == [
        "rules=[ddp]",
        "+rules={a: {strip: x.}}",
        "++rules.ddp.optional=true",
    ]


def test_an_option_typed_after_a_literal_replaces_it() -> None:
    assert rewrite(["model={_target_: a.B}", "seed=3", "model=linear"]) == ["seed=3", "model=linear"]
    assert rewrite(["model={_target_: a.B}", "model.x=3"])[-1] == "++model.x=3"
