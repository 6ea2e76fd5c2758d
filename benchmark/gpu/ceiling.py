"""What the machine's matrix products reach at the model's own shapes, and nothing else to do."""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from gpu.device import seconds_each
from gpu.shapes import linear_layers


@torch.inference_mode()
def measure_ceiling(model: Any, *, rows: int) -> dict[str, Any]:
    """Rate of all the trunk's linear layers, one after the other, on random data.

    Weighted as the model weights them: the FLOPs of one pass over the time of one pass.

    Args:
        rows: tokens of a batch.
    """
    counts = Counter(tuple(layer.weight.shape) for layer in linear_layers(model))
    shapes = []
    flops = seconds = 0.0
    for (width_out, width_in), count in sorted(counts.items()):
        weights = torch.randn(width_out, width_in, dtype=model.dtype, device=model.device)
        tokens = torch.randn(rows, width_in, dtype=model.dtype, device=model.device)
        each = seconds_each(partial(functional.linear, tokens, weights), model.device)
        work = 2.0 * rows * width_out * width_in
        flops += count * work
        seconds += count * each
        shapes.append({"rows": rows, "in": width_in, "out": width_out, "flops": work / each})
    return {"rows": rows, "flops": flops / seconds, "shapes": shapes}
