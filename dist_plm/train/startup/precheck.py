"""The checkpoint that a run begins with, looked at before it starts."""

from dataclasses import replace
from pathlib import Path

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.checkpoint.ownership import check_free
from dist_plm.checkpoint.storage import open_storage
from dist_plm.data.sampling.blend import Dataset
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.models.build import whole_shard_specs
from dist_plm.models.sharding import ShardSpec
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.schema import ModelConfig, SamplesConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.train.opening.expected_position import resumes_own
from dist_plm.train.startup.lease import owner_of
from dist_plm.train.startup.load_weights import check_adapters, check_fit, of_checkpoint
from dist_plm.train.startup.resume import check_stream, find_at, init_from_remedies, stream_of, takes_weights_alone


def check_checkpoint(
    train: TrainConfig,
    model: ModelConfig,
    data: SamplesConfig,
    objective: ObjectiveConfig,
    dataset: Dataset | None,
    *,
    run_dir: Path,
    checkpoints: str,
) -> None:
    """Sees to it that a finalised run which begins with the checkpoint at train.resume=PATH or train.init_from can: that it is
    there, complete and of its model, and where it is resumed of its stream of samples. In one process, from what the files
    say of themselves: values are neither read nor verified. A run that goes on from a checkpoint of its own needs none.

    Args:
        dataset: of the run's training samples; None where the data are not here, and then they are not compared.
        checkpoints: path or URL of the run's own.
    Raises:
        CheckpointError: it cannot.
    """
    resume, path, own = train.resume, train.init_from, open_storage(checkpoints)
    check_free(own, owner_of(run_dir))
    if resumes_own(resume, own):
        return
    if resume not in ("auto", "none"):
        found = find_at(resume, own, None, verify=False)
        if found.is_weights_only:
            check_fit(of_checkpoint(found), model, tokenizer_store(data), _shard_specs(found, model), None)
            return
        stream = stream_of(data, objective, train, dataset)
        check_stream(found, model, objective, stream, allow_change=data.allow_change)
        found.check_model(_shard_specs(found, model), None)
    elif path is not None:
        with init_from_remedies(path):
            found = find_at(path, own, None, verify=False)
            if takes_weights_alone(found, model):
                check_fit(of_checkpoint(found), model, tokenizer_store(data), _shard_specs(found, model), None)
            else:
                check_adapters(found.where, found.weights, model)
                found.check_model(_shard_specs(found, model), None)


def _shard_specs(found: Checkpoint, model: ModelConfig) -> list[ShardSpec]:
    """Builds the shard specs of the run's whole model; with the vocabulary of the checkpoint where only data tell it that
    are not here."""
    if model.vocab_size is None:
        rows, *_ = found.weights.get("embedding.word.weight", (1,))
        model = replace(model, vocab_size=rows)
    return whole_shard_specs(model)
