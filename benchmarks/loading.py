"""Does the explanation survive the way a model was loaded? The demo model in every way, against float32.

``python -m benchmarks.loading [WAY ...]`` writes ``results/loading.json`` and the table of ``docs/loading.md``. Every
way runs in a process of its own, so that its peak of resident memory is its own. Needs ``lrp-hooks[quantised]``.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, status_megabytes, write_result

PROMPT = "When Mary and John went to the store, John gave a drink to"
TARGET, CONTRAST = " Mary", " John"
PAGE = Path(__file__).parents[1] / "docs" / "loading.md"
MARKS = "<!-- table -->\n", "<!-- end -->\n"
RANKS = 3
"""The demo model has three key/value heads."""

WAYS: dict[str, str] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "torchao-int8": "torchao int8 weights",
    "torchao-int4": "torchao int4 weights, groups of 32",
    "bitsandbytes-nf4": "bitsandbytes 4-bit (nf4)",
    "bitsandbytes-int8": "bitsandbytes 8-bit (LLM.int8)",
    "disk": "device_map: every block on disk",
    "tensor-parallel": f"tensor parallel, {RANKS} processes",
    "compiled": "model.compile()",
}
"""Way of loading -> what the page calls it."""


def load(way: str) -> Any:
    """The demo model, loaded this way."""
    import torch
    from transformers import AutoModelForCausalLM

    from lrp_hooks.loading.demo import load_demo_model

    folder = load_demo_model().model.config._name_or_path
    dtype = getattr(torch, way) if way in ("float32", "bfloat16", "float16") else torch.float32
    options = _options(way, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()
    if way == "compiled":
        model.compile()
    return model


def _options(way: str, folder: str) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig, TorchAoConfig

    if way.startswith("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerGroup

        int4 = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig() if way.endswith("int8") else int4)}
    if way.startswith("bitsandbytes"):
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
        chosen = {"load_in_8bit": True} if way.endswith("int8") else four
        return {"quantization_config": BitsAndBytesConfig(**chosen), "device_map": "cpu"}
    if way == "disk":
        places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")
        blocks = AutoConfig.from_pretrained(folder).num_hidden_layers
        places |= {f"model.layers.{index}": "disk" for index in range(blocks)}
        return {"device_map": places, "offload_folder": tempfile.mkdtemp()}
    if way == "tensor-parallel":
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    return {}


def measure(way: str) -> dict[str, Any]:
    """What this way gives: value [logits], tokens and layers, the ledger's error, the graph, peak resident memory."""
    import transformers  # noqa: F401  (so that its own memory is there before)

    from lrp_hooks import LogitDiff, instrument
    from lrp_hooks.errors import LrpError
    from lrp_hooks.loading.demo import load_demo_model

    tokenizer = load_demo_model().tokenizer
    target = LogitDiff(TARGET, CONTRAST, tokenizer=tokenizer)
    before = status_megabytes("VmRSS")
    model = load(way)
    Path("/proc/self/clear_refs").write_text("5")
    with instrument(model) as lrp:
        trace = lrp.trace(**tokenizer(PROMPT, return_tensors="pt"))
        relevance = trace.attribute(target)
        peak = status_megabytes("VmHWM") - before
        try:
            graph = f"{len(trace.graph(target).weight)} edges"
        except LrpError as error:
            graph = f"refused: {str(error).split('. do:')[0]}"
    return {
        "way": way,
        "value": float(relevance.value[0]),
        "ledger": float(relevance.ledger().max()),
        "peak_mb": round(peak),
        "graph": graph,
        "tokens": relevance.tokens[0].tolist(),
        "layers": relevance.layers[0].tolist(),
    }


def _send(way: str, pipe: Any) -> None:
    pipe.send(measure(way))


def in_process(way: str) -> dict[str, Any]:
    """`measure` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(way, theirs))
    process.start()
    theirs.close()
    try:
        result: dict[str, Any] = ours.recv()
    except EOFError as error:
        raise RuntimeError(f"{way} ended without a result") from error
    process.join()
    return result


def under_torchrun(way: str) -> dict[str, Any]:
    """`measure` by several ranks; the first one's result, with its own peak."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "result.json"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
        subprocess.run([*launch, "-m", "benchmarks.loading", "--rank-of", way, str(file)], check=True)
        result: dict[str, Any] = json.loads(file.read_text())
    return result


def as_rank(way: str, file: str) -> None:
    """One rank of `under_torchrun`."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    result = measure(way)
    if dist.get_rank() == 0:
        Path(file).write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlations (Spearman) with float32, of the tokens and of all residual points, in place of the scores."""
    base = next(row for row in rows if row["way"] == "float32")
    return [
        {
            **{name: value for name, value in row.items() if name not in ("tokens", "layers")},
            "rank_tokens": _spearman(row["tokens"], base["tokens"]),
            "rank_layers": _spearman(row["layers"], base["layers"]),
        }
        for row in rows
    ]


def _spearman(ours: list[Any], theirs: list[Any]) -> float:
    import torch

    ranks = [torch.tensor(x).flatten().argsort().argsort().double() for x in (ours, theirs)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def write_page(rows: list[dict[str, Any]]) -> None:
    """The table between the page's two marks."""
    table = "| loaded as | Δℓ | rank correlation: tokens, all points | ledger | graph | peak memory |\n"
    table += "|---|---|---|---|---|---|\n"
    for row in rows:
        ranks = f"{row['rank_tokens']:.3f}, {row['rank_layers']:.3f}"
        cells = (WAYS[row["way"]], f"{row['value']:.2f}", ranks, f"{row['ledger']:.0e}", row["graph"])
        table += f"| {' | '.join(cells)} | {row['peak_mb']:,} MB |\n"
    start, end = MARKS
    head, _, rest = PAGE.read_text().partition(start)
    PAGE.write_text(head + start + table + end + rest.partition(end)[2])


def main(ways: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for way in dict.fromkeys(("float32", *(ways or WAYS))):
        rows.append(under_torchrun(way) if way == "tensor-parallel" else in_process(way))
        print({name: value for name, value in rows[-1].items() if name not in ("tokens", "layers")}, flush=True)
        write_result("loading", compared(rows), prompt=PROMPT, target=[TARGET, CONTRAST])
    write_page(json.loads((RESULTS / "loading.json").read_text())["rows"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank-of"]:
        as_rank(sys.argv[2], sys.argv[3])
    else:
        main(sys.argv[1:])
