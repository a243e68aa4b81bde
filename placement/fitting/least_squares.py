"""The two solvers that the fits need."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Of a logarithm, for a derivative.
STEP = 0.02


def relative_non_negative(features: Array, measured: Array) -> Array:
    """Non-negative coefficients that minimise the squared relative error of features @ c to `measured`.

    Active set: solve, drop what came out negative, repeat. `features` is rows x terms.
    """
    scaled = features / measured[:, None]
    weight = np.maximum(np.abs(scaled).mean(axis=0), 1e-30)
    active = list(range(features.shape[1]))
    while True:
        solution, *_ = np.linalg.lstsq(scaled[:, active] / weight[active], np.ones(len(measured)), rcond=None)
        if (solution >= 0).all():
            break
        active = [term for term, value in zip(active, solution, strict=True) if value >= 0]
    coefficients = np.zeros(features.shape[1])
    coefficients[active] = solution / weight[active]
    return coefficients


def mean_absolute_percentage(predicted: Array, measured: Array) -> float:
    """Mean of |predicted / measured - 1|, in percent."""
    return float(np.abs(predicted / measured - 1).mean() * 100)


def levenberg_marquardt(errors: Callable[[Array], Array], start: Array, rounds: int) -> tuple[Array, Array]:
    """Least squares in the logarithm of the parameters, so that all stay positive.

    `errors` maps log-parameters to residuals; derivatives are forward differences.
    """
    point, damping = start.astype(float), 1e-2
    current = errors(point)
    for _ in range(rounds):
        columns = [(errors(point + STEP * unit) - current) / STEP for unit in np.eye(len(point))]
        jacobian = np.stack(columns, axis=1)
        normal = jacobian.T @ jacobian
        for _ in range(6):
            scaled = normal + damping * np.diag(np.diag(normal) + 1e-9)
            move = np.clip(np.linalg.solve(scaled, -jacobian.T @ current), -1.0, 1.0)
            trial = errors(point + move)
            if trial @ trial < current @ current:
                point, current, damping = point + move, trial, damping / 5
                break
            damping *= 5
        else:
            break
    return point, current
