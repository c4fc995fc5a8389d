"""The HTML page and the notebook fragment: policy, isolation, and the words that say what a colour means."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from dataclasses import replace
from typing import Any

import pytest

from lrp_hooks.render import Heatmap
from lrp_hooks.render.page import SCRIPTS, fragment, page, page_data
from lrp_hooks.render.words import caption, sides, supports, totals
from lrp_hooks.tokens import TokenText

DIFFERENCE = "logit(' Mary') - logit(' John')"


def heatmap(words: list[str], **changes: Any) -> Heatmap:
    tokens = tuple(TokenText(i, word) for i, word in enumerate(words))
    scores = changes.pop("scores", tuple(float(i + 1) for i in range(len(words))))
    special = changes.pop("special", (False,) * len(words))
    return Heatmap(tokens, scores, special, **changes)


def test_the_policy_names_exactly_the_pages_own_style_and_script() -> None:
    html = page([heatmap(["a"])])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    rules = policy[1].replace("&#39;", "'").replace("&#43;", "+")
    for element, rule in (("style", "style-src"), ("script", "script-src")):
        texts = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        assert len(texts) == 1
        digest = base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in rules
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    assert not re.search(r"<[^>]+\s(style|on\w+)=", html), "the policy would block inline styles and handlers"


def test_every_script_of_the_page_is_whole() -> None:
    html = page([heatmap(["a"])])
    for name in SCRIPTS:
        assert name.endswith(".js")
    for function in ("colour", "build", "buildMap", "drawScatter", "drawLegend", "showTip"):
        assert html.count(f"function {function}(") == 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (DIFFERENCE, (" Mary", " John")),
        ("logit('a') - mean logit(' b', \"it's\")", ("a", " b / it's")),
        (r"logit('\n') - logit('\\')", ("\n", "\\")),
        ("logit(') - logit(') - logit(')')", (") - logit(", ")")),
        ("logit('x')", ("x", None)),
        ("max logit ('x')", ("x", None)),
        ("logit('x') - mean of the top 10 logits", ("x", "mean of the top 10 logits")),
        ("log p('x')", ("x", None)),
        ("my own target", (None, None)),
        (r"logit('\xZZ')", (r"\xZZ", None)),
        ("", (None, None)),
    ],
)
def test_the_two_sides_are_read_from_the_targets_description(
    target: str, expected: tuple[str | None, str | None]
) -> None:
    assert sides(target) == expected


def test_the_legend_names_the_tokens_where_all_panels_agree() -> None:
    one = heatmap(["a"], target=DIFFERENCE)
    assert supports([one]) == ("supports the target “␣Mary”", "supports the contrast “␣John”")
    other = heatmap(["a"], target="logit('x') - logit('y')")
    assert supports([one, other]) == ("supports the target", "supports the contrast (speaks against the target)")
    assert supports([heatmap(["a"], target="logit('x')")]) == ("supports the target “x”", "speaks against “x”")
    given = heatmap(["a"], target_text="\x1b[31m", contrast_text="no")
    assert supports([given]) == ("supports the target “␛[31m”", "supports the contrast “no”")
    assert "supports the target “␣Mary”" in fragment(one)


def test_captions_tell_a_value_from_what_was_explained() -> None:
    assert caption(heatmap(["a"], target="t", value=1.5, model="m", composite="attnlrp")) == (
        "t = +1.500 logits  ·  m  ·  attnlrp"
    )
    capped = heatmap(["a"], target="t", value=1.5, target_value=1.25)
    assert caption(capped) == "t = +1.250; explained to first order: +1.500 logits"
    most = heatmap(["a", "b"], special=(True, False), value=3.0)
    assert totals(most) == totals(replace(most, value=0.0))  # all of it is on tokens, or nobody knows
    assert totals(replace(most, value=-1.5)).endswith(
        "  ·  -4.500 of the value is on no token (biases, positions, softmax)"
    )
    assert totals(heatmap(["a", "b"], special=(True, False))) == (
        "1 tokens, sum of R +2.000, sum of |R| 2.000  ·  1 special, sum of R +1.000"
    )


def test_a_right_to_left_run_is_isolated_as_a_whole() -> None:
    html = fragment(heatmap(["say", " مر", "حبا", " now"]))
    assert re.search(r"say</span><bdi><span[^>]*> مر</span><span[^>]*>حبا</span></bdi><span[^>]*> now", html)
    (panel,) = page_data([heatmap(["say", " مر", "حبا", " now"])], "", "red-blue")["panels"]
    assert panel["runs"] == [(1, 3)]


def test_the_map_holds_every_residual_point() -> None:
    layers = ((1.0, -2.0), (0.5, 0.25), (3.0, 0.0))
    data = page_data([heatmap(["a", "b"], layers=layers)], "", "red-blue")
    (panel,) = json.loads(json.dumps(data))["panels"]
    assert [struct.unpack("<2f", base64.b64decode(row)) for row in panel["layers"]] == list(layers)
    assert panel["points"] == ["before block 0", "after block 0", "after block 1"]


def test_pieces_of_a_character_are_marked_by_the_script_not_in_the_text() -> None:
    tokens = (TokenText(1, "你", 1, 2, "你"), TokenText(2, "", 2, 2, "你"))
    (panel,) = page_data([Heatmap(tokens, (1.0, 2.0), (False, False))], "", "red-blue")["panels"]
    assert panel["tokens"] == ["你", ""]
    assert panel["pieces"] == [0, 1]
    assert panel["labels"] == ["你·1/2", "你·2/2"]


def test_a_fragment_is_compact_and_needs_no_style_where_there_is_no_score() -> None:
    words = [" w"] * 1000
    html = fragment(heatmap(words, scores=(1.0, *[0.0] * 999)))
    assert html.count("background:") <= 5
    assert len(html) < 90_000
    shown = heatmap(["<b>"])._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "<script" not in shown
