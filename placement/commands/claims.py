"""`placement claims`: the starting plan's claims, checked."""

from __future__ import annotations

import argparse
from pathlib import Path

from placement.claims import check_claims
from placement.coefficients import default_coefficients
from placement.commands.plan import error_band
from placement.hardware import find_gpu
from placement.report import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="write the claims to this file")


def run(arguments: argparse.Namespace) -> int:
    coefficients = default_coefficients()
    claims = check_claims(coefficients)
    for claim in claims:
        print(f"{claim.claim}\n  {claim.arithmetic}\n  {claim.verdict.upper()}: {claim.correction}\n")
    print(error_band(coefficients, find_gpu("h100")))
    if arguments.json:
        write_json(arguments.json, claims)
    return 0
