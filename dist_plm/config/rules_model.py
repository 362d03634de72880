"""Do the sizes of the network fit each other, its data and its objective?"""

from collections.abc import Callable, Iterator

from dist_plm.config.derived import Case
from dist_plm.config.rules_training import no_effect


def _heads(case: Case) -> Iterator[str]:
    model = case.config.model
    if case.given.model.head_size is None and model.hidden % model.heads:
        yield (
            f"model.hidden = {model.hidden} is not a multiple of model.heads = {model.heads}: "
            "choose sizes that divide, or give model.head_size"
        )
    if model.kv_heads is not None and model.heads % model.kv_heads:
        yield (
            f"model.heads = {model.heads} is not a multiple of model.kv_heads = {model.kv_heads}: each key-value "
            "head serves as many heads as the others"
        )
    if model.position == "rotary" and model.head_size is not None and model.head_size % 2:
        yield (
            f"model.position = 'rotary' turns pairs, but the head size is {model.head_size}, which is odd: "
            "choose model.hidden, model.heads or model.head_size so that it is even"
        )


def _positions(case: Case) -> Iterator[str]:
    model, length = case.config.model, case.config.data.sequence_length
    assert model.max_positions is not None
    if model.position in ("learned", "sinusoidal") and length > model.max_positions:
        yield (
            f"data.sequence_length = {length} exceeds model.max_positions = {model.max_positions}, the length of its "
            f"table of {model.position} positions: raise model.max_positions, or shorten data.sequence_length"
        )
    if model.position != "rotary":
        yield from no_effect(model, "model", ("rotary_base",), f"model.position = {model.position!r}")


def _vocabulary(case: Case) -> Iterator[str]:
    size = case.given.model.vocab_size
    if size is not None and case.vocab_size is not None and size < case.vocab_size:
        yield (
            f"model.vocab_size = {size} is smaller than the data's vocabulary of {case.vocab_size}: "
            "raise it, or leave it out (model.vocab_size=null) to take the data's"
        )


def _documents(case: Case) -> Iterator[str]:
    objective = case.config.objective
    if objective.reset_positions and not objective.document_mask:
        yield (
            "objective.reset_positions = true needs objective.document_mask=true: without the mask a token attends "
            "to the documents before its own, whose positions would then carry the same numbers"
        )
    if objective.reset_positions and case.config.model.position == "none":
        yield "objective.reset_positions = true has no effect with model.position = 'none': set it to false"


MODEL_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (_heads, _positions, _vocabulary, _documents)
