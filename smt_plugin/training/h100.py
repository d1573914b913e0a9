"""How fast an H100 is: what the hours that `smt check` and `smt plan` estimate go by."""

# Its dense bf16 FLOP/s (NVIDIA's data sheet), and the part of it that a good training reaches.
PEAK_FLOPS, UTILIZATION = 989e12, 0.4
