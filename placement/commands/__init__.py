"""Subcommands of `python -m placement`: each has `add_parser` and `run`."""
