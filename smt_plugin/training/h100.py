"""How fast an H100 trains and writes: what the estimates of `smt check` and `smt plan` go by."""

# Its dense bf16 FLOP/s (NVIDIA's data sheet), and the part of it that a good training reaches.
PEAK_FLOPS, UTILIZATION = 989e12, 0.4


def h100_hours(flop: float, num_gpus: int = 1) -> float:
    """Hours that H100s take for so many FLOP."""
    return flop / (num_gpus * UTILIZATION * PEAK_FLOPS * 3600)
