"""The memory of the accelerator that this process computes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

FULL = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""In messages of errors that are no torch.OutOfMemoryError: something beside torch's allocator wanted memory."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that tensors of this process take now, took at most since it started, and may take."""

    allocated: int
    peak: int
    limit: int


def read_memory(device: torch.device) -> Memory | None:
    """None on a CPU. Does not wait for the device: torch keeps these numbers itself."""
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return Memory(
        allocated=torch.cuda.memory_allocated(device),
        peak=torch.cuda.max_memory_allocated(device),
        limit=int(total * torch.cuda.get_per_process_memory_fraction(device)),
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch says that the accelerator has too little memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)
