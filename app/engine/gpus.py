"""What the GPUs of the engine's machine do, by NVML, as metrics on the engine's own page.

NVML shows all GPUs of a machine, whoever uses them. Of an engine that spans several machines these are the
ones of its first bundle's; the others are in Ray's own metrics (`ray_node_gpus_utilization`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

logger = logging.getLogger("ray.serve")


class GpuCollector(Collector):
    """Asks NVML at each scrape; `nvml` is the module `pynvml`. Without a driver it has nothing to tell of."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(gpu) for gpu in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            logger.info("GPUs are not measurable here: %s", error)
            self._handles = []

    def collect(self) -> Iterator[Metric]:
        measured = list(self._read())
        yield GaugeMetricFamily(
            "promiseserve_gpus", "GPUs that are measured; 0: not measurable here.", len(measured)
        )
        names = {
            "utilization_ratio": "Share of the last sample period in which a kernel ran.",
            "memory_used_bytes": "Memory in use, by whomever.",
            "memory_total_bytes": "Memory that there is.",
        }
        for column, (name, text) in enumerate(names.items(), start=1):
            family = GaugeMetricFamily(f"promiseserve_gpu_{name}", text, labels=["gpu"])
            for row in measured:
                family.add_metric([str(row[0])], row[column])
            yield family

    def _read(self) -> Iterator[tuple[int, float, int, int]]:
        """Index, utilisation (0 to 1), bytes used, bytes in all; a GPU that is lost is left out."""
        nvml = self._nvml
        for gpu, handle in enumerate(self._handles):
            try:
                busy_percent = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            except nvml.NVMLError as error:
                logger.warning("GPU %d can't be measured: %s", gpu, error)
                continue
            yield gpu, busy_percent / 100, memory.used, memory.total
