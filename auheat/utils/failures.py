"""What a library's error says of memory that ran out, or of a device that failed; without torch."""

from __future__ import annotations

import re

_MEMORY = re.compile(
    r"out of memory|STATUS_ALLOC_FAILED|DefaultCPUAllocator|Insufficient memory|bad_alloc", re.I
)

_DEVICE = re.compile(
    r"(CUDA|CUDA driver|cuDNN|NCCL|HIP) error|CUDA unknown error|CUDA driver initialization failed"
    r"|No CUDA GPUs are available|Found no NVIDIA driver|CUDNN_STATUS|NVML_SUCCESS"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, a device's or the machine's, was not enough.

    Args:
        error: What torch, cuDNN, cuBLAS, OpenCV, NumPy or Python raised.

    Returns:
        Whether a smaller batch may go through.

    Example:
        >>> from auheat.utils.failures import is_out_of_memory
        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
        True
    """
    ours = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return isinstance(error, MemoryError) or (ours and bool(_MEMORY.search(str(error))))


def describe_failure(error: BaseException) -> str:
    """Describe an error of memory or of a device in one line, with what may help.

    Args:
        error: Anything that was raised.

    Returns:
        The line; "" for errors of another kind, whose traceback is needed.

    Example:
        >>> from auheat.utils.failures import describe_failure
        >>> print(describe_failure(RuntimeError("CUDA error: unspecified launch failure")))
        the device failed: CUDA error: unspecified launch failure (what is finished is kept: the \
same command goes on once the device is back, or with --device cpu)
    """
    first = (str(error).splitlines() or [""])[0].rstrip(". ")
    if is_out_of_memory(error):
        text = re.split(r"\. (?=GPU|Of|This)", first)[0] or type(error).__name__
        return (
            f"memory is not enough: {text} (a smaller --batch-size or fewer --workers where the "
            "command has them, --device cpu, or less beside it: nvidia-smi lists what is on a card)"
        )
    if isinstance(error, RuntimeError) and _DEVICE.match(first):
        return (
            f"the device failed: {first} (what is finished is kept: the same command goes on once "
            "the device is back, or with --device cpu)"
        )
    return ""
