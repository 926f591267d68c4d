"""Whatever a file, a config or a report contains, a page is the same page with other text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.page import write_run_page, write_sweep_page
from loader.page.build import MOST_BYTES, json_block
from loader.page.plain import link
from loader.text.redaction import remember
from tests.page.folders import (
    HARMLESS,
    HOSTILE,
    failed,
    job_row,
    make_sweep,
    module_row,
    new_folder,
    summary_of,
    write_report,
)
from tests.page.parsed import Parsed, parsed

pytestmark = pytest.mark.damaged_reports

ANY_TEXT = st.text(st.characters(exclude_categories=[]), min_size=1) | st.sampled_from(HOSTILE)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=12,
)
FORBIDDEN = {"img", "svg", "iframe", "object", "embed", "base", "form", "link", "math", "video", "audio", "template"}


def assert_harmless(page: Parsed) -> None:
    """Only the page's own elements, and nothing that could run or ask for anything."""
    names = [tag for tag, _ in page.tags]
    assert not FORBIDDEN & set(names)
    assert (names.count("script"), names.count("style"), names.count("meta")) == (2, 1, 5)
    assert not [name for _, found in page.tags for name in found if name.startswith("on") or name in ("src", "style")]
    assert all(href.startswith("./") for href in page.attributes("href"))
    assert page.data is not None


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    page = parsed(write_sweep_page(tmp_path, make_sweep(tmp_path, text=text)))
    assert_harmless(page)
    assert "49" not in page.texts["td"]


@given(ANY_TEXT)
def test_any_text_leaves_the_same_elements(text: str) -> None:
    rows = [job_row(0, text=text), failed(1, text=text), job_row(2, status=text)]
    with new_folder() as folder:
        for row in rows[:2]:
            write_report(folder, row, text=text)
        summary = summary_of(rows) | {"best": {text: text, "accuracy": 0}}
        summary["jobs"] += [{text: text, "job": text}]
        assert_harmless(parsed(write_sweep_page(folder, summary)))


@given(summary=JSON, row=st.dictionaries(st.sampled_from(sorted(job_row(0))), JSON), report=JSON)
def test_any_json_makes_a_page(summary: Any, row: dict[str, Any], report: Any) -> None:
    with new_folder() as folder:
        (folder / "0").mkdir()
        (folder / "0" / "report.json").write_text(json.dumps(report))
        for content in ({"jobs": [row, job_row(0) | row, job_row(0)], "best": summary}, {"jobs": summary}, {}):
            assert_harmless(parsed(write_sweep_page(folder, content)))


REPORT = st.fixed_dictionaries(
    {},
    optional={
        name: JSON | st.dictionaries(st.sampled_from(fields), JSON | st.lists(st.dictionaries(st.text(), JSON)))
        for name, fields in {
            "status": ["ok"],
            "error": ["type", "message", "fixes"],
            "model": ["target", "parameters", "bytes", "dtypes", "build"],
            "parts": ["", "a"],
            "keys": ["missing", "mismatched", "cast"],
            "modules": ["module"],
            "verification": ["checks", "inputs", "outputs", "kept"],
            "evaluation": ["metrics", "samples", "seconds"],
            "timings": ["open", "total"],
            "memory": ["peak_rss_bytes"],
            "environment": ["torch"],
            "config": ["model"],
            "overrides": ["x"],
        }.items()
    },
)


@given(REPORT)
def test_any_report_makes_a_page(report: dict[str, Any]) -> None:
    with new_folder() as folder:
        assert_harmless(parsed(write_run_page(folder, report)))


@given(JSON)
def test_data_is_never_html(content: Any) -> None:
    content = json.loads(json.dumps(content), parse_constant=lambda name: None)
    block = json_block(content)
    assert block.isascii()
    assert not set("<>&") & set(block)
    assert json.loads(block) == content


def test_numbers_that_json_lacks_never_reach_the_data() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_block([float("nan")])


@given(st.text(st.characters(exclude_categories=[])))
def test_a_link_stays_in_its_place(path: str) -> None:
    found = link(path)
    assert found == "" or re.fullmatch(r"\./[A-Za-z0-9._~/%-]*", found)
    assert not found.startswith(".//")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("3/report.json", "./3/report.json"),
        ("../earlier/3/report.json", "./../earlier/3/report.json"),
        ("seed=1,dtype=a b/report.json", "./seed%3D1%2Cdtype%3Da%20b/report.json"),
        ("gr\u00f6\u00dfe#?/%2e.json", "./gr%C3%B6%C3%9Fe%23%3F/%252e.json"),
        ("javascript:alert(1)", "./javascript%3Aalert%281%29"),
        ("/etc/passwd", ""),
        ("//host/share", ""),
        ("\\\\host\\share", ""),
        ("C:\\report.json", ""),
        ("a\nb", ""),
        ("", ""),
        (None, ""),
        (7, ""),
    ],
)
def test_links_are_relative_and_encoded(path: Any, expected: str) -> None:
    assert link(path) == expected


def test_the_policy_allows_the_pages_own_script_and_style_alone(tmp_path: Path) -> None:
    path = write_sweep_page(tmp_path, make_sweep(tmp_path))
    page = parsed(path)
    (policy,) = [
        found["content"] or "" for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"
    ]
    script, style = page.texts["script"][1], page.texts["style"][0]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digests[0]}'; style-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # Before anything that it has to hold for.
    assert [tag for tag, _ in page.tags[:4]] == ["html", "head", "meta", "meta"]
    assert b"\r" not in path.read_bytes()


def test_a_secret_stays_out_of_a_page(tmp_path: Path) -> None:
    url = "https://user:hunter2secret@h.invalid/a.pt?token=tok-abcdefgh12345678"
    remember(url)
    row = failed(0, text=url, command=f"hydra-loader checkpoint.path={url}", report=f"{url}/report.json")
    path = write_sweep_page(tmp_path, summary_of([row | {"values": {"checkpoint.path": url}}]))
    assert "hunter2secret" not in path.read_text()
    assert "tok-abcdefgh12345678" not in path.read_text()


@pytest.mark.parametrize("text", [HARMLESS, HOSTILE[-1], "\u202e" * 3000, "<&>" * 3000])
def test_a_page_of_200_jobs_is_small(tmp_path: Path, text: str) -> None:
    rows = []
    for number in range(200):
        row = (failed if number % 2 else job_row)(number, text=text, command="x" * 3999)
        many = [module_row(f"{text[:300]}{index}.{number}", index) for index in range(600 if text != HARMLESS else 5)]
        write_report(tmp_path, row, text=text, modules=many)
        rows.append(row)
    path = write_sweep_page(tmp_path, summary_of(rows))
    assert path.stat().st_size <= MOST_BYTES
    page = parsed(path)
    assert_harmless(page)
    assert len([found for tag, found in page.tags if tag == "tr" and "id" in found]) == 200


def test_a_page_is_the_same_each_time(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path)
    first = write_sweep_page(tmp_path, summary).read_bytes()
    assert write_sweep_page(tmp_path, summary).read_bytes() == first
