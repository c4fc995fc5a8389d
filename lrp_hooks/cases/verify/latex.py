"""MATH answers in one form, so that equal ones are equal strings (Hendrycks et al., arXiv 2103.03874)."""

from __future__ import annotations

import re

_DROPPED = ("\n", r"\!", r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$", "$", r"\%", "%")
_BOXES = (r"\boxed", r"\fbox")


def boxed(text: str) -> str | None:
    """What the last ``\\boxed{…}`` or ``\\fbox{…}`` holds, braces matched; also ``\\boxed 5``. None without one."""
    at, name = max((text.rfind(name), name) for name in _BOXES)
    if at < 0:
        return None
    rest = text[at + len(name) :]
    if not rest.startswith("{"):
        return re.split(r"[\s$]", rest[1:], maxsplit=1)[0] if rest.startswith(" ") else None
    depth = 0
    for i, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:i]
    return None


def normalized(answer: str) -> str:
    """An answer without what does not change its meaning.

    As in the benchmark's own comparison: line breaks, ``\\!``, ``\\left``/``\\right``, degrees, dollar and per cent
    signs and blanks go; a double backslash becomes one; ``\\tfrac`` and ``\\dfrac`` become ``\\frac``; a unit in
    ``\\text{ …}`` at the end goes; ``.5`` becomes ``0.5``; of ``x = 5`` with a name of one or two letters the value
    stays; ``\\sqrt3``, ``\\frac12`` and ``1/2`` get their braces; ``0.5`` is ``\\frac{1}{2}``. Two different forms of
    one value, such as ``2x+1`` and ``1+2x``, stay different.
    """
    text = answer.replace(r"\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for part in _DROPPED:
        text = text.replace(part, "")
    text = text.split(r"\text{ ")[0] if text.count(r"\text{ ") == 1 else text
    text = re.sub(r"(^|(?<=[ {]))\.(?=\d)", "0.", text)
    name, sign, value = text.partition("=")
    if sign and "=" not in value and len(name.strip()) <= 2:
        text = value
    text = re.sub(r"\\sqrt\s*([^{\s\[])", r"\\sqrt{\1}", text)
    text = text.replace(" ", "")
    text = re.sub(r"\\frac([^{}\\])([^{}\\])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{}\\])(?=\{)", r"\\frac{\1}", text)
    text = re.sub(r"(\\frac\{[^{}]*\})([^{}\\])", r"\1{\2}", text)
    text = re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)
    return r"\frac{1}{2}" if text == "0.5" else text
