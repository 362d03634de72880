"""`model=from_hf`: the sizes of a directory of Hugging Face, in place of a file of conf/model/."""

from collections.abc import Sequence

from dist_plm.config.decode import encode
from dist_plm.config.origins import Layer
from dist_plm.core.errors import ConfigError
from dist_plm.interop.hf.config import CONFIG_FILE, described_at

#: The file that stands for such a directory.
CHOICE = "conf/model/from_hf.yaml"
#: What config.json does not tell, though a model that was read from one has it.
_UNTOLD = ("vocab_multiple", "recompute", "pair_head", "head", "num_labels", "init_from")


def is_chosen(layers: Sequence[Layer]) -> bool:
    return any(layer.source == CHOICE for layer in layers)


def with_sizes(layers: Sequence[Layer], init_from: str | None) -> list[Layer]:
    """The layers, with one behind CHOICE for the sizes in the directory `init_from`.

    Raises:
        CheckpointError: the directory does not tell them.
        ConfigError: there is none.
    """
    if init_from is None:
        raise ConfigError(["model=from_hf goes on from a directory of Hugging Face: give it as model.init_from=DIR"])
    sizes = encode(described_at(init_from)).items()
    told = {name: value for name, value in sizes if value is not None and name not in _UNTOLD}
    after = [layer.source for layer in layers].index(CHOICE) + 1
    return [*layers[:after], Layer(f"{init_from.rstrip('/')}/{CONFIG_FILE}", {"model": told}), *layers[after:]]
