"""Overrides of values, applied to what the files of conf/ say."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dist_plm.config.decode import flatten, show
from dist_plm.config.origins import Layer
from dist_plm.config.suggest import did_you_mean, suggest
from dist_plm.core.errors import reason_of

COMMAND_LINE = "command line"

#: Of each pair one value is given; the one that a later layer gives takes the place of the other in earlier ones.
ALTERNATIVES = (("schedule.warmup_steps", "schedule.warmup_ratio"),)


def apply(overrides: Sequence[Override], config: DictConfig, problems: list[str]) -> Layer:
    """Applies overrides of values to `config` in their order, each for itself."""
    given = OmegaConf.create({})
    for override in overrides:
        key, value = override.key_or_group, override.value()
        try:
            if override.is_delete():
                found = _deletion_problems(override, config)
                problems += found
                for layer in () if found else (config, given):
                    _delete(layer, key)
            else:
                OmegaConf.update(config, key, value, merge=True, force_add=True)
                whole = _list_above(config, key)
                OmegaConf.update(
                    given, whole or key, OmegaConf.select(config, whole) if whole else value, force_add=True
                )
        except OmegaConfBaseException as error:
            problems.append(f"{override.input_line} cannot be applied: {one_line(error)}")
        except (ValueError, TypeError, AttributeError, AssertionError) as error:  # OmegaConf's own, of items of lists
            above = _list_above(config, key)
            told = f"names no item: {above} is a list, write it whole in []" if above else f"cannot be applied: {error}"
            problems.append(f"{override.input_line} {told}")
    replace_alternatives(given, config)
    replace_alternatives(given, given)
    return Layer(COMMAND_LINE, plain(given))


def _list_above(config: DictConfig, key: str) -> str | None:
    """The key of the list that `key` is an item of, or lies in: as a value it is the whole list that was set."""
    names = key.split(".")
    above = (".".join(names[:depth]) for depth in range(1, len(names)))
    return next((k for k in above if isinstance(OmegaConf.select(config, k), ListConfig)), None)


def _deletion_problems(override: Override, config: DictConfig) -> list[str]:
    """Why `~key` or `~key=value` cannot take back what a file sets."""
    key = override.key_or_group
    node, name = _node_of(config, key)
    if node is None:
        hint = did_you_mean(suggest(key, list(flatten(plain(config)))))
        return [f"~{key} takes back nothing: no file sets {key}{hint}"]
    found, value = plain(OmegaConf.create({"it": node}))["it"][name], override.value()
    if "=" in (override.input_line or "") and (found != value or isinstance(found, bool) != isinstance(value, bool)):
        return [
            f"{override.input_line} takes back nothing: {key} is {show(found)}, not {show(value)}; write ~{key} alone"
        ]
    return []


def _delete(config: DictConfig, key: str) -> None:
    """Takes a key out, so that the schema's default holds."""
    node, name = _node_of(config, key)
    if node is not None:
        del node[name]


def _node_of(config: DictConfig, key: str) -> tuple[DictConfig | None, str]:
    """Finds the node that holds `key`, None where nothing does, and the key's name in it."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return (node, name) if isinstance(node, DictConfig) and name in node else (None, name)


def replace_alternatives(layer: DictConfig, config: DictConfig) -> None:
    """Takes back in `config` what `layer` leaves out while it gives the alternative."""
    given = flatten(plain(layer))
    for this, other in (pair for a, b in ALTERNATIVES for pair in ((a, b), (b, a))):
        if given.get(this) is not None and other not in given:
            OmegaConf.update(config, other, None, force_add=True)


def plain(node: Any, *, resolve: bool = False) -> dict[str, Any]:
    content = OmegaConf.to_container(node, resolve=resolve)
    if not isinstance(content, dict):
        raise ValueError(f"settings need names, not a list: {content}")
    return {str(name): value for name, value in content.items()}


def one_line(error: BaseException) -> str:
    """The message of an error of Hydra, OmegaConf or YAML, without its hints on their own objects."""
    if isinstance(error, OSError | RecursionError) or "set_int_max_str_digits" in str(error):
        return reason_of(error)
    text = str(error) or str(error.__cause__ or type(error).__name__)
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join(
        line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_"))
    )
