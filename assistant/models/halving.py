"""Work that memory does not suffice for, done in halves."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SIGNS = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the GPU or the machine, did not suffice. Torch itself need not be loaded to ask."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"OutOfMemoryError", "MemoryError"}) or any(sign in str(error) for sign in SIGNS)


def free_memory() -> None:
    """Give back what nobody holds any more. Call it when the exception, whose frames hold tensors, is gone."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def halved(count: int, run: Callable[[int, int], T], *, once: Callable[[], bool] = lambda: False) -> list[T]:
    """The results, in order, of `run(first, last)` over all of `count` things, or over halves, quarters … of them.

    A single thing is tried twice, with memory freed in between. Raises what `run` raises when it is no lack of memory,
    when that does not help either, or when it must be done `once`: a part of its result is out.
    """
    results: list[T] = []
    left = [(0, count)]
    freed = False  # since the last success
    while left:
        first, last = left.pop()
        try:
            results.append(run(first, last))
        except Exception as error:
            if not out_of_memory(error) or once() or (last - first <= 1 and freed):
                raise
        else:
            freed = False
            continue
        free_memory()
        freed = last - first <= 1
        middle = (first + last) // 2
        left += [(first, last)] if last - first <= 1 else [(middle, last), (first, middle)]
    return results
