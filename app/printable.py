"""Text from elsewhere, for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Without what would steer the terminal, or turn the direction of what follows."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable())
