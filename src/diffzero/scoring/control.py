"""Control variates: what the noise of a draw says about its errors.

Under one draw the errors of classes a and b differ by

    D_i = ||r_a||^2 - ||r_b||^2 = <r_a + r_b, delta_i>,
    r_c = eps_hat_c - eps_i,    delta_i = eps_hat_a - eps_hat_b.

Were each class a Gaussian of variance v about its own mean, delta would be one vector at each time
and `r_c = g (x_0 - mean_c) - f eps_i` with `f = alpha^2 v / (alpha^2 v + sigma^2)`, so that

    D_i = E[D_i] - 2 f <eps_i, delta>,    Var D_i = 4 f^2 ||delta||^2.

Networks are not that simple, but two things of it stay useful.

* The predictions of *other* draws know nothing of `eps_i`: `E <eps_i, delta_j> = 0` for j != i,
  whatever the network. What is added to errors here therefore leaves their mean as it is, and
  takes noise out of their differences as far as delta_j is like delta_i.
* How much D_i varies goes with the squared distance of the two predictions, which one draw tells.

Neither needs predictions to be kept: of each only the products with the noise of the image's
first `NOISES` draws. For j != i they are normal with variance `||delta_i||^2`, so that their mean
square is the squared distance.

References:
    Owen, Monte Carlo theory, methods and examples, 2013, section 8.9 (control variates).
    https://artowen.su.domains/mc/
    Johnson and Lindenstrauss, Extensions of Lipschitz mappings into a Hilbert space, 1984
    (distances from products with random vectors).
"""

from __future__ import annotations

import numpy as np

NOISES = 64
WIDTH = 0.15  # of the neighbourhood in which predictions are alike, as a place in time
GAIN = 1.3
LOG_VARIANCE = 3.0  # log v: of how classes differ, in units of x_0's variance


def shrinkage(log_snr: np.ndarray) -> np.ndarray:
    """`f = 1 / (1 + exp(-(lambda + log v)))` of log-SNRs lambda `[n]`."""
    return 0.5 * (1 + np.tanh(0.5 * (np.asarray(log_snr) + LOG_VARIANCE)))


def centred(products: np.ndarray) -> np.ndarray:
    """Products `[n, k, NOISES]` less their mean over classes: only differences matter, and what
    all classes have in common is a hundred times as large."""
    return products - products.mean(1, keepdims=True)


def adjusted(
    errors: np.ndarray, products: np.ndarray, places: np.ndarray, shrink: np.ndarray
) -> np.ndarray:
    """Errors with the same mean and less noise in their differences,

        e_c,i + beta_i sum_j w_ij <eps_i, eps_hat_c,j>,    beta_i = GAIN (1 - 2 / n) f_i,

    w_ij the weights of a Gaussian of width `WIDTH` about the place of draw i, with `w_ii = 0`. Few
    draws tell little of delta_i, hence the bracket. Draws after the first `NOISES` stay as they
    are, and so do fewer than three.

    Args:
        errors: `[n, k]`.
        products: `<eps_i, eps_hat_c,j>` at `[j, c, i]`, `centred`, in the units of the errors.
        places: Place in [0, 1) of each draw, see `noise.quantiles`.
        shrink: f of each draw.
    """
    n = len(errors)
    if n < 3:
        return errors
    own = np.arange(min(n, products.shape[2]))
    near = np.exp(-0.5 * ((places[own, None] - places) / WIDTH) ** 2)
    near[own, own] = 0
    near /= near.sum(1, keepdims=True)
    control = np.einsum("ij,jci->ic", near, products[:, :, own])
    out = errors.copy()
    out[own] += GAIN * (1 - 2 / n) * shrink[own, None] * control
    return out


def squared_distances(products: np.ndarray, leader: int) -> np.ndarray:
    """`||eps_hat_c,j - eps_hat_leader,j||^2` of every draw j, estimated, `[n, k]`.

    Args:
        products: As in `adjusted`.
        leader: Column of the leader.
    """
    n, _, noises = products.shape
    squares = (products - products[:, [leader]]) ** 2
    own = np.arange(min(n, noises))
    squares[own, :, own] = 0  # a draw's own noise has shaped its predictions
    return squares.sum(2) / np.where(np.arange(n) < noises, noises - 1, noises)[:, None]
