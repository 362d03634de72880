"""Is every setting of the objective read, and is a sample long enough for it?"""

from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.spec.derived import Case
from dist_plm.spec.rules.sections import no_effect

_WINDOWS = ("causal", "mlm", "rtd")
_MASKED_PAIRS = ("mlm_nsp", "mlm_sop")
_MASKED = ("mlm", "rtd", *_MASKED_PAIRS)

#: Which objectives read a setting; those that all read are not listed.
_READERS: dict[str, tuple[str, ...]] = {
    "document_mask": _WINDOWS,
    "reset_positions": _WINDOWS,
    "fim_rate": ("causal",),
    "fim_spm_rate": ("causal",),
    "mask_rate": (*_MASKED, "span"),
    "mask_split": ("mlm", *_MASKED_PAIRS),
    "mask_units": _MASKED,
    "span_p": _MASKED,
    "span_longest": _MASKED,
    "word_segmenter": _MASKED,
    "mean_span": ("span",),
    "negative_rate": _MASKED_PAIRS,
    "short_rate": _MASKED_PAIRS,
    "pair_weight": _MASKED_PAIRS,
    "discriminator_weight": ("rtd",),
}

#: The least data.sequence_length that holds what the objective adds and two tokens of text.
_LEAST_LENGTH = {"causal": 1, "mlm": 4, "rtd": 4, "mlm_nsp": 5, "mlm_sop": 5, "span": 4}


def _unread(case: Case) -> Iterator[str]:
    objective = case.config.objective
    unread = [setting for setting, readers in _READERS.items() if objective.name not in readers]
    yield from no_effect(objective, "objective", unread, f"objective.name = {objective.name!r}")
    if objective.name in _MASKED and objective.mask_units != "spans":
        reason = f"objective.mask_units = {objective.mask_units!r}"
        yield from no_effect(objective, "objective", ("span_p", "span_longest"), reason)
    if objective.name in _MASKED and objective.mask_units == "tokens":
        yield from no_effect(objective, "objective", ("word_segmenter",), "objective.mask_units = 'tokens'")
    if objective.name == "causal" and objective.fim_rate == 0:
        yield from no_effect(objective, "objective", ("fim_spm_rate",), "objective.fim_rate = 0.0")


def _split(case: Case) -> Iterator[str]:
    split = case.config.objective.mask_split
    if abs(sum(split) - 1) > 1e-6:
        yield (
            f"objective.mask_split = {show(split)} sums to {sum(split):g}: the shares that become [MASK], become a "
            "random token, and stay must make 1 together"
        )


def _length(case: Case) -> Iterator[str]:
    name, length = case.config.objective.name, case.config.data.sequence_length
    if length < _LEAST_LENGTH[name]:
        yield (
            f"data.sequence_length = {length} is too short for objective.name = {name!r}, which adds special tokens to "
            f"the text: give at least {_LEAST_LENGTH[name]}"
        )


OBJECTIVE_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (_unread, _split, _length)
