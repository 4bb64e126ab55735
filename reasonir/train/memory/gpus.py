"""GPUs that plans and the column of MFU know: memory and speed. No torch, so that a plan needs none."""

from dataclasses import dataclass

from reasonir.train.config import PlannedGpu

# Dense bfloat16 operations a second by the beginning of a GPU's name, from NVIDIA's data sheets. Longer names first.
PEAK_TFLOPS = {
    "NVIDIA H100 PCIe": 756, "NVIDIA H100 NVL": 835, "NVIDIA H100": 989, "NVIDIA H200": 989, "NVIDIA GH200": 989,
    "NVIDIA B200": 2_250, "NVIDIA A100": 312, "NVIDIA A800": 312, "NVIDIA A40": 150, "NVIDIA A30": 165,
    "NVIDIA A10": 125, "NVIDIA L40S": 362, "NVIDIA L40": 181, "NVIDIA L4": 121, "NVIDIA GeForce RTX 4090": 165,
    "NVIDIA GeForce RTX 3090": 71,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Device:
    """What one rank computes on. peak_flops: of dense half-precision products a second; None if not known."""

    name: str
    memory_gib: float
    peak_flops: float | None = None


def peak_flops_of(name: str) -> float | None:
    """Return the bfloat16 operations a second of a GPU by the name that torch gives it; None if it is not known."""
    return next((1e12 * peak for start, peak in PEAK_TFLOPS.items() if name.startswith(start)), None)


# Memory as torch reports it, a little below the number in the name.
GPUS = {
    PlannedGpu.h100: Device("h100", 79.1, peak_flops_of("NVIDIA H100")),
    PlannedGpu.a100_80: Device("a100_80", 79.1, peak_flops_of("NVIDIA A100")),
    PlannedGpu.a100_40: Device("a100_40", 39.4, peak_flops_of("NVIDIA A100")),
    PlannedGpu.rtx4090: Device("rtx4090", 23.5, peak_flops_of("NVIDIA GeForce RTX 4090")),
    PlannedGpu.t4: Device("t4", 14.6, 65e12),  # of float16: it has no bfloat16 arithmetic
}
