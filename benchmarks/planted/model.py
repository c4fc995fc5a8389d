"""The small Qwen3 models of the planted tasks, and their weights on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.planted.alphabet import SIZE
from benchmarks.planted.prompt import Task

WEIGHTS = Path(__file__).parent / "weights"
WIDTH, HEADS, INNER, LONGEST = 64, 4, 128, 128


def fresh_model(task: Task, seed: int = 0) -> Any:
    """An untrained model in float32: transformers' Qwen3, 64 wide, without dropout.

    Where the first block sees no more than a token and the one before it, what binds a key to the value behind it needs
    no search, and recall is learned in hundreds of steps instead of ten thousand.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=SIZE,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=len(task.blocks),
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        layer_types=[{"near": "sliding_attention", "far": "full_attention"}[block] for block in task.blocks],
        use_sliding_window=True,
        sliding_window=2,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
        initializer_range=0.08,
    )
    return Qwen3ForCausalLM(config)


def weight_file(task: Task, folder: Path = WEIGHTS) -> Path:
    return folder / f"{task.name}.safetensors"


def save_model(model: Any, task: Task, folder: Path = WEIGHTS) -> None:
    """Weights in float16, which halves the file; `load_model` computes in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(halves, weight_file(task, folder))


def load_model(task: Task, folder: Path = WEIGHTS) -> Any:
    """The trained model in eval mode, float32.

    Raises:
        FileNotFoundError: not trained yet; says how.
    """
    path = weight_file(task, folder)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. do: python -m benchmarks.planted.train {task.name}")
    model = fresh_model(task)
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    model.requires_grad_(False)
    return model.eval()
