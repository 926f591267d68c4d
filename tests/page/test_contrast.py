"""The colors of the pages: readable in both themes, in the pictures too, which a browser's text does not show."""

from __future__ import annotations

import re

import pytest

from loader.page.build import _resource

THEMES = dict(
    zip(("light", "dark"), re.findall(r":root \{(.*?)\}", _resource("template/page.css"), re.DOTALL), strict=True)
)
TEXT, GRAPHIC = 4.5, 3.0
"""The ratios of WCAG 2.2 AA (1.4.3 and 1.4.11)."""


def colors(theme: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", THEMES[theme]))


def luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(part * share for part, share in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def too_faint(theme: str, pairs: list[tuple[str, str]], least: float) -> dict[tuple[str, str], float]:
    found = colors(theme)
    ratios = {pair: contrast(*(found[name] for name in pair)) for pair in pairs}
    return {pair: ratio for pair, ratio in ratios.items() if ratio < least}


@pytest.mark.parametrize("theme", THEMES)
def test_texts_are_readable(theme: str) -> None:
    texts = ("ink", "soft", "link", "good", "bad", "warn", "calm")
    pairs = [(text, back) for text in texts for back in ("paper", "sheet", "hover")]
    pairs += [(f"{outcome}-ink", outcome) for outcome in ("loaded", "missing", "mismatched", "initialised")]
    pairs += [("ink", "code"), ("ink", "mark"), ("good", "mark"), ("soft", "mark")]
    assert too_faint(theme, pairs, TEXT) == {}


@pytest.mark.parametrize("theme", THEMES)
def test_pictures_are_visible(theme: str) -> None:
    names = [*(f"series-{number}" for number in range(1, 9)), "edge", "focus", "high", "missing", "mismatched"]
    pairs = [*((name, back) for name in names for back in ("paper", "sheet")), ("low", "high")]
    assert too_faint(theme, pairs, GRAPHIC) == {}


def test_both_themes_have_the_same_colors() -> None:
    assert colors("light").keys() == colors("dark").keys()
    assert len(colors("light")) > 25
