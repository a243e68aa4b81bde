"""Writes what is served into the manifests, after a change of serve_configs/llama70b.yaml.

`python deploy/kubernetes/build.py`; all else in them is kept by hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SERVED = FOLDER.parents[1] / "serve_configs" / "llama70b.yaml"
# What the head of several nodes has for gateways and schedulers (nodes.yaml, rayStartParams).
CONTROL = {"control": 1}
# Where clients enter, and the most engines.
SHAPES = {"one-node.yaml": ("HeadOnly", 1), "nodes.yaml": ("EveryNode", 4)}
_BLOCK = re.compile(r"(?<=  serveConfigV2: \|\n).*?(?=^  rayClusterConfig:)", re.DOTALL | re.MULTILINE)


def serve_config(entrance: str, engines: int) -> dict[str, Any]:
    """The shipped configuration, but for a cluster: NetworkPolicy and ingress say who may come in."""
    document = yaml.safe_load(SERVED.read_text())
    document["proxy_location"] = entrance
    document["http_options"]["host"] = "0.0.0.0"
    for application in document["applications"]:
        arguments = application["args"]
        arguments["replicas"]["max"] = engines
        if engines > 1:
            # KubeRay's autoscaler adds the nodes that engines wait for.
            arguments["replicas"]["cluster_grows"] = True
            arguments["hardware"] = f"{engines}x{arguments['hardware']}"
            arguments["control_resources"] = CONTROL
    return document


def with_served(name: str) -> str:
    """The manifest with its part of the configuration anew."""
    text = yaml.safe_dump(serve_config(*SHAPES[name]), sort_keys=False, width=100)
    block = "".join(f"    {line}" for line in text.splitlines(keepends=True))
    return _BLOCK.sub(lambda _: block, (FOLDER / name).read_text(), count=1)


if __name__ == "__main__":
    for name in SHAPES:
        (FOLDER / name).write_text(with_served(name))
