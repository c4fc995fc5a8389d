"""The peers: which versions, which worker, and which of their methods is one of this project's."""

from __future__ import annotations

from benchmarks.peers.environment import Peer, PeerMethod

OLDER_TRANSFORMERS = ("transformers==4.52.4", "tokenizers==0.21.4", "huggingface_hub==0.36.0")
"""The last line that LXT's patches fit: transformers 5 has other attention functions."""
ORDER = "the same rules; float32 sums in another order"
BY_MAGNITUDE = (
    "its preset sets rules for attention only: relevance of sums is split by the terms' size, not by their sign, that "
    "of gated products by size, not in halves, and two norms are not recognised; the next row shows that this is all"
)
SIGNED = "its own configuration with signed sums, halved products and constant norms: then the same rules"

PEERS = (
    Peer(
        "lxt",
        ("lxt==2.1", *OLDER_TRANSFORMERS),
        "lxt_worker.py",
        (PeerMethod("attnlrp", "attnlrp", 1e-4, ORDER), PeerMethod("cp-lrp", "cp-lrp", 1e-4, ORDER)),
    ),
    Peer(
        "autolrp",
        ("autolrp==0.2.0",),
        "autolrp_worker.py",
        (
            PeerMethod("attnlrp", "attnlrp", None, BY_MAGNITUDE),
            PeerMethod("attnlrp, signed", "attnlrp", 1e-4, SIGNED),
        ),
    ),
    Peer(
        "inseq",
        ("inseq==0.7.1", "jaxtyping==0.2.36", "typeguard==2.13.3", "treescope==0.1.10"),
        "inseq_worker.py",
        (PeerMethod("input_x_gradient", "gradient rules", 1e-4, ORDER),),
    ),
    Peer(
        "captum",
        ("captum==0.9.0",),
        "captum_worker.py",
        (
            PeerMethod("input_x_gradient", "gradient rules", 1e-4, ORDER),
            PeerMethod(
                "integrated_gradients",
                "integrated gradient rules",
                1e-3,
                "the same 32 points; near zero the norms' slopes are steep",
            ),
        ),
    ),
    Peer(
        "circuit-tracer",
        ("circuit-tracer==0.5.0",),
        "",
        (),
        missing="it explains a model whose MLPs are replaced by trained transcoders; none are published for this one",
    ),
)
