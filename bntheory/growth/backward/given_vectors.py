"""Gradients through an activation and a BatchNorm over given vectors, pair by pair; see `infinite_width.given_vectors`.

A gradient g of φ(y) that is independent of the forward pass has covariances G over the batch. With f = φ′(z − mean),
h = φ(z − mean), the gradient before BN is, without its mean over the batch,

    g_z = (f g − (z − mean) ⟨h, g⟩/(B (s² + ε)))/√(s² + ε)

for slopes α and β. Its covariances are integrals over t of means over v ~ N(0, A_t), which integration by parts gives:

    E g_z g_zᵀ = X_1 − (X_2 + X_2ᵀ)/B + X_3/B²,    N = E f fᵀ,    M = G∘N + diag(Σ_k G_ik K_ik)
    X_1 = ∫ G∘N,    X_2 = ∫ t M A_t,    X_3 = ∫ t² (A_t M A_t + ½ ⟨A_t, M⟩ A_t)
    N_ik = (α−β)² P(v_i, v_k > 0) + αβ,    K_ik = E φ″(v_i) φ(v_k) = (α−β)² √(q_k (1 − ρ²)/q_i)/2π
"""

from __future__ import annotations

import math

import numpy as np

from bntheory.growth.backward import covariances
from bntheory.growth.backward.gradient_rows import Gradient, scaled
from bntheory.growth.infinite_width.given_vectors import NEGLIGIBLE, TIMES, Divided

MOST_NUMBERS = 2**17  # of nodes times pairs at a time
ENDED = 3.0  # of logarithms of weights: an integral whose last one is no less below the largest is infinite


def pulled_back(gradient: Gradient, divided: Divided, slopes: tuple[float, float], log_factor: float) -> Gradient:
    """Before BN, from the gradient of φ(y); infinite where E 1/s² is: of fewer than three modes, without ε."""
    root = np.sqrt(gradient.points)
    given = (gradient.links or covariances.diagonal(len(root)))[0] * root[:, None] * root
    if divided.log_weights[-1] > divided.log_weights.max() - ENDED:
        moments, log_factor = np.eye(len(root)), math.inf
    else:
        moments = _covariances(given, divided, slopes)
    gamma = np.maximum(np.diagonal(moments), 0)
    size = np.sqrt(np.where(gamma > 0, gamma, 1))
    links = moments / size[:, None] / size
    np.fill_diagonal(links, 1)
    log_scale = gradient.log_scale + log_factor - divided.log_scale
    return scaled(Gradient(gamma, log_scale, (links, None), evenness=gradient.evenness), 1.0)


def _covariances(given: np.ndarray, divided: Divided, slopes: tuple[float, float]) -> np.ndarray:
    """E g_z g_zᵀ at E s² + ε = 1."""
    kept = np.flatnonzero(divided.log_weights > divided.log_weights.max() - NEGLIGIBLE)
    many, total = max(1, MOST_NUMBERS // given.size), np.zeros_like(given)
    for start in range(0, len(kept), many):
        total += _integrated(given, divided, slopes, kept[start : start + many])
    total -= total.mean(axis=0)
    total -= total.mean(axis=1, keepdims=True)
    return (total + total.T) / 2


def _integrated(given: np.ndarray, divided: Divided, slopes: tuple[float, float], nodes: np.ndarray) -> np.ndarray:
    """What some nodes of t contribute to X_1 − 2 X_2/B + X_3/B²."""
    weight, axes = np.exp(divided.log_weights[nodes]), divided.modes[1]
    time = TIMES[nodes] * divided.share / len(given)
    a = (axes * divided.damped(TIMES[nodes])[:, None, :]) @ axes.T
    m, kinks = _slopes(given, a, slopes)
    result = np.tensordot(weight, m, axes=1) - np.diag(weight @ kinks)
    product, own = m @ a, 0.5 * np.einsum("tij,tij->t", m, a)
    result -= np.tensordot(2 * weight * time, product, axes=1)
    result += np.tensordot(weight * time**2 * own, a, axes=1)
    return result + np.tensordot(a * (weight * time**2)[:, None, None], product, axes=((0, 2), (0, 1)))


def _slopes(given: np.ndarray, a: np.ndarray, slopes: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """M, and what of its diagonal comes from the kink of φ, at every node."""
    jump, product = (slopes[0] - slopes[1]) ** 2 / (2 * math.pi), slopes[0] * slopes[1]
    root = np.sqrt(np.diagonal(a, axis1=1, axis2=2))
    inverse = covariances.inverse(root)
    cosine = np.clip(a * inverse[:, :, None] * inverse[:, None, :], -1, 1)
    np.einsum("tii->ti", cosine)[...] = 1
    kinks = jump * inverse * np.einsum("tik,tk->ti", np.sqrt(1 - cosine**2) * given, root)
    m = (jump * (math.pi - np.arccos(cosine)) + product) * given
    np.einsum("tii->ti", m)[...] += kinks
    return m, kinks
