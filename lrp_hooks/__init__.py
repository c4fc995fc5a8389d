"""Contrastive attribution for Hugging Face language models by layer-wise relevance propagation.

Importing this package changes nothing in the process and loads neither torch nor transformers; names are resolved on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Instrumentation": "instrumentation.instrument",
    "instrument": "instrumentation.instrument",
    "Composite": "composites",
    "Rule": "composites",
    "Role": "sites",
    "Site": "sites",
    "Relevance": "relevance",
    "Absorbed": "relevance",
    "AnswerSpan": "targets",
    "Custom": "targets",
    "DemeanedLogit": "targets",
    "Logit": "targets",
    "LogitDiff": "targets",
    "LogProb": "targets",
    "MaxLogit": "targets",
    "Rank": "targets",
    "SequenceLogProb": "targets",
    "SequenceLogProbDiff": "targets",
    "Target": "targets",
    "TopKMeanLogit": "targets",
    "Certificate": "certificate",
    "Verdict": "certificate",
    "Trace": "trace",
    "AttributionGraph": "graph.model",
    "LrpError": "errors",
    "UnclaimedModuleError": "errors",
}

if TYPE_CHECKING:
    from lrp_hooks.certificate import Certificate as Certificate
    from lrp_hooks.certificate import Verdict as Verdict
    from lrp_hooks.composites import Composite as Composite
    from lrp_hooks.composites import Rule as Rule
    from lrp_hooks.errors import LrpError as LrpError
    from lrp_hooks.errors import UnclaimedModuleError as UnclaimedModuleError
    from lrp_hooks.graph.model import AttributionGraph as AttributionGraph
    from lrp_hooks.instrumentation.instrument import Instrumentation as Instrumentation
    from lrp_hooks.instrumentation.instrument import instrument as instrument
    from lrp_hooks.relevance import Absorbed as Absorbed
    from lrp_hooks.relevance import Relevance as Relevance
    from lrp_hooks.sites import Role as Role
    from lrp_hooks.sites import Site as Site
    from lrp_hooks.targets import AnswerSpan as AnswerSpan
    from lrp_hooks.targets import Custom as Custom
    from lrp_hooks.targets import DemeanedLogit as DemeanedLogit
    from lrp_hooks.targets import Logit as Logit
    from lrp_hooks.targets import LogitDiff as LogitDiff
    from lrp_hooks.targets import LogProb as LogProb
    from lrp_hooks.targets import MaxLogit as MaxLogit
    from lrp_hooks.targets import Rank as Rank
    from lrp_hooks.targets import SequenceLogProb as SequenceLogProb
    from lrp_hooks.targets import SequenceLogProbDiff as SequenceLogProbDiff
    from lrp_hooks.targets import Target as Target
    from lrp_hooks.targets import TopKMeanLogit as TopKMeanLogit
    from lrp_hooks.trace import Trace as Trace


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lrp_hooks' has no attribute {name!r}")
    return getattr(import_module(f"lrp_hooks.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
