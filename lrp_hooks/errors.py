"""The exception tree: every error says what, where, what was tried and what to do."""

from __future__ import annotations


class LrpError(Exception):
    """Base class of everything this package raises on purpose."""


class InstrumentError(LrpError):
    """The model cannot be instrumented, or is not in a state that allows what was asked."""


class UnclaimedModuleError(InstrumentError):
    """A part of the model is non-linear and no rule claims it.

    Attributes:
        path: dotted module path (``model.layers.0.mlp``).
        class_name: class of the module.
        tried: the structural patterns that were tried, each with the reason why it did not fit.
    """

    def __init__(self, path: str, class_name: str, tried: list[str], what: str = "is non-linear and no rule claims it"):
        self.path = path
        self.class_name = class_name
        self.tried = tried
        super().__init__(
            f"{path or '<root>'} ({class_name}) {what}. tried: {'; '.join(tried) or 'nothing'}. "
            'do: unknown="gradient" lets its ordinary gradient through and the report says so, '
            "or describe it with a user composite (see CONTRIBUTING.md, 'add a family')."
        )


class UnsupportedModelError(InstrumentError):
    """The object is not a transformers model of a kind that is understood."""


class UnsupportedVersionError(InstrumentError):
    """The installed transformers is outside the range that this package was tested with."""


class AlreadyInstrumentedError(InstrumentError):
    """The model, or a part of it, carries an instrumentation already."""


class RemovedError(InstrumentError):
    """The instrumentation was removed; its traces and records are gone with it."""


class InstrumentedCopyError(InstrumentError):
    """An instrumented module was copied or pickled, which would share patches between two models."""


class NonFiniteError(LrpError):
    """Weights, logits or relevance contain NaN or infinity."""


class InputError(LrpError):
    """The prompt or the batch cannot be used: empty, inconsistent shapes, not token ids."""


class ContextLengthError(InputError):
    """The sequence is longer than the model's maximum."""


class CacheError(InputError):
    """A filled key/value cache was passed to a forward that records gradients."""


class GradientError(LrpError):
    """No gradient can flow: inference mode, ``no_grad``, or no backward pass was run."""


class TargetError(LrpError):
    """The target cannot be explained: unknown name, same target and contrast, position out of range."""


class TokenError(TargetError):
    """A token given by text, id or rank does not name exactly one vocabulary entry."""


class GraphError(LrpError):
    """The attribution graph cannot be made as asked, or there is nothing left of it."""


class NoClosedFormError(GraphError):
    """A block's edges have no closed form: it mixes tokens in other ways than one softmax attention call."""


class BackendError(LrpError):
    """The operators cannot run as was explicitly asked for, or there is no such backend."""


class ModelLoadError(LrpError):
    """A model, tokenizer or file could not be loaded; the message lists what was tried."""


class CaseError(LrpError):
    """A case, a prompt of a benchmark or an instruction cannot be used; says which field, and of which line."""


class ExecutionError(LrpError):
    """Programs that a model has written may not be run, or cannot be run shut in."""


class MissingExtraError(LrpError):
    """An optional library is needed; names the extra that brings it."""


def first_line(error: Exception) -> str:
    """What another library's exception says, in one line of at most 200 characters; its type when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
