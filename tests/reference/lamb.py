"""LAMB as algorithm 2 of arXiv 1904.00962 reads, tensor by tensor: what the sharded one is compared with."""

import torch
from torch import Tensor


class ReferenceLamb:
    def __init__(
        self,
        weights: list[Tensor],
        *,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.01,
        spare_vectors=True,
        bias_correction=True,
        trust_ratio=(0.0, float("inf")),
    ) -> None:
        self.weights, self.betas, self.eps, self.weight_decay = weights, betas, eps, weight_decay
        self.spare_vectors, self.bias_correction, self.trust_ratio = spare_vectors, bias_correction, trust_ratio
        self.moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
        self.t = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        self.t += 1
        beta1, beta2 = self.betas
        for w, (m, v) in zip(self.weights, self.moments, strict=True):
            g = w.grad
            m.copy_(beta1 * m + (1 - beta1) * g)
            v.copy_(beta2 * v + (1 - beta2) * g * g)
            unbiased_m, unbiased_v = m, v
            if self.bias_correction:
                unbiased_m, unbiased_v = m / (1 - beta1**self.t), v / (1 - beta2**self.t)
            r = unbiased_m / (unbiased_v.sqrt() + self.eps)
            spared = self.spare_vectors and w.dim() < 2
            direction = r if spared else r + self.weight_decay * w
            ratio = 1.0
            if not spared and w.norm() > 0 and direction.norm() > 0:
                ratio = min(max(float(w.norm() / direction.norm()), self.trust_ratio[0]), self.trust_ratio[1])
            w -= lr * ratio * direction
