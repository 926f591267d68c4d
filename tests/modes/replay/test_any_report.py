"""Whatever a report holds: it is refused as damaged, or its config and results are compared without a failure."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.config.compose import compose
from loader.config.parse import parse_job
from loader.errors import ConfigError
from loader.modes.replay.comparing import Sides, compare, environments
from loader.modes.replay.settings import settings
from loader.report.reading import read_report
from tests.jobs import save
from tests.models import Two, filled
from tests.modes.replay.runs import TWO, made

pytestmark = pytest.mark.damaged_reports

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.just("${oc.env:HOME}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if where:
        yield where
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*where, key))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    path = save(filled(Two()).state_dict(), folder / "two.pt")
    assert made(folder / "first", *TWO, f"checkpoint.path={path}").code == 0
    return folder / "first" / "report.json"


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return compose(["mode=replay"])


@given(data=st.data())
def test_any_report_is_refused_or_compared(base: Path, composed: dict[str, Any], data: st.DataObject) -> None:
    content = json.loads(base.read_text())
    content["evaluation"] = {"samples": 3, "metrics": {"accuracy": {"value": 0.5, "stderr": None, "n": 3}}}
    found = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(list(places(content))))
        node = content
        for step in above:
            node = node[step]
        node[last] = data.draw(JSON)
    path = base.with_name("changed.json")
    path.write_text(json.dumps(content))
    base.with_name("found.json").write_text(json.dumps(found))
    now = read_report(base.with_name("found.json"))

    try:
        recorded = read_report(path)
        config = settings(recorded, composed, [], "REPORT").config
        job = parse_job(config)
    except ConfigError:
        return

    findings = list(compare(Sides(recorded, now, job, []), None))
    json.dumps([str(finding.check) for finding in findings])
    environments(recorded, now)
    assert config["mode"] == "load"
    assert config["trusted_targets"] is None
    assert not config.get("checkpoint", {}).get("trust", False)
