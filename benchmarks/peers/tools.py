"""The peers: which versions, which worker, and which of their methods is one of this project's."""

from __future__ import annotations

from benchmarks.peers.environment import Peer

OLDER_TRANSFORMERS = ("transformers==4.52.4", "tokenizers==0.21.4", "huggingface_hub==0.36.0")
"""The last line that LXT's patches fit: transformers 5 has other attention functions."""

PEERS = (
    Peer(
        "lxt",
        ("lxt==2.1", *OLDER_TRANSFORMERS),
        "lxt_worker.py",
        {"attnlrp": "attnlrp", "cp-lrp": "cp-lrp"},
        tolerance=1e-4,
        why="float32 sums in another order, over thirty blocks",
    ),
    Peer(
        "autolrp",
        ("autolrp==0.2.0",),
        "autolrp_worker.py",
        {"attnlrp": "attnlrp"},
        tolerance=None,
        why="its rules are per operation and its own; agreement is reported, not demanded",
    ),
    Peer(
        "inseq",
        ("inseq==0.7.1", "jaxtyping==0.2.36", "typeguard==2.13.3", "treescope==0.1.10"),
        "inseq_worker.py",
        {"input_x_gradient": "gradient x input"},
        tolerance=1e-4,
        why="float32 sums in another order",
    ),
)
