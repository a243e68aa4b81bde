"""Faults against a running application, and an account of every request: see `benchmarks.chaos.command`."""
