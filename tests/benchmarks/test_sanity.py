"""Sanity checks notice a map that ignores the weights and one that depends on how the function is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from families import build, exact_float64, inputs
from torch import Tensor

from benchmarks.methods import METHODS, Attribute, Method
from benchmarks.prompts import Prompt
from benchmarks.sanity import CHANGES, CHECKED, INVARIANCE, check, compare, faults

SAME = [name for name, (matters, _) in CHANGES.items() if not matters]
OTHER = [name for name, (matters, _) in CHANGES.items() if matters]


@pytest.fixture
def model() -> Iterator[Any]:
    with exact_float64():
        yield build("llama").requires_grad_(False)


def prompt() -> Prompt:
    ids = tuple(inputs("llama")[0].tolist())
    return Prompt("test:1", ids, 5, 7, 1.0, tuple(range(1, len(ids) - 1)))


@pytest.mark.parametrize("name", SAME)
def test_reparametrisations_leave_the_function(name: str, model: Any) -> None:
    other, ids = copy.deepcopy(model), inputs("llama")
    CHANGES[name][1](other)
    torch.testing.assert_close(other(ids).logits, model(ids).logits, rtol=1e-10, atol=1e-10)
    weights = zip(model.parameters(), other.parameters(), strict=True)
    assert name == "eager attention" or any(not torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("name", OTHER)
def test_randomised_weights_are_the_same_numbers_in_other_places(name: str, model: Any) -> None:
    other, ids = copy.deepcopy(model), inputs("llama")
    CHANGES[name][1](other)
    assert not torch.allclose(other(ids).logits, model(ids).logits, atol=1e-2)
    before, after = (m.model.layers[-1].mlp.up_proj.weight.flatten() for m in (model, other))
    assert torch.equal(before.sort().values, after.sort().values)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, other.model.layers[0].mlp.up_proj.weight) == (
        name == "last block randomised"
    )


@pytest.mark.parametrize("method", [m for m in METHODS if m.name in CHECKED], ids=lambda method: method.name)
def test_maps_do_not_depend_on_how_the_function_is_computed(method: Method, model: Any) -> None:
    rows = check(model, method, [prompt()])
    assert [row["done"] for row in rows] == list(CHANGES)
    assert all(row["change"] < 1e-6 for row in rows if not row["function_changes"])  # float32 scores of a float64 run
    assert faults(rows) == []


def test_a_map_that_ignores_the_weights_is_a_fault(model: Any) -> None:
    @contextmanager
    def blind(model: Any) -> Iterator[Attribute]:
        yield lambda ids, target, contrast: ids[0].float()

    found = faults(check(model, Method("blind", blind, ""), [prompt()]))
    assert len(found) == len(OTHER)
    assert all("the map stays" in each for each in found)


def test_a_map_that_reads_the_parametrisation_is_a_fault(model: Any) -> None:
    @contextmanager
    def nosy(model: Any) -> Iterator[Attribute]:
        scale = model.model.layers[0].mlp.up_proj.weight.abs().sum() + model.model.layers[0].mlp.up_proj.weight[0, 0]

        def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
            return ids[0] * scale

        yield attribute

    found = faults(check(model, Method("nosy", nosy, ""), [prompt()]))
    assert any("scales moved" in each for each in found)


def test_maps_are_compared_by_hand() -> None:
    result = compare([torch.tensor([4.0, 1.0, 2.0])], [torch.tensor([3.0, 1.0, 2.0])])
    assert result == {"spearman": pytest.approx(1.0), "change": pytest.approx(0.25)}
    assert INVARIANCE < 0.25
