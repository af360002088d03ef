"""Packed linear layers against plain ones."""

import copy

import pytest
import torch
from torch import nn

from assistant.models import packing
from assistant.models.packing import BLOCK, Int8Linear, PackedLinear, pack

SIZES = [(48, 32, True), (1024, 128, False), (BLOCK + 5, 16, True)]  # outputs, inputs, bias


def linear_of(outputs: int, inputs: int, bias: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(inputs, outputs, bias=bias, dtype=dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(1,), (5,), (6,), (2, 9), (3, 1)])
def test_a_packed_layer_gives_what_the_plain_one_does(
    size: tuple[int, int, bool], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if not packing.can_pack(dtype):
        pytest.skip(f"oneDNN has no {dtype} here")
    linear = linear_of(*size, dtype)
    hidden = torch.randn(*shape, size[1]).to(dtype)
    wanted, weight = linear(hidden), linear.weight.clone()
    packed = PackedLinear(copy.deepcopy(linear))
    torch.testing.assert_close(packed(hidden), wanted, atol=2e-6 if dtype is torch.float32 else 2e-2, rtol=2e-2)
    assert torch.equal(packed.weight, weight)


@pytest.mark.parametrize("size", SIZES)
def test_int8_is_close_and_no_row_depends_on_another(size: tuple[int, int, bool]) -> None:
    if not packing._can_round():
        pytest.skip("oneDNN has no int8 here")
    linear = linear_of(*size)
    hidden = torch.randn(7, size[1])
    hidden[3] *= 1e3  # would take the others' bits, were the scale one for all
    hidden[4] = 0
    wanted = linear(hidden)
    rounded = Int8Linear(copy.deepcopy(linear))
    found = rounded(hidden)
    assert ((found - wanted).norm(dim=-1) <= 0.02 * wanted.norm(dim=-1) + 1e-6).all()
    torch.testing.assert_close(rounded(hidden[:3]), found[:3], atol=1e-6, rtol=1e-6)
    assert (rounded.weight - linear.weight).norm() < 0.02 * linear.weight.norm()


class Tied(nn.Module):
    """An embedding whose table is also the LM head, and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head, self.ears = nn.Embedding(4096, 16), nn.Linear(16, 4096, bias=False), nn.Linear(16, 16)
        self.head.weight = self.table.weight


def test_tied_weights_stay_and_what_is_to_stay_whole_does() -> None:
    model = Tied()
    table = model.table.weight.detach().clone()
    assert pack(model, "int8", whole=("ears",)) == 1
    assert isinstance(model.ears, PackedLinear)
    assert type(model.head) is nn.Linear
    assert torch.equal(model.table.weight, table)


def test_plain_changes_nothing_and_a_packed_layer_is_neither_moved_nor_cast() -> None:
    model = Tied()
    assert pack(model, "plain") == 0
    assert model.ears.weight.requires_grad
    weight = model.ears.weight.detach().clone()
    pack(model)
    assert torch.equal(model.state_dict()["ears.weight"], weight)
    model.float()
    with pytest.raises(RuntimeError, match="packed for the CPU in"):
        model.bfloat16()
