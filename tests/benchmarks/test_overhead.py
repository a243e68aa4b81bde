"""The arithmetic of pairs, CPU time, intervals, and the words for a peer that is not there."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import servers
from benchmarks.lease_cluster import SETTINGS
from benchmarks.overhead import Sample, _figures, add_arguments, picture, table
from benchmarks.processes import cpu_outside_engine_s, spent_between_s
from benchmarks.ray_serve_llm import engine_kwargs
from benchmarks.resampling import median_with_interval
from benchmarks.servers import Server
from benchmarks.systems import MP, systems, turned

BARE = Sample(tokens_per_s=1000.0, ttft_ms=20.0, gap_ms=5.0, cpu_s_per_1k_tokens=0.2)
OURS = Sample(tokens_per_s=900.0, ttft_ms=23.0, gap_ms=5.5, cpu_s_per_1k_tokens=0.5)


def test_the_interval_holds_the_median_and_is_seeded():
    source = random.Random(1)
    values = [source.gauss(0.9, 0.05) for _ in range(5)]
    interval = median_with_interval(values)
    assert min(values) <= interval["low"] <= interval["median"] <= interval["high"] <= max(values)
    assert interval == median_with_interval(values)


def test_more_values_make_a_narrower_interval():
    source = random.Random(2)
    few, many = ([source.gauss(1, 0.1) for _ in range(count)] for count in (5, 50))
    widths = [one["high"] - one["low"] for one in map(median_with_interval, (few, many))]
    assert widths[1] < widths[0] * 0.7


def test_no_value_has_no_interval():
    with pytest.raises(ValueError, match="none"):
        median_with_interval([])


def test_figures_are_of_pairs_by_system_and_streams():
    figures = _figures({"ours": {1: [(BARE, OURS)] * 5, 8: [(BARE, BARE)] * 5}})
    assert figures["ratio_to_bare"]["ours"]["1"] == {"median": 0.9, "low": 0.9, "high": 0.9}
    assert figures["ratio_to_bare"]["ours"]["8"]["median"] == 1.0
    assert figures["ttft_overhead_ms"]["ours"]["1"]["median"] == 3.0
    assert figures["cpu_s_per_1k_tokens"] == {"vllm": {"1": 0.2, "8": 0.2}, "ours": {"1": 0.5, "8": 0.2}}


def test_table_and_picture_hold_every_system():
    figures = _figures({"ours": {1: [(BARE, OURS)], 8: [(BARE, OURS)]}})
    figures |= {"systems": {"ours": "as it is"}, "missing": {"peer": "not installed (needs pyarrow)"}}
    text = table(figures | {"pairs": 1, "engine_threads": 2})
    assert "| ours | 8 | 900 | 0.90 [0.90, 0.90] | 23.0 | 3.0 [3.0, 3.0] | 5.5 | 0.500 |" in text
    assert "- peer: not installed (needs pyarrow)" in text
    svg = ElementTree.fromstring(picture(figures))
    assert len(svg.findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_each_system_comes_first_in_turn():
    order = ["vllm", "ours", "peer"]
    assert [turned(order, number)[0] for number in range(4)] == [*order, "vllm"]
    assert turned(order, 1) == ["ours", "peer", "vllm"]
    assert turned([], 1) == []


def test_the_peers_executor_is_said_and_can_be_measured_alone():
    settings = {name: system.settings for name, system in systems(1).items()}
    assert {name for name, words in settings.items() if MP in words} == {
        "vllm-mp",
        "ray-serve-llm",
        "ray-serve-llm-as-is",
        "ray-serve-llm-throughput",
        "ray-serve-llm-direct",
    }
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asked = ["vllm-mp", "vllm-beside-ours"]
    assert parser.parse_args(["--systems", *asked]).systems == asked
    assert not set(asked) & set(parser.parse_args([]).systems)


def test_bare_vllm_is_measured_beside_an_application_that_outlives_it(monkeypatch, tmp_path: Path):
    events: list[str] = []

    def server(name: str) -> Callable[..., AbstractContextManager[Server]]:
        @contextmanager
        def started(config: Path, variables: Mapping[str, str], *extra: Sequence[str]) -> Iterator[Server]:
            events.append(f"{name} starts {sorted(variables)} {extra}")
            yield Server(name, 0.0, 0, config)
            events.append(f"{name} ends")

        return started

    monkeypatch.setattr(servers, "ours", server("ours"))
    monkeypatch.setattr(servers, "bare_vllm", server("bare"))
    with servers.bare_vllm_beside_ours(tmp_path, {"A": "1"}, ["--x"]) as measured:
        assert measured.url == "bare"
    starts = ["ours starts ['A'] ()", "bare starts ['A'] (['--x'],)"]
    assert events == [*starts, "bare ends", "ours ends"]


def test_no_systems_replicas_call_each_other_through_a_proxy():
    given: list[Mapping[str, str]] = []

    def start(config: Path, variables: Mapping[str, str]) -> AbstractContextManager[Server]:
        given.append(variables)
        return nullcontext(Server("", 0.0, 0, config))

    for system in systems(1).values():
        replace(system, server=start).start(Path(), threads=1)
    assert {variables["grpc_proxy"] for variables in given} == {""}
    assert "grpc_proxy" in SETTINGS


def test_cpu_time_is_of_the_whole_tree_but_for_its_engine():
    waits = "import sys, setproctitle; setproctitle.setproctitle(sys.argv[1]); print(flush=True); input()"
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", waits, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            for name in ("front end", "VLLM::EngineCore_DP0")
        ]
        for child in children:
            child.stdout.readline()
        counted = cpu_outside_engine_s(os.getpid())
        for child in children:
            child.communicate(b"\n")
    front_end, engine = (child.pid for child in children)
    assert counted.keys() >= {os.getpid(), front_end}
    assert engine not in counted


def test_cpu_time_of_a_window_is_of_those_that_are_there_at_its_end():
    assert spent_between_s({1: 2.0, 2: 1.0}, {1: 2.5, 3: 0.25}) == 0.75


def test_arguments_become_keywords():
    line = [
        "--model=/m",
        "--max-num-seqs=32",
        "--max-num-queued-reqs=64",
        '--compilation-config={"mode": 2}',
        "--dtype=float32",
    ]
    flags = ["--enable-prefix-caching", "--no-enable-chunked-prefill", "--distributed-executor-backend=mp"]
    assert engine_kwargs(line + flags) == {
        "max_num_seqs": 32,
        "compilation_config": {"mode": 2},
        "dtype": "float32",
        "enable_prefix_caching": True,
        "enable_chunked_prefill": False,
    }
