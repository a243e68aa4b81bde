"""What a checkpoint says that its weights and its cache are stored in, as vLLM 0.29 reads it.

`quantization_config` of config.json, or hf_quant_config.json beside it, which ModelOpt wrote before 0.31
(transformers_utils/config.py). Of a format without a size here the name is all that is told.
"""

from __future__ import annotations

from collections.abc import Mapping

# Its methods (`modelopt`, `modelopt_fp4`, ...) keep an algorithm and a cache of their own.
_MODELOPT = "modelopt"
Quantization = Mapping[str, object]


def stored_weights(quantization: Quantization | None) -> str:
    """Of the weights of most layers: "bfloat16", "fp8", or the name of the method."""
    if quantization is None:
        return "bfloat16"
    method = _method(quantization)
    algorithm = str(_inner(quantization).get("quant_algo")).lower()
    # ModelOpt has several scales for FP8: FP8, FP8_PB_WO, FP8_PER_CHANNEL_PER_TOKEN.
    return "fp8" if method == "fp8" or algorithm.startswith("fp8") else method


def stored_cache(quantization: Quantization | None) -> str:
    """What `kv_cache_dtype: auto` is (utils/torch_utils.py, `get_kv_cache_quant_algo_string`): "fp8", or
    "bfloat16" for the model's own and for what is not known."""
    if quantization is None:
        return "bfloat16"
    method, inner = _method(quantization), _inner(quantization)
    scheme = inner.get("kv_cache_scheme") or quantization.get("kv_cache_scheme")
    if method == "compressed-tensors":  # model_executor/layers/attention/attention.py
        return "fp8" if scheme else "bfloat16"
    if not method.startswith(_MODELOPT):
        return "bfloat16"
    stored = scheme or inner.get("kv_cache_quant_algo") or quantization.get("kv_cache_quant_algo")
    if isinstance(stored, Mapping):
        kind = stored.get("type"), stored.get("num_bits"), stored.get("dynamic")
        return "fp8" if kind == ("float", 8, False) else "bfloat16"
    return "fp8" if str(stored).lower() == "fp8" else "bfloat16"


def _method(quantization: Quantization) -> str:
    """ModelOpt's older files name the producer instead."""
    producer = quantization.get("producer")
    older = isinstance(producer, Mapping) and producer.get("name") == _MODELOPT
    named = quantization.get("quant_method") or (_MODELOPT if older else "unknown")
    return str(named).lower().replace("compressed_tensors", "compressed-tensors")


def _inner(quantization: Quantization) -> Quantization:
    """ModelOpt's older files have all of it one level further down."""
    inner = quantization.get("quantization")
    return inner if isinstance(inner, Mapping) else quantization
