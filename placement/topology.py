"""The grid of ranks of one engine: rank = stage x TP + tensor rank, one bundle a rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from placement.shapes import ModelShape

Bundle = dict[str, float]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plan is refused: a path into the configuration, what stands there, and the reason."""

    field: tuple[str | int, ...]
    value: object
    reason: str


@dataclass(frozen=True, slots=True)
class Rank:
    """One worker of the engine; `bundle` is its index in the placement group."""

    index: int
    stage: int
    tensor_rank: int
    first_layer: int
    last_layer: int

    @property
    def bundle(self) -> int:
        return self.index


@dataclass(frozen=True, slots=True)
class Topology:
    """PP stages of TP ranks each."""

    pipeline_parallel_size: int
    tensor_parallel_size: int

    @property
    def ranks(self) -> int:
        return self.pipeline_parallel_size * self.tensor_parallel_size

    def layer_counts(self, layers: int, partition: Sequence[int] | None = None) -> list[int]:
        """Layers of each stage.

        Without a partition it follows vLLM 0.29: an even split, what is left over going one each to the
        stages before the last, from the back.
        """
        if partition is not None:
            return list(partition)
        stages = self.pipeline_parallel_size
        counts = [layers // stages] * stages
        for extra in range(layers % stages):
            counts[-(extra + 2) % stages] += 1
        return counts

    def grid(self, layers: int, partition: Sequence[int] | None = None) -> Iterator[Rank]:
        """Every rank, in order, with the inclusive range of its layers."""
        first = 0
        for stage, count in enumerate(self.layer_counts(layers, partition)):
            for tensor_rank in range(self.tensor_parallel_size):
                index = stage * self.tensor_parallel_size + tensor_rank
                yield Rank(index, stage, tensor_rank, first, first + count - 1)
            first += count

    def problems(
        self,
        *,
        bundles: Sequence[Bundle],
        needs_gpu: bool,
        layer_partition: Sequence[int] | None,
        shape: ModelShape | None,
    ) -> Iterator[Problem]:
        """Why this grid can't hold the model in these bundles."""
        yield from self._bundle_problems(bundles, needs_gpu)
        yield from self.model_problems(layer_partition, shape)

    def model_problems(
        self, layer_partition: Sequence[int] | None, shape: ModelShape | None
    ) -> Iterator[Problem]:
        """Why the model can't be cut so; of a model without a known shape, only what the partition says."""
        yield from self._partition_problems(layer_partition, shape)
        if shape is not None:
            yield from self._shape_problems(shape)

    def _bundle_problems(self, bundles: Sequence[Bundle], needs_gpu: bool) -> Iterator[Problem]:
        pp, tp = self.pipeline_parallel_size, self.tensor_parallel_size
        if len(bundles) != self.ranks:
            yield Problem(
                ("parallel", "bundles"),
                f"{len(bundles)} bundles",
                f"PP={pp} x TP={tp} needs {self.ranks}: one bundle holds one rank",
            )
        for index, bundle in enumerate(bundles):
            # vLLM puts a worker actor, which asks for one GPU, into each bundle of a group.
            required = needs_gpu or self.ranks > 1 or "GPU" in bundle
            gpus = bundle.get("GPU", 0)
            if required and gpus != 1:
                yield Problem(
                    ("parallel", "bundles", index, "GPU"), gpus, "a rank drives exactly one GPU of its own"
                )

    def _partition_problems(
        self, partition: Sequence[int] | None, shape: ModelShape | None
    ) -> Iterator[Problem]:
        if partition is None:
            return
        field, value = ("parallel", "layer_partition"), list(partition)
        if len(partition) != self.pipeline_parallel_size:
            yield Problem(
                field,
                value,
                f"{len(partition)} stages, but pipeline_parallel_size is {self.pipeline_parallel_size}",
            )
        if any(count < 1 for count in partition):
            yield Problem(field, value, "a stage is left without a layer")
        if shape is not None and sum(partition) != shape.layers:
            yield Problem(
                field, value, f"it sums to {sum(partition)}, but the model has {shape.layers} layers"
            )

    def _shape_problems(self, shape: ModelShape) -> Iterator[Problem]:
        pp, tp = self.pipeline_parallel_size, self.tensor_parallel_size
        if pp > shape.layers:
            yield Problem(
                ("parallel", "pipeline_parallel_size"),
                pp,
                f"the model has {shape.layers} layers: a stage would be empty",
            )
        field = ("parallel", "tensor_parallel_size")
        if shape.heads % tp:
            yield Problem(field, tp, f"it does not divide the model's {shape.heads} attention heads")
        if shape.ffn is not None and shape.ffn % tp:
            yield Problem(field, tp, f"it does not divide the model's feed-forward of {shape.ffn}")
        # With more ranks than KV heads each head is held by several.
        if shape.kv_heads % tp and tp % shape.kv_heads:
            reason = f"it neither divides the model's {shape.kv_heads} KV heads nor is a multiple of them"
            yield Problem(field, tp, reason)
