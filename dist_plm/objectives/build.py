"""Chooses the objective that a configuration names."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dist_plm.core.errors import ConfigError
from dist_plm.objectives.base import Objective
from dist_plm.objectives.causal import Causal
from dist_plm.objectives.corruption.fill_in_the_middle import MiddleFilling
from dist_plm.objectives.corruption.word_segmenter import WordSegmenter
from dist_plm.objectives.mlm import MaskedLanguageModel, build_masking
from dist_plm.objectives.mlm_pairs import MaskedPairs
from dist_plm.objectives.rtd import ReplacedTokenDetection
from dist_plm.objectives.span_corruption import SpanCorruption, SpanCounts, longest_window
from dist_plm.objectives.special_tokens import SpecialTokens
from dist_plm.spec.schema import ObjectiveConfig

#: The special tokens that objectives cannot do without.
NEEDED = {
    "causal": (),
    "mlm": ("mask",),
    "mlm_nsp": ("mask", "cls", "sep", "pad"),
    "mlm_sop": ("mask", "cls", "sep", "pad"),
    "rtd": ("mask",),
    "span": ("eos", "pad"),
}


def build_objective(
    config: ObjectiveConfig,
    special: SpecialTokens | None = None,
    *,
    seed: int | None = None,
    sequence_length: int | None = None,
) -> Objective[Any]:
    """The objective of a configuration.

    Args:
        special: of the data's tokenizer; None where it is not known, which serves only plain causal modelling.
        seed: of the run; needed wherever something is drawn.
        sequence_length: of the model's input; needed for pairs and spans.
    Raises:
        ConfigError: the tokenizer lacks a special token that the objective needs.
    """
    problems = list(_problems(config, special, sequence_length))
    if problems:
        raise ConfigError(problems)
    if config.name == "causal" and config.fim_rate == 0:
        return Causal(config)
    assert special is not None
    assert seed is not None
    if config.name == "causal":
        return Causal(config, MiddleFilling(seed, config.fim_rate, config.fim_spm_rate, special))
    if config.name == "span":
        return SpanCorruption(config, special, seed)
    masking, segmenter = build_masking(config, special, seed), _segmenter(config, special)
    special = replace(special, pieces=None)  # no worker needs them any more
    if config.name == "mlm":
        return MaskedLanguageModel(config, special, masking, segmenter)
    if config.name == "rtd":
        return ReplacedTokenDetection(config, special, masking, segmenter)
    assert sequence_length is not None
    return MaskedPairs(config, special, masking, sequence_length, segmenter)


def _segmenter(config: ObjectiveConfig, special: SpecialTokens) -> WordSegmenter | None:
    if config.word_segmenter is None:
        return None
    assert special.pieces is not None
    assert special.continues is not None
    return WordSegmenter.of(special.pieces, special.continues)


def _problems(config: ObjectiveConfig, special: SpecialTokens | None, sequence_length: int | None) -> Iterator[str]:
    needed = NEEDED[config.name]
    if config.fim_rate > 0:
        needed = (*needed, "fim_prefix", "fim_suffix", "fim_middle")
    if not needed:
        return
    objective = f"objective.name = {config.name!r}"
    if special is None:
        yield (
            f"{objective} needs special tokens ({', '.join(needed)}), but nothing is known of the data's tokenizer: "
            "give data.path a store that prepare_data wrote"
        )
        return
    missing = [name for name in needed if getattr(special, name) is None]
    if missing:
        yield (
            f"{objective} needs special tokens that the data's tokenizer does not have ({', '.join(missing)}): prepare "
            "the data with a tokenizer that has them, or choose another objective"
        )
    if config.mask_units != "tokens" and special.continues is None:
        yield (
            f"objective.mask_units = {config.mask_units!r} needs a tokenizer that marks where words begin, which the "
            "data's does not: set objective.mask_units=tokens, or prepare the data with another tokenizer"
        )
    if config.word_segmenter is not None:
        yield from _segmenter_problems(special)
    if config.name == "span":
        assert sequence_length is not None
        yield from _span_problems(config, sequence_length, len(special.sentinels))


def _segmenter_problems(special: SpecialTokens) -> Iterator[str]:
    if special.pieces is None:
        yield (
            "objective.word_segmenter = 'jieba' reads the text of tokens, but those of the data's tokenizer are bytes: "
            "prepare the data with tokenizer=wordpiece or unigram, or set objective.word_segmenter=null"
        )


def _span_problems(config: ObjectiveConfig, sequence_length: int, num_sentinels: int) -> Iterator[str]:
    window = longest_window(sequence_length, config.mask_rate, config.mean_span)
    counts = SpanCounts.of(window, config.mask_rate, config.mean_span)
    settings = (
        f"data.sequence_length = {sequence_length} with objective.mask_rate = {config.mask_rate:g} and "
        f"objective.mean_span = {config.mean_span:g}"
    )
    if counts.inputs != sequence_length:
        yield f"{settings} has no room for text between so many spans: lengthen the spans, or lower the rate"
    elif counts.spans > num_sentinels:
        yield (
            f"{settings} makes {counts.spans} spans a sample, but the data's tokenizer has {num_sentinels} sentinels: "
            "lengthen the spans, lower the rate, or prepare data with more sentinels"
        )
