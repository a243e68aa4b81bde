"""`placement claims`: the starting plan's claims, checked."""

from __future__ import annotations

import argparse
from pathlib import Path

from placement.claims import check_claims
from placement.coefficients import default_coefficients
from placement.commands import Subparsers
from placement.commands.plan import error_band
from placement.report import write_json


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("claims", help="check the starting plan's claims")
    parser.add_argument("--json", type=Path, help="write the claims to this file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    coefficients = default_coefficients()
    claims = check_claims(coefficients)
    for claim in claims:
        print(f"{claim.claim}\n  {claim.arithmetic}\n  {claim.verdict.upper()}: {claim.correction}\n")
    print(error_band(coefficients))
    if arguments.json:
        write_json(arguments.json, claims)
    return 0
