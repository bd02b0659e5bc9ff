"""Errors of memory and of devices are told from others, by the words of those who raise them."""

import numpy as np
import pytest
import torch

from auheat.errors import RequestError
from auheat.utils.failures import describe_failure, is_out_of_memory

CARD = (  # as torch 2.13 words it
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of "
    "which 1.02 GiB is free. Including non-PyTorch memory, this process has 6.70 GiB in use."
)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError(CARD),
        RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in docs"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_one_line_with_advice(error):
    assert is_out_of_memory(error)
    text = describe_failure(error)
    assert text.startswith("memory is not enough: ")
    assert "--batch-size" in text
    assert "\n" not in text
    assert "total capacity" not in text


def test_the_machines_own_memory_counts_too():
    for allocate in (lambda: np.empty(10**15), lambda: torch.empty(10**15)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later",
        "CUDA error: no kernel image is available for execution on the device",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "No CUDA GPUs are available",
        "Found no NVIDIA driver on your system. Please check that you have one",
    ],
)
def test_a_device_that_failed_is_one_line_that_says_how_to_go_on(text):
    line = describe_failure(RuntimeError(text))
    assert line.startswith(f"the device failed: {text.splitlines()[0]} (what is finished is kept")
    assert "\n" not in line


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RequestError("--device: out of memory is no device"),
        KeyError("CUDA error"),
    ],
)
def test_other_errors_keep_their_traceback(error):
    assert describe_failure(error) == ""
    assert not is_out_of_memory(error)
