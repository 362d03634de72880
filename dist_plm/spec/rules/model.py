"""Checks that the sizes of the network fit each other, its data and its objective."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from dist_plm.config.decode import show
from dist_plm.spec.derived import Case
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.families.tensors import head_of, tensors_of
from dist_plm.spec.freezing import freeze_problems, frozen_tensors
from dist_plm.spec.objectives import objectives_of
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks import tasks_of


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
    if model.has_position_table and length > model.max_positions:
        yield (
            f"data.sequence_length = {length} exceeds model.max_positions = {model.max_positions}, the length of its "
            f"table of {model.position} positions: raise model.max_positions, or shorten data.sequence_length"
        )
    if model.position != "rotary":
        yield from no_effect(model, "model", ("rotary_base",), f"model.position = {model.position!r}")
    if model.position == "relative" and not model.has_relative_positions:
        yield f"model.position = 'relative' is T5's, but model.family = {model.family!r}: choose another model.position"
    if not model.has_position_table:
        yield from no_effect(model, "model", ("position_offset",), f"model.position = {model.position!r}")


def _vocabulary(case: Case) -> Iterator[str]:
    given, train = case.given.model, case.given.train
    size, begins = given.vocab_size, given.init_from is not None or train.init_from is not None
    if given.new_rows is not None and not begins:
        yield (
            f"model.new_rows = {given.new_rows!r} has no effect on a run that begins with no weights: leave it out, or give "
            "model.init_from or train.init_from"
        )
    elif given.new_rows is not None and train.init_from is not None and train.init_optimizer != "none":
        yield (
            f"train.init_optimizer = {train.init_optimizer!r} has no moments for the rows of model.new_rows: set "
            "train.init_optimizer=none"
        )
    elif given.new_rows is None and size is not None and case.vocab_size is not None and size < case.vocab_size:
        grow = ", or give tokens that the weights lack rows of their own with model.new_rows=mean" if begins else ""
        yield (
            f"model.vocab_size = {size} is smaller than the data's vocabulary of {case.vocab_size}: "
            f"raise it, or leave it out (model.vocab_size=null) to take the data's{grow}"
        )


def _objective(case: Case) -> Iterator[str]:
    model, objective = case.config.model, case.config.objective
    if not objective.suits(model):
        names = tasks_of(model) if objective.section == "task" else objectives_of(model)
        choices = " or ".join(f"{objective.section}={name}" for name in names)
        families = ", ".join(family for family, other in FAMILIES.items() if objective.suits(other))
        yield (
            f"model.family = {model.family!r} does not learn from {objective.told}: choose {choices}, or a model of family "
            f"{families}"
        )


def _head(case: Case) -> Iterator[str]:
    given, model = case.given.model, case.config.model
    defaults = {field.name: field.default for field in fields(given)}
    for name in ("head", "num_labels"):
        value, derived = getattr(given, name), getattr(model, name)
        if value not in (derived, defaults[name]):
            learned = f"this {case.config.objective.section}"
            yield f"model.{name} = {show(value)} is {show(derived)} with {learned}: leave it out, as it follows from that"


def _lora(case: Case) -> Iterator[str]:
    model = case.config.model
    if model.lora is None or not case.config.objective.suits(model):  # it has no such head, see `_objective`
        return
    names = {
        one.name.rpartition(".")[0].rpartition(".")[2]
        for one in tensors_of(replace(model, vocab_size=model.vocab_size or 1))
    }
    if missing := [target for target in model.lora.targets if target not in names]:
        yield f"model.lora.targets has {', '.join(missing)}, which this model's layers do not have: leave it out"
    if not model.lora.targets:
        yield "model.lora.targets is empty, so that there are no adapters: name some, as in [query,value]"
    if case.config.precision.in_8_bits:
        yield "model.lora is not supported with precision=fp8: choose precision=bf16"


def _trained(case: Case) -> Iterator[str]:
    model, freeze = case.config.model, case.config.train.freeze
    if not case.config.objective.suits(model):  # it has no such head, see `_objective`
        return
    model = replace(model, vocab_size=model.vocab_size or 1)
    wrong = list(freeze_problems(model, freeze))
    yield from wrong
    every = case.config.train.unfreeze_every
    if every and not wrong:
        frozen = frozen_tensors(model, freeze)
        if all(one.depth <= model.top for one in tensors_of(model) if one.name not in frozen):
            yield (
                f"train.unfreeze_every = {every} begins with what lies above the layers, and nothing of that is trained here "
                "(train.freeze, model.lora, or tied embeddings): leave it out"
            )
    if wrong or case.config.optim.head_lr is None:
        return
    head = head_of(model)
    if not head:
        reason = "model.tied_embeddings = true, where the head has no weights of its own"
        yield from no_effect(case.config.optim, "optim", ("head_lr",), reason)
    elif head <= frozen_tensors(model, freeze):
        yield from no_effect(case.config.optim, "optim", ("head_lr",), "a head that train.freeze or model.lora freezes")


def _family(case: Case) -> Iterator[str]:
    yield from case.config.model.problems(case.config)


def _pipeline(case: Case) -> Iterator[str]:
    model, pipeline = case.config.model, case.config.parallel.pipeline
    if pipeline > 1 and not model.is_chain:
        yield (
            f"parallel.pipeline = {pipeline} is not supported with model.family = {model.family!r}, whose two networks do not "
            "make one chain of layers: set parallel.pipeline=1, and raise parallel.tensor instead"
        )


def _init_from(case: Case) -> Iterator[str]:
    model = case.config.model
    yield from path_problems("model.init_from", model.init_from)
    if model.init_from is not None and case.config.train.init_from is not None:
        yield "model.init_from and train.init_from are both set, and a run begins with the weights of one: leave one out"
    if model.init_from is not None and not model.is_in_hugging_face:
        yield f"model.init_from is set, but Hugging Face has no model of model.family = {model.family!r}: leave it out"


MODEL_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (
    _heads,
    _positions,
    _vocabulary,
    _objective,
    _head,
    _lora,
    _trained,
    _family,
    _pipeline,
    _init_from,
)
