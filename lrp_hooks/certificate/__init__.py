"""The certificate: probes, ledger, entries against a reference that shares no rule with the product, and the verdict.

- `nodes`: LRP's rules for autograd nodes; `reference`: relevance of an untouched model by them, node by node;
- `entries`: the comparison; `leak`: the module at which a ledger breaks; `certificate`: the verdict.
"""

from lrp_hooks.certificate.certificate import Certificate, Verdict, certify, refusal
from lrp_hooks.certificate.entries import EntryCheck

__all__ = ["Certificate", "EntryCheck", "Verdict", "certify", "refusal"]
