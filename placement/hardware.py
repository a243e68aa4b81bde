"""GPUs and clusters: peak figures with their units and sources.

Bandwidths are per GPU and in one direction. Peaks are dense (no sparsity), from the vendor's data sheets as
tabulated by aiconfigurator-core 0.12.0 (Apache-2.0, `systems/`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator. `fp8_tflops` is None where the tensor cores have no FP8."""

    name: str
    bf16_tflops: float
    fp8_tflops: float | None
    memory_tb_per_s: float
    memory_gib: float  # what the engine sees, not the label on the box
    nvlink_gb_per_s: float  # 0: no NVLink, peers talk over PCIe
    pcie_gb_per_s: float
    source: str
    kernels_measured: bool  # False: efficiency curves are carried over from the H100 tables
    # Largest batch that vLLM 0.29 captures as a CUDA graph by itself (config/vllm.py), tokens.
    graph_tokens: int = 512
    runs_published: bool = False  # runs of it were held against the predictions

    @property
    def peer_gb_per_s(self) -> float:
        """Link to another GPU of the node, one direction."""
        return self.nvlink_gb_per_s or self.pcie_gb_per_s

    def tflops(self, dtype: str) -> float:
        """Peak of a GEMM with operands of `dtype` ("bfloat16" or "fp8"; as bf16 without FP8 cores)."""
        if dtype == "fp8" and self.fp8_tflops is not None:
            return self.fp8_tflops
        return self.bf16_tflops


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal nodes of equal GPUs. `network_gb_per_s` is per GPU and one direction, between nodes."""

    gpu: Gpu
    nodes: int
    gpus_per_node: int = 8
    # One 400 Gb/s adapter a GPU, as in the vendor's reference HGX node.
    network_gb_per_s: float = 50.0

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


_SHEET = "vendor data sheet, as in aiconfigurator-core 0.12.0 systems/"

GPUS = {
    "h100": Gpu(
        "h100",
        989,
        1978,
        3.35,
        79.18,
        450,
        64,
        _SHEET + "; 79.18 GiB is what vLLM reports",
        True,
        runs_published=True,
    ),
    # Of the 141 GiB that the sheet calls GB as much (0.99) as vLLM sees of the H100's 80.
    "h200": Gpu(
        "h200",
        989,
        1978,
        4.8,
        139.8,
        450,
        64,
        _SHEET + "; memory scaled as on the H100",
        False,
        runs_published=True,
    ),
    "a100": Gpu("a100", 312, None, 2.039, 79.15, 300, 32, _SHEET, False),
    "b200": Gpu("b200", 2250, 4500, 7.7, 178.0, 900, 128, _SHEET, False, graph_tokens=1024),
    # Conservative: a PCIe card without NVLink, so that nothing unknown is promised.
    "generic": Gpu("generic", 125, None, 0.6, 23.5, 0, 32, "assumed: 24 GB PCIe inference card", False),
}

_CLUSTER = re.compile(r"(?:(?P<nodes>\d+)x)?(?P<count>\d+)x(?P<gpu>[a-z0-9]+)")


def find_gpu(name: str, field: str = "gpu") -> Gpu:
    """The entry of a name such as "h100" or "h100_sxm". ValueError names the field and the known names."""
    key = name.lower().removesuffix("_sxm")
    if key not in GPUS:
        raise ValueError(f"{field}: {name!r} is not in the catalogue ({', '.join(GPUS)})")
    return GPUS[key]


def parse_cluster(text: str, field: str = "hardware") -> Cluster:
    """ "8xh100" is GPUs in nodes of at most 8; "4x8xh100" is NODESxGPUSxTYPE. ValueError otherwise, with the
    field that the text stands in."""
    match = _CLUSTER.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"{field}: {text!r} is not GPUSxTYPE (8xh100) or NODESxGPUSxTYPE (4x8xh100)")
    gpu, count = find_gpu(match["gpu"], field), int(match["count"])
    if count < 1:
        raise ValueError(f"{field}: {text!r} has no GPU")
    if match["nodes"] is not None:
        nodes = int(match["nodes"])
        if nodes < 1:
            raise ValueError(f"{field}: {text!r} has no node")
        return Cluster(gpu, nodes, count)
    if count <= 8:
        return Cluster(gpu, 1, count)
    if count % 8:
        raise ValueError(f"{field}: {text!r}: {count} GPUs don't fill nodes of 8; state NODESxGPUSxTYPE")
    return Cluster(gpu, count // 8, 8)
