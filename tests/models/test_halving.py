"""Lack of memory is answered by less at once; anything else is passed on."""

from __future__ import annotations

import pytest
import torch

from assistant.models.halving import halved, out_of_memory


def within(room: int, tried: list[int]) -> object:
    def run(first: int, last: int) -> list[int]:
        tried.append(last - first)
        if last - first > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(range(first, last))

    return run


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("room", [1, 2, 3, 8])
def test_all_is_done_in_order(count: int, room: int) -> None:
    parts = halved(count, within(room, []))  # type: ignore[arg-type,var-annotated]
    assert [one for part in parts for one in part] == list(range(count))


def test_one_alone_is_tried_twice() -> None:
    tried: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        halved(2, within(0, tried))  # type: ignore[arg-type]
    assert tried == [2, 1, 1]


def test_other_errors_and_what_must_be_done_once_are_passed_on() -> None:
    tried: list[int] = []

    def broken(first: int, last: int) -> None:
        tried.append(last - first)
        raise RuntimeError("a tensor of another shape")

    with pytest.raises(RuntimeError, match="another shape"):
        halved(4, broken)
    with pytest.raises(torch.OutOfMemoryError):
        halved(4, within(1, tried), once=lambda: True)  # type: ignore[arg-type]
    assert tried == [4, 4]


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (torch.cuda.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_lack_of_memory_looks_like(error: Exception, lack: bool) -> None:
    assert out_of_memory(error) is lack
