"""Lists what GPUs can compute, hold and send."""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class GpuPeaks:
    """Holds dense peaks in 10^12 FLOP/s; None where the chip has no such unit."""

    fp32: float
    tf32: float | None
    fp16: float
    bf16: float | None

    def of(self, number_type: Literal["fp32", "fp16", "bf16"], *, tf32: bool) -> float | None:
        """Gives that of products of numbers of this type.

        Args:
            tf32: whether products of fp32 may run on the TF32 tensor cores.
        """
        if number_type == "fp32":
            return self.tf32 if tf32 and self.tf32 is not None else self.fp32
        return self.bf16 if number_type == "bf16" else self.fp16


#: First match wins. From NVIDIA's and AMD's data sheets, whose tensor figures "with sparsity" are halved here.
GPU_PEAKS: tuple[tuple[str, GpuPeaks], ...] = (
    (r"\bGB300\b", GpuPeaks(80.0, 1250.0, 2500.0, 2500.0)),
    (r"\bGB200\b", GpuPeaks(80.0, 1250.0, 2500.0, 2500.0)),
    (r"\bB300\b", GpuPeaks(75.0, 1125.0, 2250.0, 2250.0)),
    (r"\bB200\b", GpuPeaks(75.0, 1125.0, 2250.0, 2250.0)),
    (r"\bGH200\b", GpuPeaks(66.9, 494.7, 989.4, 989.4)),
    (r"\bH[12]00 NVL\b", GpuPeaks(60.0, 417.5, 835.5, 835.5)),
    (r"\bH200\b", GpuPeaks(66.9, 494.7, 989.4, 989.4)),
    (r"\bH20\b", GpuPeaks(44.0, 74.0, 148.0, 148.0)),
    (r"\bH[18]00 PCIe\b", GpuPeaks(51.2, 378.0, 756.0, 756.0)),
    (r"\bH100\b", GpuPeaks(66.9, 494.7, 989.4, 989.4)),  # SXM, which CUDA calls "H100 80GB HBM3"
    (r"\bH800\b", GpuPeaks(66.9, 494.7, 989.4, 989.4)),
    (r"\bA[18]00\b", GpuPeaks(19.5, 156.0, 312.0, 312.0)),
    (r"\bA40\b", GpuPeaks(37.4, 74.8, 149.7, 149.7)),
    (r"\bA30\b", GpuPeaks(10.3, 82.0, 165.0, 165.0)),
    (r"\bA10\b", GpuPeaks(31.2, 62.5, 125.0, 125.0)),
    (r"\bL40S\b", GpuPeaks(91.6, 183.0, 362.05, 362.05)),
    (r"\bL40\b", GpuPeaks(90.5, 90.5, 181.05, 181.05)),
    (r"\bL20\b", GpuPeaks(59.8, 59.8, 119.5, 119.5)),
    (r"\bL4\b", GpuPeaks(30.3, 60.0, 121.0, 121.0)),
    (r"\bV100-SXM[23]\b", GpuPeaks(15.7, None, 125.0, None)),
    (r"\bV100-PCIE\b", GpuPeaks(14.0, None, 112.0, None)),
    (r"\bT4\b", GpuPeaks(8.1, None, 65.0, None)),
    (r"\bRTX 6000 Ada\b", GpuPeaks(91.1, 182.1, 364.2, 364.2)),
    (r"\bRTX A6000\b", GpuPeaks(38.7, 77.4, 154.8, 154.8)),
    # GeForce adds up products of 16 bits in fp32 at half the rate that it is sold by.
    (r"\bRTX 5090\b(?! Laptop)", GpuPeaks(104.8, 104.8, 209.5, 209.5)),
    (r"\bRTX 4090\b(?! Laptop)", GpuPeaks(82.6, 82.6, 165.2, 165.2)),
    (r"\bRTX 3090\b(?! Ti)", GpuPeaks(35.6, 35.6, 71.0, 71.0)),
    (r"\bMI250X\b", GpuPeaks(23.9, None, 191.5, 191.5)),  # of one of its two dies, each a device
    (r"\bMI300X\b", GpuPeaks(163.4, 653.7, 1307.4, 1307.4)),
)


def peaks_of(device: str) -> GpuPeaks | None:
    """Finds the peaks of a GPU by the name CUDA gives it; None where it is not in the table."""
    return next((peaks for pattern, peaks in GPU_PEAKS if re.search(pattern, device)), None)


@dataclass(frozen=True, slots=True)
class Gpu:
    """Describes a GPU as a plan needs it.

    Args:
        device: as CUDA names it.
        gib: of memory that a process can have, as PyTorch's `total_memory` tells.
        memory_gb: GB/s of its memory.
        link_gb: GB/s each way to the others of its node.
        network_gbit: of its share of a node's network, as in the vendor's own systems.
        units: streaming multiprocessors or compute units, over which tiles of a product are dealt.
        sustained: share of the peak that large products reach in 16 bits, which power limits.
        watts: of the board, at most.
        linked: GPUs that the links join, where these are more than a node's.
        has_8_bits: its matrix units multiply numbers of 8 bits.
    """

    device: str
    gib: float
    memory_gb: float
    link_gb: float
    network_gbit: float
    units: int
    sustained: float
    watts: int
    linked: int | None = None
    has_8_bits: bool = True

    @property
    def exponentials(self) -> int:
        """Those that a multiprocessor computes in a clock (CUDA programming guide; twice as many in Blackwell Ultra)."""
        return 32 if "B300" in self.device else 16

    @property
    def is_new(self) -> bool:
        """Whether its tensor cores have instructions that those of Ampere lack, and run the older ones slower."""
        return any(name in self.device for name in ("H100", "H200", "B200", "B300"))

    @property
    def peaks(self) -> GpuPeaks:
        """Its peaks."""
        peaks = peaks_of(self.device)
        assert peaks is not None, f"{self.device} has no peaks"
        return peaks


#: By the names of cluster.gpu. Memory, bandwidth, links and watts from the vendors' data sheets (NVIDIA V100, A100, H100, H200,
#: HGX B200 and B300, GB200, GB300, L40S; AMD MI250X, MI300X); networks of DGX-1V, DGX A100, H100, B200 and B300. Sustained
#: shares are what cuBLAS and hipBLASLt reach with square matrices of 8,192 in published measurements, rounded to 0.05; those of
#: A100, V100, H100, H200 and Blackwell are adjusted to published runs (bench/planner_fit.py).
GPUS: dict[str, Gpu] = {
    "v100": Gpu("Tesla V100-SXM2-32GB", 31.7, 900, 150, 50, 80, 0.76, 300, has_8_bits=False),
    "v100_16": Gpu("Tesla V100-SXM2-16GB", 15.8, 900, 150, 50, 80, 0.76, 300, has_8_bits=False),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 79.3, 2039, 300, 200, 108, 0.84, 400, has_8_bits=False),
    "a100_40": Gpu("NVIDIA A100-SXM4-40GB", 39.4, 1555, 300, 200, 108, 0.84, 400, has_8_bits=False),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 79.1, 3350, 450, 400, 132, 0.71, 700),
    "h100_pcie": Gpu("NVIDIA H100 PCIe", 79.1, 2000, 55, 200, 114, 0.65, 350),
    "h100_nvl": Gpu("NVIDIA H100 NVL", 93.1, 3900, 300, 200, 132, 0.65, 400),
    "h100_hbm2e": Gpu("NVIDIA H100 96GB HBM2e", 94.5, 2400, 450, 400, 132, 0.54, 500),
    "h200": Gpu("NVIDIA H200", 139.7, 4800, 450, 400, 132, 0.68, 700),
    "b200": Gpu("NVIDIA B200", 178.3, 7700, 900, 400, 148, 0.74, 1000),
    "b300": Gpu("NVIDIA B300", 267.7, 7700, 900, 800, 148, 0.77, 1100),
    "gb200": Gpu("NVIDIA GB200", 184.0, 8000, 900, 400, 152, 0.7, 1200, linked=72),
    "gb300": Gpu("NVIDIA GB300", 277.0, 8000, 900, 800, 152, 0.87, 1400, linked=72),
    "l40s": Gpu("NVIDIA L40S", 44.4, 864, 28, 100, 142, 0.65, 350),
    "rtx_4090": Gpu("NVIDIA GeForce RTX 4090", 23.5, 1008, 28, 100, 128, 0.9, 450),
    "mi250x": Gpu("AMD Instinct MI250X", 63.9, 1600, 100, 100, 110, 0.65, 280, has_8_bits=False),
    "mi300x": Gpu("AMD Instinct MI300X", 191.5, 5300, 350, 400, 304, 0.5, 750),
}
