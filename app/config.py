"""The one typed description of an application; a file under serve_configs/ holds it as `args`.

Everything that can be known to be wrong before a process starts is refused here, with the field, the
value and the reason. Nothing in this file reads a file, the environment or a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from app.flow.autoscale import ScalePolicy
from app.flow.config import FlowConfig
from app.limits import RequestLimits
from app.promises import PromisesConfig
from placement.shapes import ModelShape, known_shape
from placement.topology import Problem, Topology

# Ray refuses an empty bundle, and counts in ten-thousandths: less would be nothing.
_Amount = Annotated[float, Field(ge=0.0001, allow_inf_nan=False)]
_Bundle = Annotated[dict[str, _Amount], Field(min_length=1)]
# Of a key's bytes, lower case: `printf %s KEY | sha256sum`.
_KeyHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# One of vLLM's parsers.
_Parser = Annotated[str, Field(pattern="^[a-z0-9_]+$")]


# Ray has other ways to ask for these, or, for the last, keeps the name for itself.
_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory", "bundle")


def refuse(title: str, problems: Iterable[Problem]) -> None:
    """Raises one ValidationError that places every problem at its field; pydantic merges it as its own."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError("impossible_plan", "{reason}", {"reason": problem.reason}),
            loc=problem.field,
            input=problem.value,
        )
        for problem in problems
    ]
    if errors:
        raise ValidationError.from_exception_data(title, errors)


# The share of each GPU that an engine may be given: what else lives there needs the rest.
MOST_GPU_MEMORY = 0.95


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """Which model is served and under which name."""

    name: str = Field(min_length=1, description="The name that clients put into `model`.")
    source: str = Field(
        min_length=1,
        description="A Hugging Face id, a folder, or an embedded model: `embedded:smollm2-135m-instruct` "
        "or `embedded:tiny-llama`.",
    )
    shape: ModelShape | None = Field(
        default=None,
        description="Layers and heads, for a model that `placement.shapes` does not know; checked against "
        "the parallel plan before anything starts.",
    )

    def known_shape(self) -> ModelShape | None:
        """The stated shape, else the catalogue's; None means that only the engine can check it."""
        return self.shape or known_shape(self.source)


class SequenceParallelism(_Strict):
    """Split the token dimension over the TP group for large batches (vLLM's `enable_sp`)."""

    enabled: bool = False
    # Below this the reduce-scatter and all-gather cost more than they save.
    min_tokens: int = Field(default=2048, ge=2, description="Tokens in a batch (`sp_min_token_num`).")


class ParallelConfig(_Strict):
    """The grid of ranks, and the Ray bundles that hold them: bundle r holds rank r."""

    pipeline_parallel_size: int = Field(default=1, ge=1)
    tensor_parallel_size: int = Field(default=1, ge=1)
    bundles: list[_Bundle] = Field(
        default=[{"CPU": 1.0}],
        min_length=1,
        description="One bundle a rank, in rank order (rank = stage x TP + tensor rank). The engine's own "
        "process lives in the first.",
    )
    # All ranks on one node: a TP group that crosses nodes loses NVLink.
    strategy: Literal["PACK", "STRICT_PACK"] = "STRICT_PACK"
    layer_partition: list[int] | None = Field(
        default=None, description="Layers of each stage; vLLM splits evenly when absent."
    )
    sequence_parallelism: SequenceParallelism = SequenceParallelism()

    def topology(self) -> Topology:
        return Topology(self.pipeline_parallel_size, self.tensor_parallel_size)

    @model_validator(mode="after")
    def _has_a_sequence_to_split(self) -> Self:
        if self.sequence_parallelism.enabled and self.tensor_parallel_size == 1:
            field = ("sequence_parallelism", "enabled")
            reason = "it splits tokens over the tensor-parallel group, and tensor_parallel_size is 1"
            refuse("ParallelConfig", [Problem(field, True, reason)])
        return self


class EngineConfig(_Strict):
    """What the application sets of vLLM; names are vLLM's own where it has one."""

    device: Literal["cpu", "gpu"] = "gpu"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = None
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    max_model_len: int = Field(ge=16, description="Prompt plus output, tokens.")
    max_num_seqs: int = Field(default=64, ge=1, description="Running requests, all microbatches together.")
    max_num_batched_tokens: int = Field(default=2048, ge=16, description="Tokens of one engine step.")
    long_prefill_token_threshold: int | None = Field(
        default=None,
        ge=16,
        description="Of one prompt in a step: a longer one is computed in several, beside others. None: as "
        "much as the step has left.",
    )
    # The promise is at most 85 % of a GPU's memory.
    gpu_memory_utilization: float = Field(default=0.85, gt=0.0, le=MOST_GPU_MEMORY)
    # On a CPU the KV cache is a plain allocation.
    cpu_kv_cache_gib: int = Field(default=1, ge=1)
    enable_prefix_caching: bool = True
    tool_call_parser: _Parser | None = Field(
        default=None,
        description="How the model writes a call of a tool, by vLLM's name, such as `llama3_json`. Without "
        "it requests with tools are refused.",
    )
    reasoning_parser: _Parser | None = Field(
        default=None,
        description="How the model marks what it thinks, by vLLM's name, such as `deepseek_r1`: it is told "
        "apart from the answer.",
    )
    compilation: Literal["full", "eager"] = Field(
        default="full",
        description="`full` is vLLM's default for the device; `eager` traces without compiling, which "
        "starts sooner and suits small models on a CPU.",
    )
    # 1: every token leaves the engine as it is made.
    stream_interval: int = Field(default=1, ge=1)
    # Under 50 ms a stream still looks smooth.
    coalesce_ms: int = Field(
        default=40,
        ge=0,
        le=1000,
        description="While eight or more requests run, the tokens of a stream that come within this time go "
        "out together, the first and the last at once: a token may be this late, and costs less. 0: never.",
    )
    # The 141 GB of a model of 70 B parameters take 47 minutes at 50 MB/s, and then it is compiled.
    start_timeout_s: float = Field(
        default=3600.0,
        gt=0,
        description="An engine that has not started after so long is ended, and Serve starts another. Above "
        "the longest start: loading from the slowest disk, or the download.",
    )
    # A step takes at most seconds, and a busy engine makes steps however slow it is: this is no step at all.
    stall_s: float = Field(
        default=60.0,
        gt=0,
        description="An engine with unfinished requests that makes no step for so long has stopped: it is "
        "replaced. Above the longest step.",
    )
    seed: int = 0

    @model_validator(mode="after")
    def _vllm_accepts(self) -> Self:
        refuse("EngineConfig", self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        if self.max_num_batched_tokens < self.max_num_seqs:
            reason = f"below max_num_seqs ({self.max_num_seqs}): each running request takes a token of a step"
            yield Problem(("max_num_batched_tokens",), self.max_num_batched_tokens, reason)
        share = self.long_prefill_token_threshold
        if share is not None and share > min(self.max_num_batched_tokens, self.max_model_len):
            reason = (
                f"no prompt gets so much of a step: max_num_batched_tokens is {self.max_num_batched_tokens}, "
                f"max_model_len {self.max_model_len}"
            )
            yield Problem(("long_prefill_token_threshold",), share, reason)
        # vLLM 0.29, v1/attention/backends/cpu_attn.py, `supported_kv_cache_dtypes`.
        if self.device == "cpu" and self.kv_cache_dtype == "bfloat16":
            reason = "vLLM's CPU attention stores `auto` (the model's own) or an fp8 kind"
            yield Problem(("kv_cache_dtype",), self.kv_cache_dtype, reason)


class ReplicasConfig(_Strict):
    """How many engine replicas, and the queue depth that asks for another."""

    min: int = Field(default=1, ge=0, description="0: the application sleeps when nobody asks it.")
    max: int = Field(default=1, ge=1)
    scale_on: Literal["queue", "load"] = Field(
        default="load",
        description="`queue`: only the queue's depth asks for more; `load`: also what arrives, what is "
        "predicted, latency over its promise, and the KV cache.",
    )
    target_queue_depth: float = Field(
        default=ScalePolicy().target_queue_depth,
        gt=0,
        description="Queued requests a replica that are tolerated before scaling up.",
    )
    headroom: Literal["normal", "lean"] = Field(
        default="normal",
        description="`lean`: no engines in reserve for bursts. On recorded code requests that took an eighth "
        "less of their hours and kept one promise fewer of a hundred (docs/autoscaling.md).",
    )
    # With what the decision itself takes, three seconds from a queue to an engine that starts.
    upscale_delay_s: float = Field(default=ScalePolicy().upscale_delay_s, ge=0)
    # A replica costs minutes to start, and bursts come back: give it up slowly.
    downscale_delay_s: float = Field(default=ScalePolicy().downscale_delay_s, gt=0)
    # With `min` 0: what sleeps costs its next user a start.
    idle_s: float = Field(
        default=ScalePolicy().idle_s, gt=0, description="Without a request for so long, it sleeps."
    )
    cluster_grows: bool = Field(
        default=False,
        description="Nodes are added for what can't be placed (as by KubeRay's autoscaler): ask for it all "
        "the same. Else no more is asked for than the cluster can place.",
    )
    # The longest stream that a drain waits for.
    drain_s: float = Field(default=600.0, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            refuse("ReplicasConfig", [Problem(("max",), self.max, f"below min ({self.min})")])
        return self


class SchedulerConfig(_Strict):
    """Bounds of the one queue."""

    max_queued: int = Field(default=512, ge=1, description="Queued requests, all classes together.")
    # A quarter of the memory of a small gateway machine.
    max_bytes: int = Field(
        default=1024 * 1024 * 1024, ge=1024, description="Bodies of requests that wait or run, all together."
    )
    max_queued_without_engine: int = Field(
        default=128,
        ge=0,
        description="Queued requests while no engine is ready: they wait for one that starts.",
    )
    max_queue_wait_s: float = Field(default=60.0, gt=0, description="A queued request is refused after it.")
    requests_per_replica: int | None = Field(
        default=None, ge=1, description="Leases a replica; `engine.max_num_seqs` when absent."
    )
    # A lease that no engine's report names for this long has expired. Engines report once a second.
    lease_ttl_s: float = Field(default=15.0, ge=3)
    # An engine that has not been heard of for this long gets no more leases.
    replica_ttl_s: float = Field(default=5.0, ge=3)
    # A process of 150 MB that waits; without it a dead scheduler's successor has to start first.
    spares: int = Field(default=1, ge=0, le=2, description="Schedulers that wait for the death of the first.")
    # For one that is frozen or cut off: a death ends the connection at once. What it has in the queue must
    # not take places; one that lives after all submits it again, with its age.
    gateway_ttl_s: float = Field(
        default=6.0,
        gt=0,
        description="The connection of a gateway that answers no ping for so long is broken; two seconds "
        "later, without a new one, the gateway is gone.",
    )
    engine_start_s: float = Field(
        default=120.0,
        gt=0,
        description="How long an engine takes to start, until one has; requests that can wait so long do.",
    )


class GatewayConfig(_Strict):
    """The HTTP edge."""

    replicas: int = Field(default=1, ge=1)
    # Bounds what an engine that lives may say nothing for; longer than any honest answer takes.
    engine_silence_s: float = Field(default=600.0, gt=0)
    # A living engine answers in milliseconds, also when it is full.
    engine_heartbeat_s: float = Field(
        default=5.0,
        gt=0,
        description="An engine that gives no sign of life for so long is lost: requests without a first "
        "token go elsewhere, streams end with an error.",
    )
    # Buffers on the way hold seconds of a stream; who reads nothing for longer has left.
    reader_stall_s: float = Field(
        default=30.0,
        gt=0,
        description="A client that takes nothing of its answer for so long is let go; so is one that has "
        "been waited for twenty times so long in all.",
    )


class TracingConfig(_Strict):
    """Where the spans of requests go; without an endpoint there are none."""

    otlp_traces_endpoint: str | None = Field(
        default=None,
        pattern="^https?://",
        description="An OpenTelemetry collector over HTTP, such as `http://localhost:4318/v1/traces`.",
    )
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Of requests that bring no `traceparent`; others say it themselves.",
    )


class StatusConfig(_Strict):
    """Who may see `/status`, which shows all tenants. By default nobody."""

    tenants: list[str] = Field(default=[], description="Tenants whose API keys open it.")
    # A proxy on this machine hides where its clients are: only for an endpoint that listens on loopback.
    open: bool = Field(
        default=False,
        description="Without `api_keys`: everybody sees it whose connection comes from this machine.",
    )


class ApplicationConfig(_Strict):
    """The whole application."""

    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    engine: EngineConfig
    replicas: ReplicasConfig = ReplicasConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    gateway: GatewayConfig = GatewayConfig()
    # They need no CPU, so Serve spreads them over all nodes, and a node with one of them is never idle.
    control_resources: dict[str, _Amount] = Field(
        default={},
        description="What each gateway and each scheduler asks of Ray, such as `{control: 1}`: they go only "
        "to nodes that were started with that resource (`ray start --resources`).",
    )
    limits: RequestLimits = Field(
        default=RequestLimits(), description="What a request may be and ask for (app/limits.py)."
    )
    tracing: TracingConfig = TracingConfig()
    flow: FlowConfig = Field(
        default=FlowConfig(), description="Classes and their promises, tenants and their shares."
    )
    promises: PromisesConfig = Field(
        default=PromisesConfig(), description="What `python -m app validate` holds a running application to."
    )
    api_keys: dict[Annotated[str, Field(min_length=1)], list[_KeyHash]] = Field(
        default={},
        description="SHA-256 of each key, by tenant.",
    )
    api_keys_file: Annotated[str, Field(pattern="^/")] | None = Field(
        default=None,
        description="An absolute path on every node with a gateway: more keys, a line `TENANT:SHA-256` each. "
        "Read again when it changes.",
    )
    api_keys_env: Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        default=None,
        description="A variable of the gateways' environment with such entries, separated by white space.",
    )
    open_without_keys: bool = Field(
        default=False,
        description="Let everyone in as the tenant `default` where no keys are configured; only for an "
        "endpoint on a loopback address.",
    )
    status: StatusConfig = StatusConfig()
    hardware: str | None = Field(
        default=None,
        description="The cluster's GPUs, such as `8xh100` (as for `placement plan --cluster`). Where it is "
        "stated, a plan that they can't hold is refused before anything starts.",
    )

    def requests_per_replica(self) -> int:
        return self.scheduler.requests_per_replica or self.engine.max_num_seqs

    def promised_kv_tokens(self) -> int:
        """What the cache of one engine must hold."""
        return self.promises.kv_tokens or self.requests_per_replica() * self.engine.max_model_len

    def promise_problems(self) -> Iterator[Problem]:
        """Why the promises can't be measured on this application. Refused at once where they are stated."""
        promises, window = self.promises, self.engine.max_model_len
        if (longest := promises.prompt_tokens + promises.output_tokens) > window:
            reason = f"with output_tokens {longest} tokens, and engine.max_model_len is {window}"
            yield Problem(("promises", "prompt_tokens"), promises.prompt_tokens, reason)

    @model_validator(mode="after")
    def _plan_is_possible(self) -> Self:
        parallel = self.parallel
        plan = parallel.topology().problems(
            bundles=parallel.bundles,
            needs_gpu=self.engine.device == "gpu",
            layer_partition=parallel.layer_partition,
            shape=self.model.known_shape(),
        )
        problems = [
            *plan,
            *self._sequence_parallelism_problems(),
            *self._control_resource_problems(),
            *self._tenant_problems(),
        ]
        if "promises" in self.model_fields_set:
            problems += self.promise_problems()
        refuse("ApplicationConfig", problems)
        return self

    @property
    def is_open(self) -> bool:
        """True where everyone is let in."""
        return not (self.api_keys or self.api_keys_file or self.api_keys_env)

    def _tenant_problems(self) -> Iterator[Problem]:
        if self.is_open and not self.open_without_keys:
            reason = (
                "no keys: set api_keys, api_keys_file or api_keys_env, or say open_without_keys: true "
                "for an endpoint that only this machine reaches"
            )
            yield Problem(("api_keys",), self.api_keys, reason)
        owners: dict[str, str] = {}
        for tenant, hashes in self.api_keys.items():
            for number, hash_ in enumerate(hashes):
                if owners.setdefault(hash_, tenant) != tenant:
                    reason = f"the key is {owners[hash_]!r}'s already"
                    yield Problem(("api_keys", tenant, number), hash_, reason)
        known_later = self.api_keys_file or self.api_keys_env
        for tenant in self.flow.tenants:
            if self.api_keys and not known_later and tenant not in self.api_keys:
                yield Problem(("flow", "tenants", tenant), tenant, "has no key among api_keys")
        for number, tenant in enumerate(self.status.tenants):
            if tenant not in self.api_keys and not known_later:
                yield Problem(("status", "tenants", number), tenant, "has no key among api_keys")
        if self.status.open and not self.is_open:
            reason = "there are api_keys: name the tenants whose keys open it in status.tenants"
            yield Problem(("status", "open"), True, reason)

    def _control_resource_problems(self) -> Iterator[Problem]:
        for name, amount in self.control_resources.items():
            if name in _RAYS_OWN:
                reason = "one of Ray's own: name a resource that nodes were started with"
                yield Problem(("control_resources", name), amount, reason)

    def _sequence_parallelism_problems(self) -> Iterator[Problem]:
        sequence_parallelism, engine = self.parallel.sequence_parallelism, self.engine
        if not sequence_parallelism.enabled:
            return
        field = ("parallel", "sequence_parallelism")
        if engine.device == "cpu":
            yield Problem((*field, "enabled"), True, "vLLM has no such compilation pass on a CPU")
        if engine.compilation != "full":
            reason = f"it is a compilation pass, and engine.compilation is {engine.compilation!r}"
            yield Problem((*field, "enabled"), True, reason)
        if sequence_parallelism.min_tokens > engine.max_num_batched_tokens:
            reason = (
                f"no step is that large: engine.max_num_batched_tokens is {engine.max_num_batched_tokens}"
            )
            yield Problem((*field, "min_tokens"), sequence_parallelism.min_tokens, reason)
