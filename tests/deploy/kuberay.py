"""KubeRay's own schema of a RayService, reduced to its own fields.

    python tests/deploy/kuberay.py ray.io_rayservices.yaml > tests/deploy/rayservice-v1.7.0.json

The input is `ray-operator/config/crd/bases/ray.io_rayservices.yaml` of KubeRay 1.7.0 (Apache License 2.0).
What Kubernetes defines (pods, services) is left out there: kubernetes-validate checks it against Kubernetes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

# Objects of Kubernetes's own, anywhere; and what only the operator writes.
FOREIGN = {
    "template",
    "headService",
    "serveService",
    "status",
    "metadata",
    "env",
    "envFrom",
    "securityContext",
}
DROPPED = {
    "description",
    "format",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
}


def schema_of(crd: dict[str, Any], version: str = "v1") -> dict[str, Any]:
    """JSON schema; a field that is not there is an error, where the operator would drop it silently."""
    [found] = [one for one in crd["spec"]["versions"] if one["name"] == version]
    return _reduced(found["schema"]["openAPIV3Schema"])


def _reduced(node: Any, name: str = "") -> Any:
    if name in FOREIGN:
        return {"type": node.get("type", "object")}
    kept = {key: value for key, value in node.items() if key not in DROPPED}
    if "properties" in kept:
        kept["properties"] = {key: _reduced(value, key) for key, value in kept["properties"].items()}
        kept["additionalProperties"] = False
    if "items" in kept:
        kept["items"] = _reduced(kept["items"])
    return kept


if __name__ == "__main__":
    print(json.dumps(schema_of(yaml.safe_load(Path(sys.argv[1]).read_text())), indent=1, sort_keys=True))
