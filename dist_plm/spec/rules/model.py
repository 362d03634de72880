"""Checks that the sizes of the network fit each other, its data and its objective."""

from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.spec.derived import ENCODER_DECODERS, ENCODERS, Case
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import no_effect


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
    if model.position != "relative":
        names = ("relative_buckets", "relative_distance")
        yield from no_effect(model, "model", names, f"model.position = {model.position!r}")
    elif model.family != "t5":
        yield f"model.position = 'relative' is T5's, but model.family = {model.family!r}: choose another model.position"
    if model.position not in ("learned", "sinusoidal"):
        yield from no_effect(model, "model", ("position_offset",), f"model.position = {model.position!r}")


def _vocabulary(case: Case) -> Iterator[str]:
    size = case.given.model.vocab_size
    if size is not None and case.vocab_size is not None and size < case.vocab_size:
        yield (
            f"model.vocab_size = {size} is smaller than the data's vocabulary of {case.vocab_size}: "
            "raise it, or leave it out (model.vocab_size=null) to take the data's"
        )


#: What each family learns from.
OBJECTIVES = {
    "gpt": ("causal",),
    "bert": ("mlm", "mlm_nsp", "mlm_sop"),
    "roberta": ("mlm",),
    "electra": ("rtd",),
    "t5": ("span",),
    "transformer": ("span",),
}


def _objective(case: Case) -> Iterator[str]:
    family, name = case.config.model.family, case.config.objective.name
    if name not in OBJECTIVES[family]:
        choices = " or ".join(f"objective={choice}" for choice in OBJECTIVES[family])
        families = ", ".join(other for other, names in OBJECTIVES.items() if name in names)
        yield (
            f"model.family = {family!r} does not learn from objective.name = {name!r}: choose {choices}, or a model of "
            f"family {families}"
        )


def _family(case: Case) -> Iterator[str]:
    """Settings that the family does not read."""
    given, reason = case.given.model, f"model.family = {case.given.model.family!r}"
    unread: list[str] = []
    if given.family not in ENCODERS:
        unread += ["embedding_size", "segments"]
    if given.family not in ENCODER_DECODERS:
        unread += ["decoder_layers"]
    else:
        unread += ["window"]
    if given.family != "electra":
        unread += ["generator_hidden", "generator_layers", "generator_heads", "generator_ffn"]
    if given.window == 0:
        yield from no_effect(given, "model", ["global_tokens"], "model.window = 0")
    yield from no_effect(given, "model", unread, reason)


def _pairs(case: Case) -> Iterator[str]:
    model, objective = case.config.model, case.config.objective.name
    pairs = case.config.objective.pairs is not None
    if model.family == "bert" and model.pair_head != pairs:
        needs = "needs a head for pairs" if pairs else "has no pairs to learn from"
        yield (
            f"model.pair_head = {show(model.pair_head)} does not fit objective.name = {objective!r}, which {needs}: leave "
            "it out (model.pair_head=null) to follow the objective"
        )
    elif model.family != "bert":
        yield from no_effect(case.given.model, "model", ["pair_head"], f"model.family = {model.family!r}")
    if pairs and model.segments == 1:
        yield (
            f"model.segments = 1 cannot tell the two parts of a pair of objective.name = {objective!r} apart: set "
            "model.segments=2, or 0 for no embedding of segments"
        )


def _embedding_size(case: Case) -> Iterator[str]:
    model = case.config.model
    if model.family in ("bert", "roberta") and model.embedding_size != model.hidden:
        yield (
            f"model.embedding_size = {model.embedding_size} differs from model.hidden = {model.hidden}, which "
            f"model.family = {model.family!r} does not allow: leave it out, or choose model.family=electra"
        )


def _generator(case: Case) -> Iterator[str]:
    model, tensor = case.config.model, case.config.parallel.tensor
    if model.family != "electra":
        return
    assert model.generator_hidden is not None
    assert model.generator_heads is not None
    assert model.generator_ffn is not None
    if model.generator_hidden % model.generator_heads:
        yield (
            f"model.generator_hidden = {model.generator_hidden} is not a multiple of model.generator_heads = "
            f"{model.generator_heads}: choose sizes that divide"
        )
    for key, size in (("generator_heads", model.generator_heads), ("generator_ffn", model.generator_ffn)):
        if size % tensor:
            yield (
                f"model.{key} = {size} is not a multiple of parallel.tensor = {tensor}, over which it is split: lower "
                f"parallel.tensor, or choose another model.{key}"
            )


def _pipeline(case: Case) -> Iterator[str]:
    family, pipeline = case.config.model.family, case.config.parallel.pipeline
    if pipeline > 1 and family in ("electra", *ENCODER_DECODERS):
        yield (
            f"parallel.pipeline = {pipeline} is not supported with model.family = {family!r}, whose two networks do not "
            "make one chain of layers: set parallel.pipeline=1, and raise parallel.tensor instead"
        )


def _init_from(case: Case) -> Iterator[str]:
    model = case.config.model
    yield from path_problems("model.init_from", model.init_from)
    if model.init_from is not None and case.config.train.init_from is not None:
        yield "model.init_from and train.init_from are both set, and a run begins with the weights of one: leave one out"
    if model.init_from is not None and model.family == "transformer":
        yield "model.init_from is set, but Hugging Face has no model of model.family = 'transformer': leave it out"


MODEL_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (
    _heads,
    _positions,
    _vocabulary,
    _objective,
    _family,
    _pairs,
    _embedding_size,
    _generator,
    _pipeline,
    _init_from,
)
