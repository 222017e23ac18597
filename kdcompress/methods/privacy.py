"""The Gaussian mechanism: its noise, and what it gives away (differential privacy, (epsilon, delta))."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor


def secret_noise(*shape: int) -> Tensor:
    """Standard normal numbers, float32, each from 52 bits of the operating system's entropy. They have no seed: who
    knew one could draw the noise again and take it off."""
    bits = torch.frombuffer(bytearray(os.urandom(8 * math.prod(shape))), dtype=torch.int64)
    uniform = (((bits >> 12) & (2**52 - 1)).double() + 0.5) * 2.0**-52  # strictly between 0 and 1
    return torch.special.ndtri(uniform).view(shape).float()


def epsilon(answers: int, sensitivity: float, sigma: float, delta: float) -> float:
    """The least epsilon at ``delta`` of so many answers, each with noise N(0, sigma^2) in every coordinate on a vector
    that one record moves by at most ``sensitivity`` (L2), where a question may depend on earlier answers.

    Together they are one Gaussian mechanism with mu = sensitivity * sqrt(answers) / sigma (Dong, Roth and Su, Gaussian
    Differential Privacy, 2022, corollary 3.3), of which delta(epsilon) is known exactly (Balle and Wang, ICML 2018,
    theorem 8); rounded up by less than 1e-6 of it."""
    mu = sensitivity * math.sqrt(answers) / sigma
    if not mu or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, mu) > delta:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    return high


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Phi(mu/2 - epsilon/mu) - exp(epsilon) * Phi(-mu/2 - epsilon/mu), by logarithms."""
    points = torch.tensor([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu], dtype=torch.float64)
    first, second = torch.special.log_ndtr(points).tolist()
    return -math.exp(first) * math.expm1(min(0.0, epsilon + second - first))
