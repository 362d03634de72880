"""Generation by Transformers itself, with the weights of a model of ours, on one process."""

from typing import Any

import torch
import transformers
from torch import Tensor

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.config_json import hf_config
from dist_plm.models.build import DTYPES
from dist_plm.spec.families import ModelConfig
from dist_plm.tasks.convert.transformers_model import be_quiet, transformers_model
from dist_plm.tasks.generate.batches import Continuation, Decoding, PromptBatch
from dist_plm.tasks.inference.open_model import Session
from dist_plm.tasks.inference.source import alike


class TransformersWriter:
    """Writes by the `generate` of a class of Transformers. Where there is none for the model, `of` gives None."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device

    @classmethod
    def of(cls, session: Session) -> "TransformersWriter | None":
        """Builds the class's model in memory. Collective over all ranks, each of which holds the whole.

        Raises:
            CheckpointError: the weights are broken.
        """
        model, weights = session.config.model, session.source.weights
        if not model.is_in_hugging_face or _lacks_room(model) or model.lora is not None:
            return None
        try:
            settings = hf_config(model, list(weights.shapes))
        except CheckpointError:  # settings that no class has
            return None
        be_quiet()
        dtype = DTYPES[session.config.precision.weights]
        built = alike(session.groups.world, lambda: transformers_model(model, weights, settings, dtype))
        device = session.groups.device.torch_device
        return cls(built.eval().to(device), device)

    @torch.inference_mode()
    def write(self, batch: PromptBatch, decoding: Decoding) -> list[Continuation]:
        """Writes answers to all rows of a batch."""
        tokens, mask = (x.to(self._device) for x in batch.padded())
        settings = transformers.GenerationConfig(
            max_new_tokens=batch.room,
            num_beams=decoding.num_beams,
            do_sample=False,  # draws are in the processors
            use_cache=True,
            eos_token_id=list(decoding.ends),
            pad_token_id=decoding.pad,
            bos_token_id=decoding.ends[0],
            decoder_start_token_id=decoding.start,
        )
        result = self._model.generate(
            tokens,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=batch.choosers(decoding),
            stopping_criteria=transformers.StoppingCriteriaList(batch.stops(decoding)),
            streamer=batch.streamer,
        )
        assert isinstance(result, Tensor)
        return batch.written(result, decoding)


def _lacks_room(model: ModelConfig) -> bool:
    """Transformers (5.24) makes its cache of a decoder as deep as the encoder."""
    decoder = max((stack.layers for stack in model.stacks() if stack.is_decoder), default=0)
    return decoder > model.layers
