"""The engine's page with GPUs, without, and with one that has gone. No GPU here: NVML is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from app.engine.gpus import GpuCollector


class FakeNvml:
    """The calls of pynvml that are used; `lost` GPUs fail, as does everything without a driver."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: int, driver: bool = True) -> None:
        self.gpus = gpus
        self.driver = driver
        self.lost: set[int] = set()

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle in self.lost:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(gpu=50 + handle, memory=10)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=handle * 2**30, total=80 * 2**30, free=0)


def page(nvml: FakeNvml) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GpuCollector(nvml))
    return registry


def test_every_gpu_of_the_machine_is_measured_at_each_scrape():
    nvml = FakeNvml(8)
    value = page(nvml).get_sample_value
    assert value("promiseserve_gpus") == 8
    assert value("promiseserve_gpu_utilization_ratio", {"gpu": "3"}) == 0.53
    assert value("promiseserve_gpu_memory_used_bytes", {"gpu": "3"}) == 3 * 2**30
    assert value("promiseserve_gpu_memory_total_bytes", {"gpu": "0"}) == 80 * 2**30
    nvml.lost.add(3)
    assert value("promiseserve_gpus") == 7
    assert value("promiseserve_gpu_utilization_ratio", {"gpu": "3"}) is None


def test_without_a_driver_it_says_that_nothing_is_measurable_here():
    value = page(FakeNvml(8, driver=False)).get_sample_value
    assert value("promiseserve_gpus") == 0
    assert value("promiseserve_gpu_utilization_ratio", {"gpu": "0"}) is None
