"""`python -m benchmarks {flow,simulation,fit-engine}`."""

from __future__ import annotations

import sys

from benchmarks import fit_engine, flow, simulation

BENCHMARKS = {"flow": flow.main, "simulation": simulation.main, "fit-engine": fit_engine.main}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [options]", file=sys.stderr)
        return 2
    return BENCHMARKS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
