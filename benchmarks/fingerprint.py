"""What the compiler is given for one launch, in twelve letters: equal ones compile to the same code."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from functools import cache
from typing import Any

import torch
from lrp_kernels.launch import Call


def fingerprint(call: Call, target: str) -> str:
    """Of all that the compiler is given: the kernel and what it calls, types and constants of arguments, options."""
    given = [source(call.kernel), target, *map(sorted, map(dict.items, specialised(call))), dict(call.launch.options)]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:12]


@cache
def source(kernel: Any) -> str:
    """A device function without comments and docstrings, the ones that it calls, and the constants that it names."""
    from triton.language import constexpr
    from triton.runtime.jit import JITFunction

    parts, outside = [_code(kernel.src)], kernel.fn.__globals__
    named = {node.id for node in ast.walk(ast.parse(kernel.src)) if isinstance(node, ast.Name)}
    for name in sorted(named & set(outside)):
        value = outside[name]
        if isinstance(value, JITFunction):
            parts.append(source(value))
        elif isinstance(value, constexpr | int | float | str):
            parts.append(f"{name} = {getattr(value, 'value', value)!r}")
    return "\n".join(parts)


def _code(text: str) -> str:
    """Tokens of a function, one space between any two, without comments and docstrings."""
    kept, fresh = [], True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL) or (token.type == tokenize.STRING and fresh):
            continue
        fresh = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        kept.append({tokenize.INDENT: "{", tokenize.DEDENT: "}"}.get(token.type, token.string))
    return " ".join(kept)


def specialised(call: Call) -> tuple[dict[str, str], dict[str, Any], dict[str, int]]:
    """(types, constants, divisors) of the arguments by name, as triton specialises a kernel on them."""
    from triton.runtime.jit import mangle_type

    types, constants, divisors = {}, {}, {}
    given = {**call.arguments, **call.launch.blocks}
    for parameter in call.kernel.params:
        value = given[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            types[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        types[parameter.name] = mangle_type(value, False)
        if isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0):
            divisors[parameter.name] = 16
    return types, constants, divisors
