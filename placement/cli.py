"""Find, check and show placements: each subcommand is a module under `placement.commands`."""

from __future__ import annotations

from collections.abc import Sequence

from app import command_line

SUMMARY = "Find, check and show where a model's ranks go, and what that delivers."
COMMANDS = {
    "plan": "rank all parallel plans of a model on a cluster",
    "check": "prove or refute one configuration file",
    "validate": "predicted against published measurements",
    "claims": "check the starting plan's claims",
    "fit": "fit the coefficients to kernel tables and published runs",
    "simulate": "try a policy on a workload; same seed, same bytes",
    "show": "print GPU, stage, layers and tensor rank of every rank",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of one subcommand."""
    return command_line.run("placement", SUMMARY, COMMANDS, argv)
