"""Benchmarks that print what they measured: `python -m benchmarks NAME --json`."""
