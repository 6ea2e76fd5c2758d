"""Which kernels a batch's time goes to."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gpu.load import cut_batches
from gpu.workloads import Workload
from reward_service.model_runner import ModelRunner

TOP = 20


def profile_batch(
    runner: ModelRunner, workload: Workload, *, budget: int, device: torch.device
) -> list[dict[str, Any]]:
    """The operations that took most of the device's own time in one batch."""
    groups = next(cut_batches(workload.groups, budget=budget))
    runner.run(runner.prepare(groups))
    prepared = runner.prepare(groups)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        runner.run(prepared)

    def seconds(event: Any) -> float:
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        return float(own) / 1e6

    # On a GPU the kernels themselves, not once more the operations that launched them.
    wanted = "CUDA" if on_gpu else "CPU"
    events = [e for e in recorded.key_averages() if e.device_type.name == wanted]
    events = sorted(events, key=seconds, reverse=True)[:TOP]
    return [
        {"operation": event.key, "calls": event.count, "seconds": seconds(event)}
        for event in events
    ]
