"""Lists the most that GPUs can compute."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuPeaks:
    """Holds dense peaks in 10^12 FLOP/s; None where the chip has no such unit."""

    fp32: float
    tf32: float | None
    fp16: float
    bf16: float | None


#: First match wins. From NVIDIA's and AMD's data sheets, whose tensor figures "with sparsity" are halved here.
GPU_PEAKS: tuple[tuple[str, GpuPeaks], ...] = (
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
    (r"\bMI300X\b", GpuPeaks(163.4, 653.7, 1307.4, 1307.4)),
)
