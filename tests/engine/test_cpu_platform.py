"""vLLM's CPU platform as changed here, against the pinned vLLM."""

from __future__ import annotations

import pytest
from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig

from app.engine import cpu_attention
from app.engine.cpu_attention import VectorAttentionBackend, VectorAttentionMetadataBuilder
from app.engine.cpu_platform import VECTOR_ATTENTION, ServingCpuPlatform
from app.engine.platform import register

ORDINARY = {"head_size": 64, "dtype": "bfloat16", "kv_cache_dtype": "auto", "block_size": 128}


@pytest.mark.parametrize(("value", "path"), [("1", "ServingCpuPlatform"), ("0", None), ("", None)])
def test_vllm_takes_the_platform_only_when_asked(monkeypatch, value, path):
    monkeypatch.setenv("PROMISESERVE_CPU", value)
    registered = register()
    assert (registered and registered.rpartition(".")[2]) == path


def test_ordinary_attention_is_by_vector_instructions():
    config = AttentionSelectorConfig(**ORDINARY)
    assert ServingCpuPlatform.get_attn_backend_cls(None, config) == VECTOR_ATTENTION
    module, _, name = VECTOR_ATTENTION.rpartition(".")
    assert (module, name) == (cpu_attention.__name__, VectorAttentionBackend.__name__)


def test_other_attention_is_vllms_own():
    config = AttentionSelectorConfig(**ORDINARY, use_mla=True)
    chosen = ServingCpuPlatform.get_attn_backend_cls(AttentionBackendEnum.CPU_MLA, config)
    assert chosen == AttentionBackendEnum.CPU_MLA.get_path()


@pytest.mark.parametrize(("chosen", "used"), [("amx", "vec"), ("vec", "vec"), ("vec16", "vec16")])
def test_layers_get_no_kernels_that_use_tiles(monkeypatch, chosen, used):
    told = []
    monkeypatch.setattr(
        CPUAttentionMetadataBuilder, "_set_isa_to_layers", lambda self, names: told.append((self.isa, names))
    )
    builder = object.__new__(VectorAttentionBackend.get_builder_cls())
    assert isinstance(builder, VectorAttentionMetadataBuilder)
    builder.isa = chosen
    builder._set_isa_to_layers(["layer"])
    assert told == [(used, ["layer"])]
    assert builder.isa == used
