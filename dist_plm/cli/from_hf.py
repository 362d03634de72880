"""`model=from_hf`: the sizes of a directory of Hugging Face, or of the run at train.init_from, in place of a file of
conf/model/."""

from collections.abc import Sequence

from dist_plm.config.decode import encode
from dist_plm.config.origins import Layer
from dist_plm.core.errors import ConfigError
from dist_plm.interop.hf.config_json import CONFIG_FILE, described_at

#: The file that stands for such a directory.
CHOICE = "conf/model/from_hf.yaml"
#: What config.json does not tell, though a model that was read from one has it.
_UNTOLD = ("vocab_multiple", "recompute", "pair_head", "head", "num_labels", "init_from", "new_rows")


def is_chosen(layers: Sequence[Layer]) -> bool:
    return any(layer.source == CHOICE for layer in layers)


#: What a run settled itself, or what follows from the objective.
_UNTOLD_BY_RUNS = ("recompute", "pair_head", "head", "num_labels", "init_from", "new_rows")


def with_sizes(layers: Sequence[Layer], init_from: str | None, run: str | None = None) -> list[Layer]:
    """The layers, with one behind CHOICE for the sizes in the directory `init_from`, or else of the model of `run`.

    Raises:
        CheckpointError: the directory or the run does not tell them.
        ConfigError: there is none.
    """
    if init_from is None and run is not None:
        return _with_model_of(layers, run)
    if init_from is None:
        raise ConfigError(
            [
                "model=from_hf goes on from a directory of Hugging Face: give it as model.init_from=DIR, or a run whose model "
                "goes on as train.init_from=RUN"
            ]
        )
    sizes = encode(described_at(init_from)).items()
    told = {name: value for name, value in sizes if value is not None and name not in _UNTOLD}
    after = [layer.source for layer in layers].index(CHOICE) + 1
    return [*layers[:after], Layer(f"{init_from.rstrip('/')}/{CONFIG_FILE}", {"model": told}), *layers[after:]]


def _with_model_of(layers: Sequence[Layer], run: str) -> list[Layer]:
    # They bring PyTorch.
    from dist_plm.checkpoint.storage import open_storage
    from dist_plm.tasks.convert.checkpoint_model import model_of_checkpoint
    from dist_plm.train.startup.resume import find_at, init_from_remedies

    with init_from_remedies(run):
        found = find_at(run, open_storage(run), None, verify=False)
    settings = encode(model_of_checkpoint(found)).items()
    told = {name: value for name, value in settings if value is not None and name not in _UNTOLD_BY_RUNS}
    after = [layer.source for layer in layers].index(CHOICE) + 1
    return [*layers[:after], Layer(found.where, {"model": {**told, "init_from": None}}), *layers[after:]]
