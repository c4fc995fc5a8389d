"""Arguments and options that several commands take, with one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(help="Folder, hub name, .gguf file, or 'demo' (SmolLM2-135M-Instruct).")]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; '-' reads standard input.")]
PromptFile = Annotated[Path | None, typer.Option(help="File with the prompt.")]
Messages = Annotated[
    str | None, typer.Option(help="Chat messages: JSON list of {role, content}, a file with one, or '-'.")
]
Completion = Annotated[str, typer.Option(help="What the model has said so far; appended to the prompt.")]
Ids = Annotated[str | None, typer.Option(help="Token ids, separated by commas, instead of text.")]
TargetToken = Annotated[
    str | None,
    typer.Option("--target", "-t", help="Token or class by text, '#id' or 'rank:N'. Default: the first choice."),
]
Contrasts = Annotated[
    list[str] | None,
    typer.Option("--contrast", "-c", help="Token or class preferred against; repeat for several. Default: rank:2."),
]
Kind = Annotated[
    str, typer.Option("--of", help="logit-diff, logit, max-logit, demeaned-logit, topk-mean-logit or log-prob.")
]
Position = Annotated[int, typer.Option(help="Whose next token is explained; negative from the end.")]
Continuation = Annotated[
    str | None, typer.Option(help="Explain the log-probability of this text after the prompt, instead of one token.")
]
Against = Annotated[str | None, typer.Option(help="With --continuation: the text preferred against.")]
PositionByHead = Annotated[
    int | None,
    typer.Option(
        help="Whose next token is explained; negative from the end. Default: -1; of masked language models the mask. "
        "Classifiers of tokens need it: the token that is classified.",
        show_default=False,
    ),
]
HeadName = Annotated[
    str,
    typer.Option(
        help="What the model is: causal-lm, masked-lm, sequence-classification, token-classification, or auto: what "
        "its config says."
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda:0, or auto to spread with accelerate.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the checkpoint.")]
Attention = Annotated[str | None, typer.Option(help="eager, sdpa, flex_attention, flash_attention_2.")]
CompositeName = Annotated[str, typer.Option(help="attnlrp, cp-lrp or gradient.")]
Unknown = Annotated[str, typer.Option(help="Non-linear parts without a rule: error, or gradient to let them through.")]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run model code from the repository.")]
Checkpoint = Annotated[str, typer.Option(help="Recompute blocks in the backward pass: auto, on or off.")]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="What activations may take besides the model, e.g. 6GB: decides about recomputing and moving them to disk."
    ),
]
Out = Annotated[
    list[Path] | None,
    typer.Option("--out", "-o", help="File to write; suffix .html .svg .png .pdf .txt .json. May be repeated."),
]
Palette = Annotated[str, typer.Option(help="red-blue or orange-purple.")]
AllowExec = Annotated[bool, typer.Option("--allow-exec", help="Run the programs that the model writes, shut in.")]
AllowNetwork = Annotated[
    bool, typer.Option("--allow-network", help="Run them even where the kernel cannot cut off network and files.")
]
