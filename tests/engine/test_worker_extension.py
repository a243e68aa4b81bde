"""What vLLM's workers are told, at the pinned version."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from vllm.v1.worker import gpu_model_runner, gpu_worker, utils

from app.engine import worker_extension
from app.engine.server import WORKER_EXTENSION
from app.engine.worker_extension import WorkerExtension, is_split

FEWEST = 2048


def config(*, enabled: bool = True, tensor_parallel: int = 2) -> SimpleNamespace:
    """Of vLLM's, what the function looks at."""
    passes = SimpleNamespace(enable_sp=enabled, sp_min_token_num=FEWEST)
    return SimpleNamespace(
        compilation_config=SimpleNamespace(
            pass_config=passes, use_inductor_graph_partition=True, splitting_ops=[]
        ),
        parallel_config=SimpleNamespace(tensor_parallel_size=tensor_parallel),
    )


@pytest.mark.parametrize(("tokens", "split"), [(2, False), (FEWEST - 2, False), (FEWEST, True), (4096, True)])
def test_only_batches_that_the_pass_applies_to_are_split(tokens, split):
    assert is_split(config(), tokens) == split


def test_without_the_pass_none_is():
    assert not is_split(config(enabled=False), FEWEST)
    assert not is_split(config(tensor_parallel=1), FEWEST)


def test_workers_ask_this_one():
    for module in (utils, gpu_model_runner, gpu_worker):
        assert module.is_residual_scattered_for_sp is is_split


def test_vllms_own_takes_all_for_split():
    """Where this fails vLLM has mended it, and the module can go."""
    assert worker_extension._with_sequence_parallelism(config(), 2)


def test_the_pinned_vllm_finds_it_and_has_nothing_of_these_names():
    module, name = WORKER_EXTENSION.rsplit(".", 1)
    assert (module, getattr(worker_extension, name)) == (worker_extension.__name__, WorkerExtension)
    added = [attribute for attribute in dir(WorkerExtension) if not attribute.startswith("__")]
    assert added
    assert [one for one in added if hasattr(gpu_worker.Worker, one)] == []
