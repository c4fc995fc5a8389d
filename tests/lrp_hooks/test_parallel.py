"""Tensor parallel models under torchrun: the same relevance on every rank as on one device."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loaded import save
from torch import nn

from lrp_hooks.patching.tensor_parallel import check_whole, is_collective, is_distributed, is_sharded, local, ranks_of

TESTS = Path(__file__).parents[1]
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from pathlib import Path
from transformers.distributed import DistributedConfig
from lrp_hooks import instrument
from lrp_hooks.errors import UnsupportedModelError
from loaded import IDS, TARGET, difference, explain, load

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, folder = dist.get_rank(), Path(sys.argv[1])
model = load(folder, dtype=torch.float32, distributed_config=DistributedConfig(tp_plan="auto"))
sharded = model.model.layers[0].self_attn.q_proj.weight
expected = explain(load(folder, dtype=torch.float32))
report = {"shards": [list(sharded.shape), list(sharded.to_local().shape)]}
with instrument(model) as lrp:
    trace = lrp.trace(input_ids=IDS)
    relevance = trace.attribute(TARGET)
    for name, ask in (("heads", lambda: trace.attribute(TARGET, heads=True)), ("edges", lambda: trace.graph(TARGET))):
        try:
            ask()
        except UnsupportedModelError as error:
            report[name] = str(error)
report["difference"] = difference(relevance, expected)
report["ledger"] = float(relevance.ledger().max())
report["absorbed"] = float((relevance.absorbed.attention - expected.absorbed.attention).abs().max())
report["cp-lrp"] = difference(
    explain(model, composite="cp-lrp"), explain(load(folder, dtype=torch.float32), composite="cp-lrp")
)
Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(report))
dist.barrier()
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_ranks_explain_as_one_does(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent)))}
    done = subprocess.run(
        [*launch, str(script), str(folder), str(tmp_path)], capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        report = json.loads((tmp_path / f"{rank}.json").read_text())
        assert report["shards"] == [[32, 32], [16, 32]], "each rank has half of the heads"
        assert report["difference"] < 1e-5
        assert report["cp-lrp"] < 1e-5
        assert report["ledger"] < 1e-5
        assert report["absorbed"] < 1e-4
        assert "each rank holds a part of the heads" in report["heads"]
        assert "each rank holds a part of the edges" in report["edges"]


def test_a_function_that_only_bears_a_collectives_name_is_none() -> None:
    from torch.distributed.tensor._api import _ToTorchTensor

    assert is_collective(_ToTorchTensor)
    impostor = type("_ToTorchTensor", (torch.autograd.Function,), {"__module__": "torch.distributed.tensor._api"})
    assert not is_collective(impostor)
    assert not is_collective(nn.Linear)


def test_whole_models_have_no_ranks() -> None:
    x = torch.ones(2)
    assert ranks_of(nn.Linear(2, 2)) is None
    assert not is_distributed(x)
    assert not is_sharded(x)
    assert local(x) is x
    check_whole(frozenset({"heads", "edges"}), None)
