"""Weights in the layout that a CPU multiplies fastest, as they are or rounded to int8.

PyTorch's product of one row with a plain weight reads memory at a third of what it can deliver, and eight rows cost
eight times one. oneDNN's products of weights in its own blocked layout read at about the speed of a plain read, and
eight rows cost little more than one. For inference only: nothing here has a gradient.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections import Counter
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

log = logging.getLogger(__name__)

Weights = Literal["plain", "packed", "int8"]  # as PyTorch has them; packed as they are; rounded and packed
Taken = TypeVar("Taken")

BLOCK = 16_384  # rows of a weight that are packed at a time: bounds what packing needs beside the weights
FEW = 6  # rows below which a floating-point product is slower than that of so many (measured on AVX-512)
ZERO = 128  # what 0 is rounded to: oneDNN is a hundred times slower with signed inputs
MADV_DONTNEED = 4  # linux/mman.h


class PackedLinear(nn.Module):
    """An `nn.Linear` in its own dtype, packed. Its sums differ from the plain one's in their order only."""

    def __init__(self, linear: nn.Linear) -> None:
        """Takes the weight over: `linear` must not be used any more."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        bias = None if linear.bias is None else linear.bias.detach()
        self.register_buffer("bias", bias)
        self._biases = [None] * len(_cuts(linear)) if bias is None else [bias[cut] for cut in _cuts(linear)]
        self._blocks: list[Tensor] = _consume(linear, _packed)

    @property
    def weight(self) -> Tensor:
        """The weight (out_features, in_features), unpacked: a copy."""
        return torch.cat([block.to_dense() for block in self._blocks])

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        rows = hidden.reshape(-1, self.in_features)
        count = len(rows)
        if count < FEW:
            rows = functional.pad(rows, (0, 0, 0, FEW - count))
        output = _joined(
            [
                torch.ops.mkldnn._linear_pointwise(rows, block, bias, "none", [], "")
                for block, bias in zip(self._blocks, self._biases, strict=True)
            ]
        )
        return output[:count].view(*hidden.shape[:-1], self.out_features)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        _stay(function, self.dtype)
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]  # torch's own
        return self


class Int8Linear(nn.Module):
    """An `nn.Linear` with weights in int8, one scale an output; its inputs are rounded to int8 row by row.

    As in Yao et al., "ZeroQuant" (2022): symmetric, per channel and per token, sums in int32. No row depends on others.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Takes the weight over: `linear` must not be used any more."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self._blocks: list[tuple[Tensor, Tensor, Tensor]] = _consume(linear, _rounded)

    @property
    def weight(self) -> Tensor:
        """The weight (out_features, in_features) as it is multiplied: a copy."""
        eye = torch.eye(self.in_features, dtype=self.dtype)
        products: Tensor = self(eye) if self.bias is None else self(eye) - self.bias
        return products.t().contiguous()

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        rows = hidden.reshape(-1, self.in_features)
        scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-30) / 127
        whole = (rows / scale).float().round_().add_(ZERO).to(torch.uint8)
        output = _joined(
            [
                torch.ops.onednn.qlinear_pointwise(
                    whole, 1.0, ZERO, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
                )
                for weight, scales, zeros in self._blocks
            ]
        )
        output = output.mul_(scale).to(hidden.dtype)
        if self.bias is not None:
            output = output + self.bias
        return output.view(*hidden.shape[:-1], self.out_features)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        _stay(function, self.dtype)
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]  # torch's own
        return self


def pack(model: nn.Module, weights: Weights = "packed", whole: Collection[str] = ()) -> int:
    """Pack every `nn.Linear` of a model on the CPU, in place; the number of those that were.

    With "int8" weights are rounded, except in modules whose dotted names have a part in `whole`. What oneDNN does not
    do on this machine is left as it is. The model can be neither trained, moved nor cast afterwards.
    """
    if weights == "plain":
        return 0
    packed = 0
    model.requires_grad_(False)
    holders = Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values())
    for name, module in list(model.named_modules()):
        for child, linear in list(module.named_children()):
            if type(linear) is not nn.Linear or linear.weight.device.type != "cpu":
                continue
            if holders[id(linear.weight)] > 1:  # tied to the embeddings, which are looked up row by row
                continue
            rounded = weights == "int8" and not set(whole) & {*name.split("."), child}
            if rounded and _can_round():
                setattr(module, child, Int8Linear(linear))
            elif not can_pack(linear.weight.dtype):
                continue
            else:
                setattr(module, child, PackedLinear(linear))
            packed += 1
    return packed


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN takes this dtype here, and gets the same."""
    if dtype not in {torch.float32, torch.bfloat16} or not torch.backends.mkldnn.is_available():
        return False
    try:
        if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        linear, rows = nn.Linear(32, 48, dtype=dtype), torch.ones(2, 32, dtype=dtype)
        with torch.no_grad():
            return torch.allclose(linear(rows), PackedLinear(linear)(rows), atol=0.02)
    except (AttributeError, RuntimeError) as error:
        log.info("weights in %s stay as they are: %s", dtype, error)
        return False


@cache
def _can_round() -> bool:
    """Whether oneDNN multiplies int8 here."""
    try:
        linear, rows = nn.Linear(32, 48), torch.ones(2, 32)
        with torch.no_grad():
            return torch.allclose(linear(rows), Int8Linear(linear)(rows), atol=0.05)
    except (AttributeError, RuntimeError) as error:
        log.warning("weights cannot be rounded to int8 on this machine: %s", error)
        return False


def _cuts(linear: nn.Linear) -> list[slice]:
    """The blocks of rows in which a weight is packed."""
    return [slice(start, start + BLOCK) for start in range(0, linear.out_features, BLOCK)]


def _consume(linear: nn.Linear, take: Callable[[Tensor], Taken]) -> list[Taken]:
    """What `take` makes of each block of rows, whose memory is given back before the next."""
    weight = linear.weight.detach()
    taken = []
    for cut in _cuts(linear):
        taken.append(take(weight[cut]))
        _release(weight[cut])
    del linear.weight
    return taken


def _packed(rows: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(rows.contiguous(), 8)
    return packed


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed int8 weight, scale and zero point (0) of each output."""
    scales = rows.abs().amax(-1).float().clamp(min=1e-30) / 127
    whole = (rows / scales[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(whole, None)
    return packed, scales, torch.zeros(len(rows), dtype=torch.int32)


def _joined(outputs: list[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


def _release(rows: Tensor) -> None:
    """Give the memory pages of a weight that is done with back to the system, where that can be said (Linux)."""
    if not sys.platform.startswith("linux") or not rows.is_contiguous():
        return
    page = 4096
    first = -(-rows.data_ptr() // page) * page
    last = (rows.data_ptr() + rows.nbytes) // page * page
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_DONTNEED)


def _stay(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Raise `RuntimeError` when the function would move or cast a packed weight."""
    probe = function(torch.empty(0, dtype=dtype))
    if probe.device.type != "cpu" or probe.dtype != dtype:
        raise RuntimeError(f"weights were packed for the CPU in {dtype}; remedy: load the model again")
