"""Discrete-event simulation of the real decision core over modelled engines."""
