"""Fills in what is masked: the most likely tokens for each mask of a text."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_plm.core.errors import ConfigError
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Filled:
    """Holds, for each mask of a text, tokens and their probabilities, the best first, and the text with the best in place."""

    number: int
    prompt: str
    masks: tuple[tuple[tuple[str, float], ...], ...]
    text: str


def masked_tokens(number: int, prompt: str, runner_limit: int | None, vocabulary: Vocabulary) -> list[int]:
    """Tokens of a text with masks, between those that frame it.

    Args:
        runner_limit: positions of the model; None where it has no table of them.
    Raises:
        ConfigError: nothing is masked in it, or it is too long.
    """
    special = vocabulary.special
    if special.mask is None:
        raise ConfigError([f"{vocabulary.where} has no token for what is masked, which a masked model needs"])
    name = vocabulary.tokenizer.pieces()[special.mask]
    inner = vocabulary.encode_marked(prompt, [special.mask])
    if special.mask not in inner:
        raise ConfigError(
            [f"prompt {prompt!r} has nothing to fill in: write {name} for what this masked model is to say"]
        )
    tokens = [*([] if special.cls is None else [special.cls]), *inner, *([] if special.sep is None else [special.sep])]
    if runner_limit is not None and len(tokens) > runner_limit:
        raise ConfigError(
            [f"prompt {number + 1} has {len(tokens):,} tokens, and the model {runner_limit:,} positions: shorten it"]
        )
    return tokens


@torch.inference_mode()
def fill(runner: Runner, vocabulary: Vocabulary, number: int, prompt: str, tokens: list[int], best: int) -> Filled:
    """Fills one text in, on every rank alike."""
    row = torch.tensor(tokens)
    places = (row == vocabulary.special.mask).nonzero()[:, 0]
    known = min(vocabulary.tokenizer.vocab_size, runner.shared.vocab_size)  # other rows stand for no text
    best = min(best, known)
    batch = {"tokens": row[None], "samples": torch.arange(1), "positions_predicted": places}
    logits = runner.run(batch)
    told = torch.empty(2, len(places), best, dtype=torch.float64, device=runner.shared.device)
    if logits is not None:
        assert isinstance(logits, Tensor)
        shares, numbers = torch.softmax(runner.whole_logits(logits), dim=-1)[:, :known].topk(best)
        told[0], told[1] = shares, numbers
    shares, numbers = runner.from_last_stage(told).tolist()
    filled = row.clone()
    filled[places] = torch.tensor([int(one[0]) for one in numbers])
    masks = tuple(
        tuple((vocabulary.decode([int(n)]).strip(), share) for n, share in zip(which, of, strict=True))
        for which, of in zip(numbers, shares, strict=True)
    )
    frame = {vocabulary.special.cls, vocabulary.special.sep}
    text = vocabulary.decode([int(t) for t in filled if int(t) not in frame]).strip()
    return Filled(number, prompt, masks, text)
