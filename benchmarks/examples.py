"""The figures of README's two examples: the right name, and the comma that an instruction forbids.

    python -m benchmarks.examples      # the committed result: benchmarks/results/examples.json

Per example the explained difference, its strongest paths, and what cutting single tokens changes (`Trace.ablate`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.measure import write_result

PATHS = 5
NAMES, COMMA = "names", "comma"
CUT = {NAMES: (" Mary", " John"), COMMA: (" comma", "In", " realm")}
"""Tokens that are cut, at each place where the prompt has them."""


def example(lrp: Any, name: str, ids: Sequence[int], target: int, contrast: int, tokenizer: Any) -> dict[str, Any]:
    """One prompt: the graph's figures and the cuts."""
    from lrp_hooks import LogitDiff

    trace, asked = lrp.trace(input_ids=torch.tensor([list(ids)])), LogitDiff(target, contrast, tokenizer=tokenizer)
    graph = trace.graph(asked, tokenizer=tokenizer)
    paths = [{"share": path.strength, "nodes": path.nodes} for path in graph.strongest_paths(PATHS)]
    pair = [tokenizer.decode([token]) for token in (target, contrast)]
    cuts = [cut(trace, asked, text, place) for text in CUT[name] for place in places(ids, text, tokenizer)]
    before = cuts[0]["before"]
    return {"example": name, "pair": pair, "difference": before, "edges": len(graph), "paths": paths, "cuts": cuts}


def places(ids: Sequence[int], text: str, tokenizer: Any) -> list[int]:
    """Positions of the tokens that read so.

    Raises:
        ValueError: none does.
    """
    found = [place for place, token in enumerate(ids[:-1]) if tokenizer.decode([token]) == text]
    if not found:
        raise ValueError(f"no token of the prompt reads {text!r}")
    return found


def cut(trace: Any, asked: Any, text: str, place: int) -> dict[str, Any]:
    result = trace.ablate(asked, tokens=[place])
    return {"token": text, "position": place, "before": result.before, "change": result.change}


def main() -> int:
    from lrp_hooks import instrument
    from lrp_hooks.cases.answers.generate import encode_prompt
    from lrp_hooks.cli.demo import PROMPT, first_comma
    from lrp_hooks.loading.demo import load_demo_model

    loaded = load_demo_model()
    failure = first_comma(loaded)
    ids = encode_prompt(loaded.tokenizer, PROMPT)
    names = [loaded.tokenizer.encode(name, add_special_tokens=False)[0] for name in CUT[NAMES]]
    with instrument(loaded.model) as lrp:
        rows = [
            example(lrp, NAMES, ids, names[0], names[1], loaded.tokenizer),
            example(lrp, COMMA, failure.ids, failure.target, failure.contrast, loaded.tokenizer),
        ]
    for row in rows:
        print(f"logit({row['pair'][0]!r}) - logit({row['pair'][1]!r}) = {row['difference']:+.3f}")
        for each in row["cuts"]:
            print(f"  without {each['token']!r} at {each['position']}: {each['change']:+.2f}", flush=True)
    cuts = [{"example": row["example"], **each} for row in rows for each in row.pop("cuts")]
    write_result("examples", cuts, graphs=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
