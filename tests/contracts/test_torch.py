"""Uses of torch beyond its documented interface (docs/internals.md)."""

from __future__ import annotations

import inspect
import io
import pickle
import warnings

import pytest
import torch
from torch import nn, optim
from torch._ops import OpOverload

from gbc.kkt.homogeneity.rules import METHODS, OPERATORS


@pytest.mark.parametrize("name", ["step", "add_param_group", "zero_grad", "state_dict", "load_state_dict"])
def test_methods_of_optimisers_are_wrapped_and_can_be_unwrapped(name: str) -> None:
    """`tests/gbc/test_optimisers.py` compares the numbers, and sees that no compiler is imported."""
    for optimiser in (optim.Adam, optim.SGD):
        method = getattr(optimiser, name)
        assert inspect.unwrap(method) is not method


def test_operators_of_an_exported_program_have_a_schema_and_know_their_layer() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (torch.ones(2, 2),))
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    assert all(isinstance(node.target, OpOverload) for node in nodes)
    assert [node.target._schema.name for node in nodes] == ["aten::linear", "aten::relu"]
    assert [argument.name for argument in nodes[0].target._schema.arguments] == ["input", "weight", "bias"]
    assert [list(node.meta["nn_module_stack"].values())[-1][0] for node in nodes] == ["0", "1"]


def test_operators_with_a_rule_exist() -> None:
    absent = {name for name in OPERATORS.keys() - METHODS.keys() if not hasattr(torch.ops.aten, name)}
    assert absent == set()


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_convolution_takes_other_weights_and_pads_as_it_does(mode: str) -> None:
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode=mode)
    images = torch.randn(4, 2, 6, 6)
    assert torch.equal(layer._conv_forward(images, layer.weight, layer.bias), layer(images))
    assert layer._conv_forward(images, torch.ones(5, 2, 3, 3), None).shape == (4, 5, 3, 3)


def test_the_older_spectral_norm_leaves_a_hook() -> None:
    layer = nn.utils.spectral_norm(nn.Linear(2, 2))
    nn.utils.remove_spectral_norm(layer)
    assert len(layer._load_state_dict_pre_hooks) == 1


def test_a_file_that_would_run_code_is_refused_in_these_words() -> None:
    content = io.BytesIO()
    torch.save(nn.Linear(1, 1), content)
    script = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(1, 1)), script)
    for file, name in ((content, "GLOBAL"), (script, "TorchScript")):
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises((pickle.UnpicklingError, RuntimeError), match=name):
                torch.load(file, weights_only=True)
