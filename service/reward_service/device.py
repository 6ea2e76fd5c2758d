"""The device that computes: choosing it, reaching it, and what it says when memory runs out."""

import torch

from reward_service.errors import StartupError

FREE_MEMORY = 0.1
"""Share of the device that must stay free: how much attention needs varies with the tree."""


def choose_device(requested: str) -> str:
    """The device to run on; `auto` takes a GPU where there is one.

    Raises:
        StartupError: this machine has no such device.
    """
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise StartupError(f"--device {requested} cannot be used here: {reason}") from error
    return requested


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on the device, without waiting for what that is doing."""
    if device.type == "cuda":
        # Only from pinned memory the copy does not wait.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is how the device says that memory ran out."""
    # The CPU's allocator has no exception class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def is_nearly_full(device: torch.device) -> bool:
    """Whether there is too little memory left to try more."""
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    return free < FREE_MEMORY * total


def release_memory(device: torch.device) -> None:
    """Give back what the allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
