"""Finds the file of this folder for a model: by `model_type`, by our own model, or by the names of tensors."""

from collections.abc import Collection, Iterable

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.base import Half, HFModel, HFTensor
from dist_plm.interop.hf.bert import HFBert
from dist_plm.interop.hf.electra import HFElectra
from dist_plm.interop.hf.gpt2 import HFGPT2
from dist_plm.interop.hf.llama import HFLlama
from dist_plm.interop.hf.roberta import HFRoberta
from dist_plm.interop.hf.t5 import HFT5
from dist_plm.spec.schema import ModelConfig

ELECTRA = HFElectra()
#: By `model_type`.
MODELS: dict[str, HFModel] = {
    one.model_type: one for one in (HFBert(), HFRoberta(), ELECTRA, HFGPT2(), HFLlama(), HFT5())
}


def hf_model(model: ModelConfig) -> HFModel:
    """Finds the type as which Hugging Face stores a model of ours.

    Raises:
        CheckpointError: it has none for its family.
    """
    for one in MODELS.values():
        if one.stores(model):
            return one
    raise CheckpointError(f"Hugging Face has no class for model.family = {model.family!r}")


def hf_tensors(model: ModelConfig, half: Half | None = None) -> list[HFTensor]:
    """Names all tensors of a finalised model in Hugging Face's checkpoint.

    Args:
        half: one half alone of a model whose halves are models of their own there, and needed for such.
    """
    return list(hf_model(model).tensors(model, half))


def recognised(names: Collection[str]) -> HFModel | None:
    """Tells the type of a whole model from Hugging Face's names of its tensors."""
    return next((one for one in MODELS.values() if one.word in names), None)


def guessed_type(names: Iterable[str]) -> str | None:
    """Guesses the `model_type` of files without one, by how their tensors are called."""
    first = {name.partition(".")[0] for name in names}
    return next((one.model_type for one in MODELS.values() if not first.isdisjoint(one.first_names)), None)
