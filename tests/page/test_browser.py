"""The pages in real headless Chromium, from disk, as a reader opens them."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.page import write_run_page, write_sweep_page
from tests.page.chromium import Chromium, Tab, chromium
from tests.page.folders import HOSTILE, make_sweep

pytestmark = [pytest.mark.slow, pytest.mark.damaged_reports]

WIDE, PHONE = 1280, 390
REPORT: dict[str, Any] = {
    "status": "failed",
    "mode": "load",
    "exit_code": 4,
    "error": {
        "type": "FitError",
        "message": "it does not fit",
        "fixes": [{"line": "rules=[ddp]", "note": "strips it"}],
    },
    "model": {"target": "my.Net", "parameters": 10, "bytes": 40, "dtypes": ["float32"], "device": "cpu"},
    "modules": [
        {"module": f"blocks.{{0..3}}.{name}", "count": 4, "parameters": 100, outcome: 4}
        for name, outcome in zip("abcd", ("loaded", "missing", "mismatched", "initialised"), strict=True)
    ],
    "timings": {"open": 0.01, "build": 0.02, "total": 0.03},
    "verification": {"checks": [{"name": "complete", "ok": True, "detail": "all"}, {"name": "read back", "ok": False}]},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside pytest's own, whose reports need not be whole."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Path]:
    """The pages of a sweep, of a sweep with hostile texts, and of a run."""
    made = {}
    for name, text in (("sweep", "plain"), ("hostile", "".join(HOSTILE[:-1]))):
        (folder / name).mkdir()
        made[name] = write_sweep_page(folder / name, make_sweep(folder / name, 12, text=text))
    made["run"] = write_run_page(folder, REPORT)
    for report in folder.rglob("report.json"):
        report.unlink()
    return made


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Tab]:
    opened = Tab(browser, width=WIDE)
    yield opened
    opened.close()


def rows(tab: Tab) -> list[int]:
    """The jobs whose rows are shown, from top to bottom."""
    shown = "[...document.querySelectorAll('#table tbody tr')].filter((row) => row.offsetHeight > 0)"
    return [int(number) for number in tab.js(f"{shown}.map((row) => row.cells[0].textContent)")]


def heads(tab: Tab) -> list[str]:
    """The titles of the columns that are shown."""
    shown = "[...document.querySelectorAll('#table thead th')].filter((head) => head.offsetWidth)"
    return list(tab.js(f"{shown}.map((head) => head.textContent)"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("name", ["sweep", "hostile", "run"])
def test_a_page_opens_without_a_complaint_or_a_request(
    browser: Chromium, pages: dict[str, Path], tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    tab = Tab(browser, width=width, dark=dark)
    tab.open(pages[name])
    assert tab.requests() == [pages[name].as_uri()]
    assert tab.complaints() == []
    assert tab.js("document.documentElement.scrollWidth") == width
    assert tab.screenshot(tmp_path / "page.png").stat().st_size > 20_000
    assert too_faint(tab) == []
    for drawn in ink(tab).values():
        assert drawn > 2
    tab.close()


def ink(tab: Tab) -> dict[str, int]:
    """How many colors each picture has."""
    return dict(
        tab.js("""Object.fromEntries([...document.querySelectorAll('[data-picture]')].map((box) => {
            const canvas = box.querySelector('canvas');
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return [box.getAttribute('aria-label'), new Set(new Uint32Array(pixels.buffer)).size];
        }))""")
    )


def too_faint(tab: Tab) -> list[str]:
    """The texts whose contrast is below that of WCAG AA, with their ratio."""
    return list(
        tab.js("""(() => {
            const channels = (text) => text.match(/[\\d.]+/g).map(Number);
            const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
                .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
            const behind = (element) => {
                for (let at = element; at; at = at.parentElement) {
                    const found = channels(getComputedStyle(at).backgroundColor);
                    if (found.length < 4 || found[3] === 1) return found;
                }
                return [255, 255, 255];
            };
            const faint = [];
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) {
                const element = walk.currentNode.parentElement;
                if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest('script')) continue;
                const style = getComputedStyle(element);
                const [one, two] = [luminance(channels(style.color)), luminance(behind(element))].sort((a, b) => b - a);
                const ratio = (one + 0.05) / (two + 0.05);
                const size = parseFloat(style.fontSize);
                const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
                const text = walk.currentNode.data.trim();
                if (ratio < (large ? 3 : 4.5)) faint.push([ratio, element.tagName, text].join(' '));
            }
            return faint;
        })()""")
    )


def test_a_faint_text_would_be_found(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    tab.js("document.querySelector('h1').style.color = '#999'")
    assert [text.split()[1] for text in too_faint(tab)] == ["H1"]


def test_sorting_changes_the_rows(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    assert rows(tab) == list(range(12))
    at = heads(tab).index("seconds")
    button = f"#table thead th:nth-child({at + 1}) button"
    sort = f"document.querySelector('#table thead th:nth-child({at + 1})').getAttribute('aria-sort')"
    tab.click(button)
    assert tab.js(sort) == "ascending"
    found = [(number * 7 % 10, number) for number in rows(tab)]
    assert found == sorted(found)
    tab.click(button)
    assert tab.js(sort) == "descending"
    assert [number * 7 % 10 for number in rows(tab)] == sorted((number * 7 % 10 for number in range(12)), reverse=True)
    accuracy = heads(tab).index("accuracy")
    tab.click(f"#table thead th:nth-child({accuracy + 1}) button")
    # The failed jobs have no accuracy, and come last either way.
    assert rows(tab) == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 3, 8]
    tab.click(f"#table thead th:nth-child({accuracy + 1}) button")
    assert rows(tab) == [11, 10, 9, 7, 6, 5, 4, 2, 1, 0, 3, 8]


def test_filtering_changes_the_rows(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    assert tab.js("document.getElementById('count').textContent") == "12 jobs"
    tab.type("#filter", "BFLOAT16 step=2")
    assert rows(tab) == [5]
    assert tab.js("document.getElementById('count').textContent") == "1 of 12 jobs"
    tab.js("document.getElementById('filter').value = ''")
    tab.type("#filter", "does not fit")
    assert rows(tab) == [3, 8]
    tab.click("#statuses input[value=failed]")
    assert rows(tab) == []
    tab.js("document.getElementById('filter').select()")
    tab.type("#filter", " ")
    assert rows(tab) == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    tab.click("#statuses input[value=failed]")
    tab.click("#statuses input[value=ok]")
    assert rows(tab) == [3, 8]


def test_columns_can_be_chosen(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    before = heads(tab)
    assert "torch" not in before
    assert "step" in before
    tab.click("#columns summary")
    titles = tab.js("[...document.querySelectorAll('#columns label')].map(l => l.textContent.trim())")
    tab.click(f"#columns input[value='{titles.index('torch')}']")
    tab.click(f"#columns input[value='{titles.index('step')}']")
    assert {*heads(tab)} ^ {*before} == {"torch", "step"}
    shown = "[...document.querySelector('#table tbody tr').cells].filter(c => c.offsetWidth).length"
    assert tab.js(shown) == len(heads(tab))
    tab.click("h1")
    assert tab.js("document.getElementById('columns').open") is False


def test_a_line_can_be_copied(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    tab.js("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve() }")
    lines = tab.js("[...document.querySelectorAll('.line code')].map((code) => code.textContent)")
    assert len(lines) == 4
    for number, line in enumerate(lines):
        tab.js(f"document.querySelectorAll('.line button')[{number}].id = 'chosen'")
        tab.click("#chosen")
        tab.wait(lambda: bool(tab.js("document.querySelector('#chosen').textContent === 'Copied'")))
        assert tab.js("window.copied") == line
        tab.js("document.querySelector('#chosen').id = ''")


def test_a_line_can_be_copied_without_the_clipboards_permission(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    tab.js("document.addEventListener('copy', () => { window.copied = document.activeElement.value })")
    tab.js("navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'))")
    tab.click(".line button")
    tab.wait(lambda: bool(tab.js("document.querySelector('.line button').textContent === 'Copied'")))
    assert tab.js("window.copied") == "'allow.missing=[head.*]'"


def test_the_policy_holds(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    attack = """(() => {
        window.ran = [];
        const add = (name, attributes) => document.body.append(Object.assign(document.createElement(name), attributes));
        const insert = (html) => document.body.insertAdjacentHTML('beforeend', html);
        insert('<img src="x" onerror="ran.push(1)"><b id="d" style="color: red">d</b>');
        insert('<base href="https://elsewhere.invalid/">');
        add('script', { textContent: 'ran.push(2)' });
        add('script', { src: 'https://elsewhere.invalid/x.js' });
        add('style', { textContent: '#d { color: red }' });
        add('iframe', { src: 'https://elsewhere.invalid/' });
        try { new Function('ran.push(3)')() } catch {}
        const asked = fetch('https://elsewhere.invalid/').then(() => ran.push(4), () => 0);
        return asked.then(() => [ran, document.baseURI, getComputedStyle(document.getElementById('d')).color]);
    })()"""
    ran, base, style = tab.js(attack)
    assert (ran, base) == ([], pages["sweep"].as_uri())
    assert style != "rgb(255, 0, 0)"
    said = " ".join(tab.complaints())
    for directive in ("script-src", "style-src", "base-uri", "default-src"):
        assert directive in said
    assert not [url for url in tab.answered() if "elsewhere" in url]


def test_hostile_texts_run_nothing_and_are_read_as_they_are(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["hostile"])
    assert tab.js("document.querySelectorAll('img, svg, iframe, base, body script').length") == 2
    assert "<img src=x onerror=alert(1)>" in tab.js("document.getElementById('table').innerText")
    tab.js("document.querySelectorAll('details').forEach(d => { d.open = true })")
    tab.wait(lambda: tab.js("document.querySelectorAll('.numbers table').length") == 5)
    assert "<svg/onload=alert(1)>" in tab.js("document.querySelector('.coverage .numbers').innerText")
    assert tab.complaints() == []


def test_tooltips_are_text(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["hostile"])
    box = tab.js(
        "(() => { const b = document.querySelector('.coverage .canvas'); b.scrollIntoView({block: 'center'});"
        " const at = b.getBoundingClientRect(); return [at.x + at.width / 3, at.y + at.height / 2] })()"
    )
    before = tab.js("document.querySelectorAll('.coverage .canvas *').length")
    picture = "document.querySelector('.coverage canvas').toDataURL()"
    plain = tab.js(picture)
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    tab.wait(lambda: tab.js(picture) != plain)
    assert tab.js("document.querySelectorAll('.coverage .canvas *').length") == before
    assert tab.complaints() == []


def shown_tables(tab: Tab, number: int) -> bool:
    return bool(tab.js("document.querySelectorAll('.numbers table').length") == number)


def test_the_numbers_of_a_picture_can_be_read(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    firsts = {"matrix": "0", "coverage": "fc1", "seconds": "0", "memory": "0", "metric": "0"}
    for number, (kind, first) in enumerate(firsts.items(), 1):
        tab.click(f".{kind} .numbers summary")
        # Each table moves what is below it; the next place is looked for afterwards.
        tab.wait(functools.partial(shown_tables, tab, number))
        assert tab.js(f"document.querySelector('.{kind} .numbers tbody th').textContent") == first


def test_a_map_can_be_chosen(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    about = "document.querySelector('.coverage .about').textContent"
    assert tab.js(about) == "my.Net, 101,770 parameters: 2 loaded, 2 missing of 4 keys. Not loaded whole: head."
    tab.js(
        "(() => { const select = document.querySelector('.coverage select'); select.value = '1';"
        " select.dispatchEvent(new Event('change')) })()"
    )
    assert tab.js(about) == "my.Net, 101,770 parameters: all 4 keys loaded."


def test_a_click_on_a_bar_leads_to_its_job(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    x, y = tab.js(
        "(() => { const b = document.querySelector('.memory .canvas'); b.scrollIntoView({block: 'center'});"
        " const at = b.getBoundingClientRect(); return [at.right - 28, at.bottom - 90] })()"
    )
    tab.click_at(x, y)
    tab.wait(lambda: tab.js("document.querySelector('tr.aimed')?.id") == "job-11")


def test_a_failed_row_leads_to_its_message_under_any_name_of_the_file(tab: Tab, pages: dict[str, Path]) -> None:
    renamed = pages["sweep"].with_name("my sweep (1).html")
    renamed.write_bytes(pages["sweep"].read_bytes())
    tab.open(renamed)
    tab.click("#job-3 td.error a")
    assert tab.js("Math.abs(document.getElementById('failed-3').getBoundingClientRect().top) < 200")
    assert tab.js("document.URL") == renamed.as_uri()


def test_without_scripts_there_is_a_plain_table(browser: Chromium, pages: dict[str, Path]) -> None:
    tab = Tab(browser, width=WIDE)
    tab.open(pages["sweep"], scripts=False)
    assert tab.js("document.documentElement.className") == ""
    assert len(heads(tab)) == len(tab.js("[...document.querySelectorAll('#table thead th')].map(h => h.textContent)"))
    assert rows(tab) == list(range(12))
    for hidden in (".tools", ".canvas", ".numbers"):
        assert tab.js(f"document.querySelector('{hidden}').offsetHeight") == 0
    tab.close()


def test_a_change_of_the_theme_is_followed(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["run"])
    picture = "document.querySelector('.coverage canvas').toDataURL()"
    light = tab.js(picture)
    tab.theme(dark=True)
    tab.wait(lambda: bool(tab.js(picture) != light))
    assert tab.complaints() == []


def test_everything_can_be_reached_by_keyboard(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"])
    unreachable = """[...document.querySelectorAll('a, button, input, select, summary, .scroll')]
        .filter((each) => each.checkVisibility() && each.tabIndex < 0).map((each) => each.outerHTML.slice(0, 80))"""
    assert tab.js(unreachable) == []
    unnamed = """[...document.querySelectorAll('input, select, button')]
        .filter((each) => !(each.labels?.length || each.textContent.trim())).map((each) => each.outerHTML)"""
    assert tab.js(unnamed) == []


def test_served_by_a_server_it_asks_for_nothing_else(tab: Tab, pages: dict[str, Path]) -> None:
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(pages["sweep"].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/summary.html"
        tab.send("Page.navigate", url=url)
        tab.wait(lambda: bool(tab.js("document.documentElement?.dataset.ready === 'true'")))
        assert tab.requests() == [url]
        assert tab.complaints() == []
        server.shutdown()


def test_the_data_is_json(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["hostile"])
    assert json.loads(tab.js("document.getElementById('data').textContent")).keys() >= {"picture-0"}
