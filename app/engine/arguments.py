"""From the application's configuration to vLLM's arguments and environment: data in, data out."""

from __future__ import annotations

import json

from app.config import ApplicationConfig, EngineConfig

# The engine's own queue is a backstop: the scheduler sends as many answers as there are places, and what the
# last request has beyond one. Who follows a scheduler that died knows its leases, but not their answers.
QUEUE_BACKSTOP_FACTOR = 2


def uses_ray_workers(config: ApplicationConfig) -> bool:
    """True when each rank is a Ray actor in a bundle of its own; else vLLM starts plain processes."""
    return "GPU" in config.parallel.bundles[0]


def vllm_arguments(config: ApplicationConfig, model_path: str) -> list[str]:
    """The command line that vLLM's own parser would be given."""
    engine, parallel = config.engine, config.parallel
    arguments = {
        "model": model_path,
        "served-model-name": config.model.name,
        "dtype": engine.dtype,
        "kv-cache-dtype": engine.kv_cache_dtype,
        "max-model-len": engine.max_model_len,
        "max-num-seqs": engine.max_num_seqs,
        "max-num-batched-tokens": engine.max_num_batched_tokens,
        "max-num-queued-reqs": config.requests_per_replica() * _most_answers(config) * QUEUE_BACKSTOP_FACTOR,
        "gpu-memory-utilization": engine.gpu_memory_utilization,
        "pipeline-parallel-size": parallel.pipeline_parallel_size,
        "tensor-parallel-size": parallel.tensor_parallel_size,
        "distributed-executor-backend": _executor(config),
        "scheduling-policy": "priority",
        "stream-interval": engine.stream_interval,
        "seed": engine.seed,
        "compilation-config": json.dumps(_compilation(config)),
        # Left to itself vLLM takes for all what the first structured output needs, and fails on the others.
        "structured-outputs-config": json.dumps({"backend": "xgrammar"}),
    }
    if engine.long_prefill_token_threshold is not None:
        arguments["long-prefill-token-threshold"] = engine.long_prefill_token_threshold
    if engine.quantization is not None:
        arguments["quantization"] = engine.quantization
    # The gateway refuses more already (app/limits.py); here is the second door.
    arguments["max-logprobs"] = config.limits.max_logprobs
    if config.limits.max_output_tokens is not None:
        # And the only one for a request that sends no bound.
        most = {"max_new_tokens": config.limits.max_output_tokens}
        arguments["override-generation-config"] = json.dumps(most)
    if config.tracing.otlp_traces_endpoint is not None:
        arguments["otlp-traces-endpoint"] = config.tracing.otlp_traces_endpoint
    flags = [
        "--enable-chunked-prefill",
        "--enable-prefix-caching" if engine.enable_prefix_caching else "--no-enable-prefix-caching",
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        # OpenAI's `cached_tokens`. Of nobody else's prompts: a tenant's salt is in every hash.
        "--enable-prompt-tokens-details",
    ]
    if engine.tool_call_parser is not None:
        flags += ["--enable-auto-tool-choice", f"--tool-call-parser={engine.tool_call_parser}"]
    if parallel.pipeline_parallel_size > 1 and parallel.sequence_parallelism.enabled:
        # vLLM 0.29 has this pass in its first model runner only, and its asynchronous scheduler puts every
        # request into every batch there: a stage waits for the tokens of the batch before, and the pipeline
        # holds one at a time. The synchronous one, as on a CPU, gives each stage a batch of its own.
        flags.append("--no-async-scheduling")
    if engine.reasoning_parser is not None:
        flags.append(f"--reasoning-parser={engine.reasoning_parser}")
    if config.limits.media_hosts:
        flags += ["--allowed-media-domains", *sorted(config.limits.media_hosts)]
    return [f"--{name}={value}" for name, value in arguments.items()] + flags


def _most_answers(config: ApplicationConfig) -> int:
    """Of one request."""
    return max(config.limits.max_choices, config.limits.max_embedding_inputs)


def _executor(config: ApplicationConfig) -> str:
    """Where the ranks run: Ray actors, processes, or, for one rank, the engine core's own process."""
    if uses_ray_workers(config):
        return "ray"
    return "mp" if len(config.parallel.bundles) > 1 else "uni"


def _compilation(config: ApplicationConfig) -> dict[str, object]:
    if config.engine.compilation == "eager":
        # Not `enforce_eager`: under mode 0 the CPU worker skips the warm-up that makes the buffers of
        # later pipeline stages, and the first request fails.
        return {"mode": 2, "backend": "eager"}
    sequence_parallelism = config.parallel.sequence_parallelism
    if not sequence_parallelism.enabled:
        return {}
    return {
        # The pass needs one graph over the whole model: piecewise compilation would cut the residual
        # stream between ranks at subgraph boundaries.
        "mode": 3,
        "use_inductor_graph_partition": True,
        # Native RMS norm traces a wrong residual shape under pipeline parallelism (vLLM issue 27894).
        "custom_ops": ["+rms_norm"],
        "pass_config": {"enable_sp": True, "sp_min_token_num": sequence_parallelism.min_tokens},
        # Cuts the compiled range where the pass begins to apply. vLLM cuts it by itself only where the
        # threshold is below the largest batch: at the same number the pass would never run.
        "compile_ranges_endpoints": [sequence_parallelism.min_tokens - 1],
    }


def environment(config: ApplicationConfig) -> dict[str, str]:
    """Environment of the replica, inherited by the engine core and its workers."""
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        # A host that may be read from could send the engine anywhere else.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_MAX_STOP_STRINGS": str(config.limits.max_stop_strings),
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Its configuration closes all handlers that the process has, Serve's among them (engine/server.py).
        "VLLM_CONFIGURE_LOGGING": "0",
        # The engine core must not outlive its replica (app/engine/orphans.py).
        "PROMISESERVE_ENGINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # A second series for each metric, which nobody reads.
        "PROMETHEUS_DISABLE_CREATED_SERIES": "1",
    }
    if uses_ray_workers(config):
        variables["VLLM_USE_RAY_V2_EXECUTOR_BACKEND"] = "1"
        # Rank r lives in bundle r; left alone, vLLM sorts the bundles by node.
        indices = range(len(config.parallel.bundles))
        variables["VLLM_RAY_BUNDLE_INDICES"] = ",".join(map(str, indices))
    if config.engine.device == "gpu":
        # FlashInfer's sampler is compiled at the first start by an nvcc, which no driver brings: without one
        # vLLM 0.29 ends. Its own is a Triton kernel.
        variables["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if config.engine.compilation == "eager":
        # Left on, vLLM 0.29 hashes its whole configuration at every step, for a cache that this backend
        # never fills: 28 % of a small engine's time (docs/speed.md).
        variables["VLLM_USE_AOT_COMPILE"] = "0"
    if config.tracing.otlp_traces_endpoint is not None:
        # vLLM's tracer is this process's own, and by its default it would speak gRPC.
        variables["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
        variables["OTEL_SERVICE_NAME"] = "promiseserve-engine"
    if config.parallel.layer_partition is not None:
        variables["VLLM_PP_LAYER_PARTITION"] = ",".join(map(str, config.parallel.layer_partition))
    if config.engine.device == "cpu":
        variables |= _cpu_environment(config.engine, workers=len(config.parallel.bundles))
    return variables


def _cpu_environment(engine: EngineConfig, workers: int) -> dict[str, str]:
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": str(engine.cpu_kv_cache_gib),
        # Several workers share a few cores: pinning them would put them all on the same one.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Attention that leaves oneDNN's matrix tiles alone, and bundles of logical GPUs
        # (app/engine/platform.py).
        "PROMISESERVE_CPU": "1",
    }
    if workers > 1:
        variables["OMP_NUM_THREADS"] = "1"
    else:
        # Lets a CPU's one rank live in the engine core. In a process of its own, core and worker wait for
        # each other by spinning: two engines on two cores made 110,000 context switches a second, now 9,000.
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return variables
