"""An independent GPT in plain PyTorch, written from the papers: what the library is checked against.

It reads weights by their canonical names from one flat dictionary and knows nothing of ranks, pieces or Megatron-core.
"""

import math
from functools import partial

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from tests.reference.lamb import ReferenceLamb

Weights = dict[str, Tensor]


def norm(x: Tensor, w: Weights, name: str, kind: str, eps: float) -> Tensor:
    if kind == "layernorm":
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * w[f"{name}.weight"]


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def rotate_half(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """x [B, A, S, D]: pairs (i, i + D/2) turn by position * base^(-2i/D)."""
    half = x.shape[-1] // 2
    angle = positions[:, None, :, None] * base ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def attention(x: Tensor, w: Weights, name: str, model, positions: Tensor, mask: Tensor) -> Tensor:
    batch, length, _ = x.shape
    kv_heads = model.kv_heads

    def split(part: str, heads: int) -> Tensor:
        return linear(x, w, f"{name}.{part}").view(batch, length, heads, model.head_size).transpose(1, 2)

    q, k, v = split("query", model.heads), split("key", kv_heads), split("value", kv_heads)
    if model.position == "rotary":
        q, k = rotate_half(q, positions, model.rotary_base), rotate_half(k, positions, model.rotary_base)
    k, v = (t.repeat_interleave(model.heads // kv_heads, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(model.head_size)
    mixed = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
    return linear(mixed.transpose(1, 2).reshape(batch, length, -1), w, f"{name}.output")


def mlp(x: Tensor, w: Weights, name: str, model) -> Tensor:
    up = linear(x, w, f"{name}.up")
    if model.activation == "swiglu":
        up = functional.silu(linear(x, w, f"{name}.gate")) * up
    elif model.activation == "relu":
        up = up.clamp(min=0)
    elif model.activation == "gelu_tanh":
        up = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    else:
        up = 0.5 * up * (1 + torch.erf(up / math.sqrt(2)))
    return linear(up, w, f"{name}.down")


def loss_of(
    w: Weights,
    model,
    tokens: Tensor,
    labels: Tensor,
    documents: Tensor | None,
    positions: Tensor,
    seen_from: Tensor | None = None,
) -> Tensor:
    """Mean negative log-likelihood over labels >= 0; tokens, labels, documents, positions, seen_from [B, S]."""
    length = tokens.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    if seen_from is not None:
        mask = torch.arange(length)[:, None] >= seen_from[:, None, None, :]
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    x = w["embedding.word.weight"][tokens]
    if model.position == "learned":
        x = x + w["embedding.position.weight"][positions]
    elif model.position == "sinusoidal":
        i = torch.arange(model.hidden, dtype=torch.float64)
        angle = positions[..., None] / 10000 ** (2 * (i // 2) / model.hidden)
        x = x + torch.where(i % 2 == 0, angle.sin(), angle.cos()).float()
    for layer in range(model.layers):
        name = f"layers.{layer}"
        normed = norm(x, w, f"{name}.attention_norm", model.norm, model.norm_eps)
        x = x + attention(normed, w, f"{name}.attention", model, positions, mask)
        x = x + mlp(norm(x, w, f"{name}.mlp_norm", model.norm, model.norm_eps), w, f"{name}.mlp", model)
    x = norm(x, w, "final_norm", model.norm, model.norm_eps)
    logits = x @ w["embedding.word.weight" if model.tied_embeddings else "output.weight"].T
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)


def train(w: Weights, config, batches: list[dict[str, Tensor]], lrs: list[float]) -> tuple[list[float], list[float]]:
    """Plain AdamW, LAMB, Adafactor or Muon with clipping on whole global batches; returns losses and gradient norms, leaves the
    weights in `w`."""
    w.update({name: tensor.clone().requires_grad_() for name, tensor in w.items()})
    makers = {"adamw": _adamw, "lamb": _lamb, "adafactor": _adafactor, "muon": partial(_muon, list(w))}
    step = makers[config.optim.name](list(w.values()), config.optim)
    losses, norms = [], []
    for batch, lr in zip(batches, lrs, strict=True):
        for tensor in w.values():
            tensor.grad = None
        default = torch.arange(batch["tokens"].shape[1]).expand_as(batch["tokens"])
        positions = batch.get("positions", default)
        masks = batch.get("documents"), positions, batch.get("seen_from")
        loss = loss_of(w, config.model, batch["tokens"], batch["labels"], *masks)
        loss.backward()
        limit = 1.0 if getattr(config.optim, "pre_normalize", False) else config.optim.clip_norm or math.inf
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(w.values()), limit)))
        losses.append(float(loss.detach()))
        step(lr)
    return losses, norms


def _adamw(weights: list[Tensor], optim):
    decayed = [t for t in weights if t.dim() > 1]
    plain = [t for t in weights if t.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, foreach=False, fused=False)

    def step(lr: float) -> None:
        for group in adamw.param_groups:
            group["lr"] = lr
        adamw.step()

    return step


def _lamb(weights: list[Tensor], optim):
    return ReferenceLamb(
        weights,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        spare_vectors=not optim.adapt_norms_and_biases,
        bias_correction=optim.bias_correction,
        trust_ratio=(optim.trust_min, math.inf if optim.trust_max is None else optim.trust_max),
    ).step


def _adafactor(weights: list[Tensor], optim):
    decayed = {"params": [t for t in weights if t.dim() > 1], "weight_decay": optim.weight_decay}
    adafactor = transformers.Adafactor(
        [decayed, {"params": [t for t in weights if t.dim() <= 1], "weight_decay": 0.0}],
        lr=optim.lr,
        eps=(optim.eps, optim.min_scale),
        clip_threshold=optim.update_clip,
        decay_rate=-optim.beta2_decay,
        scale_parameter=optim.scale_parameter,
        relative_step=False,
        warmup_init=False,
    )

    def step(lr: float) -> None:
        for group in adafactor.param_groups:
            group["lr"] = lr
        adafactor.step()

    return step


def _muon(names: list[str], weights: list[Tensor], optim):
    """As its authors wrote it, one matrix after the other; AdamW for what is in no layer, or no matrix."""
    hidden = [t for name, t in zip(names, weights, strict=True) if "layers" in name.split(".") and t.dim() == 2]
    rest = _adamw([t for t in weights if all(t is not h for h in hidden)], optim)
    momenta = [torch.zeros_like(t) for t in hidden]

    @torch.no_grad()
    def step(lr: float) -> None:
        rest(lr)
        for weight, momentum in zip(hidden, momenta, strict=True):
            momentum.mul_(optim.momentum).add_((1 - optim.momentum) * weight.grad)
            update = (1 - optim.momentum) * weight.grad + optim.momentum * momentum if optim.nesterov else momentum
            x = update / update.norm()
            for _ in range(optim.newton_schulz_steps):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            scale = optim.update_rms * max(weight.shape) ** 0.5
            weight.mul_(1 - lr * optim.weight_decay).sub_(lr * scale * x)

    return step
