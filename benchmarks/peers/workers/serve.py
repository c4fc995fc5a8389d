"""What every worker does: read a request, run one method on its prompts, write the answer. Both are JSON.

Runs inside a peer's environment, whose torch and transformers are other ones than the project's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import status_megabytes

Prompt = dict[str, Any]
"""``ids``, ``target``, ``contrast``."""
Attribute = Callable[[Prompt], tuple[float, list[float]]]
"""The explained value, and one score per token."""
Make = Callable[[str, str], tuple[Any, Attribute]]
"""(folder of the model, the tool's name of a method) -> the model, and the method on it."""


def serve(make: Make) -> None:
    """Answer the request of the first file in the second."""
    question, answer = map(Path, sys.argv[1:3])
    request = json.loads(question.read_text())
    model, attribute = make(request["model"], request["method"])
    results = [timed(attribute, prompt) for prompt in request["prompts"]]
    found = {"results": results, "megabytes": None}
    if request["long"]:
        found["megabytes"] = added_megabytes(model, lambda: attribute(request["long"]))
    import transformers

    answer.write_text(json.dumps({"versions": f"transformers {transformers.__version__}", **found}))


def timed(attribute: Attribute, prompt: Prompt) -> dict[str, Any]:
    start = time.perf_counter()
    value, scores = attribute(prompt)
    return {"value": value, "scores": scores, "seconds": time.perf_counter() - start}


def added_megabytes(model: Any, step: Callable[[], object]) -> float:
    """Peak resident memory of one step less what is there before it, in MB.

    What a first step leaves behind (modules, buffers of PyTorch's kernels) is not counted when one ran before.
    """
    for parameter in model.parameters():
        parameter.sum()  # mapped weights are read from disk when they are first used
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status_megabytes("VmRSS")
    step()
    return status_megabytes("VmHWM") - before
