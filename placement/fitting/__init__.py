"""Fits: kernel tables to curves, whole serving runs to the step's residual."""
