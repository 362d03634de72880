"""A root file in conf/ and command-line overrides, composed to plain values by Hydra's grammar and defaults lists.

Hydra says which files take part, in which order and where (`ConfigLoader.compute_defaults_list`); they are merged here,
so that what is merged is also what `--origin` reports. Problems are collected rather than raised one at a time, and
unknown keys pass: the strict decoder names them all, with what was meant.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dist_plm.cli.from_hf import is_chosen, with_sizes
from dist_plm.config.decode import MISSING, flatten, show
from dist_plm.config.origins import Layer
from dist_plm.config.suggest import OTHER_NAMES, did_you_mean, near, suggest
from dist_plm.core.errors import ConfigError
from dist_plm.core.parsing import load_yaml, read_text

CONF = Path(__file__).resolve().parents[2] / "conf"
COMMAND_LINE = "command line"
#: The group whose files set values anywhere.
EXPERIMENT = "experiment"

#: Of each pair one value is given; the one that a later layer gives takes the place of the other in earlier ones.
ALTERNATIVES = (("schedule.warmup_steps", "schedule.warmup_ratio"),)


@dataclass(slots=True)
class Composition:
    """Plain values (interpolations resolved, nothing checked), the layers they were merged from, the problems so far.

    `spoken_of` are the keys that a problem already names, so that nobody else need say that they are missing."""

    values: dict[str, Any] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    spoken_of: list[str] = field(default_factory=list)

    def refuse(self, key: str, problem: str) -> None:
        self.problems.append(problem)
        self.spoken_of.append(key)


def groups_of(config_name: str, conf: Path = CONF) -> dict[str, str | None]:
    """The groups that a root file and those it builds on compose, with the choice made in each, in their order."""
    groups: dict[str, str | None] = {}
    for entry in _read(conf / f"{config_name}.yaml").get("defaults") or []:
        if isinstance(entry, Mapping):
            groups.update(entry)
        elif entry != "_self_":
            groups.update(groups_of(entry, conf))
    return groups


def choices_of(group: str, conf: Path = CONF) -> list[str]:
    """The files of a group, by name."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def compose(config_name: str, overrides: Sequence[str], conf: Path = CONF) -> Composition:
    """Composes `conf`/`config_name`.yaml with Hydra overrides.

    Raises:
        ConfigError: where the files themselves cannot be composed, so that there are no values to speak of.
        CheckpointError: a directory of Hugging Face that is to tell the model's sizes does not.
    """
    composition = Composition()
    try:
        chosen, values = _sort_overrides(overrides, groups_of(config_name, conf), config_name, conf, composition)
        layers = _file_layers(config_name, chosen, conf)
        config = _merge([layer.values for layer in layers])
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError([*composition.problems, f"conf/ cannot be composed: {_one_line(error)}"]) from error
    given = _apply(values, config, composition.problems)
    if is_chosen(layers):
        layers = with_sizes(layers, _text_at("model.init_from", config))
        config = _merge([layer.values for layer in layers])
        given = _apply(values, config, [])  # again, over the sizes
    composition.layers = [*layers, given]
    _resolve(config, composition)
    return composition


def _sort_overrides(
    overrides: Sequence[str], groups: Mapping[str, str | None], config_name: str, conf: Path, composition: Composition
) -> tuple[list[str], list[Override]]:
    """Overrides that choose files, rewritten for Hydra, and those that set values; the others become problems."""
    chosen: list[str] = []
    values: list[Override] = []
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            if not override.key_or_group:
                raise OverrideParseException(text, "a key is missing")
        except OverrideParseException:
            composition.refuse(text.partition("=")[0].lstrip("+~"), _syntax_problem(text))
            continue
        problem = _problem_of(override, groups, config_name, conf)
        if problem is not None:
            composition.refuse(override.key_or_group, problem)
        elif override.key_or_group in groups and not isinstance(override.value(), dict):
            # A prefix of + or ++ asks Hydra for leave to add; here the schema decides what may be set.
            chosen.append(text if override.is_delete() else text.lstrip("+"))
        else:
            values.append(override)
    return chosen, values


def _problem_of(override: Override, groups: Mapping[str, str | None], config_name: str, conf: Path) -> str | None:
    """What is wrong with an override before any file is read."""
    key, value, text = override.key_or_group, override.value(), override.input_line
    if override.is_hydra_override() or key == "hydra":
        return f"{text}: Hydra's own settings do nothing here; a run's directory is run.dir, or run.root and run.name"
    if override.is_sweep_override():
        quoted = f"{key}='\"{override.get_value_string()}\"'"
        return (
            f"{text} gives several values, a run takes one: for a list write {key}=[…], for text with a comma "
            f"{quoted}, for a sweep start one run a value"
        )
    if override.package is not None or "/" in key:
        return f"{text} is not of the form group=choice or group.key=value{did_you_mean(_near_groups(key, groups))}"
    if key in groups and not isinstance(value, dict):
        return _group_problem(override, groups, conf)
    if key not in groups and "." not in key and not isinstance(value, dict) and not override.is_delete():
        if (conf / key).is_dir():
            return f"{text}: {key} is not a group of {config_name}, whose groups are {', '.join(groups)}"
        found = _near_groups(key, groups)
        if found and isinstance(value, str):
            return f"{text}: {key} is not a group{did_you_mean([f'{g}={value}' for g in found])}"
    return None


def _group_problem(override: Override, groups: Mapping[str, str | None], conf: Path) -> str | None:
    group, value = override.key_or_group, override.value()
    names = choices_of(group, conf)
    if override.is_delete() or (value is None and groups[group] is None):
        return None
    for name in value if isinstance(value, list) else [value]:
        if name not in names:
            return (
                f"{group} = {show(name)} is not a choice{did_you_mean(near(str(name), names))}; "
                f"conf/{group} has {', '.join(names)}"
            )
    return None


def _near_groups(key: str, groups: Mapping[str, str | None]) -> list[str]:
    key = re.split(r"[/@]", key)[0]
    named = [name for name in OTHER_NAMES.get(key.replace("_", ""), ()) if name in groups]
    return named or near(key, groups, cutoff=0.7)


def _syntax_problem(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        return f"{text} is not of the form key=value"
    if not re.fullmatch(r"(\+\+?|~)?\w[\w-]*([./@:]\w[\w-]*)*", key):
        return f"{text} begins with no name of a setting: names look like optim.lr"
    if value.startswith("~"):
        return f"{text} begins with ~, which only a shell replaces, and not here: write {key}=$HOME{value[1:]}"
    return f"""{text} cannot be read: text with blanks or signs needs quotes of its own, as in '{key}="{value}"'"""


def _file_layers(config_name: str, chosen: list[str], conf: Path) -> list[Layer]:
    with initialize_config_dir(str(conf), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        defaults = loader.compute_defaults_list(config_name, chosen, RunMode.RUN).defaults
    layers: list[Layer] = []
    before: tuple[str, str] | None = None
    for default in defaults:
        path, package = default.config_path, default.package or ""
        if path is None or path.startswith("hydra/"):
            continue
        content = _read(conf / f"{path}.yaml")
        content.pop("defaults", None)
        if package == EXPERIMENT:
            raise ValueError(f"conf/{path}.yaml has to begin with the line: # @package _global_")
        place = (path.rpartition("/")[0], package)
        if place == before and package:  # several choices of one group, as in track=[wandb,tensorboard]
            _extend_lists(layers[-1].values[package], content)
        before = place
        layer = _merge([_nest(package, content)])
        _replace_alternatives(layer, layer)
        layers.append(Layer(f"conf/{path}.yaml", _plain(layer)))
    return layers


def _read(path: Path) -> dict[str, Any]:
    """A file of conf/, as OmegaConf would read it, yet within bounds."""
    content = load_yaml(read_text(path), str(path), plain_exponents=True)
    return {} if content is None else _plain(OmegaConf.create(content))


def _extend_lists(before: Mapping[str, Any], content: dict[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, list) and isinstance(before.get(name), list):
            content[name] = before[name] + [v for v in value if v not in before[name]]


def _merge(mappings: Sequence[Any]) -> DictConfig:
    config = OmegaConf.merge(*mappings)
    assert isinstance(config, DictConfig)
    return config


def _apply(overrides: Sequence[Override], config: DictConfig, problems: list[str]) -> Layer:
    """Applies overrides of values to `config` in their order, each for itself."""
    given = OmegaConf.create({})
    for override in overrides:
        key, value = override.key_or_group, override.value()
        try:
            if override.is_delete():
                if not _delete(config, key):
                    hint = did_you_mean(suggest(key, list(flatten(_plain(config)))))
                    problems.append(f"~{key} takes back nothing: no file sets {key}{hint}")
                _delete(given, key)
            else:
                OmegaConf.update(config, key, value, merge=True, force_add=True)
                whole = _list_above(config, key)
                OmegaConf.update(
                    given, whole or key, OmegaConf.select(config, whole) if whole else value, force_add=True
                )
        except OmegaConfBaseException as error:
            problems.append(f"{override.input_line} cannot be applied: {_one_line(error)}")
    _replace_alternatives(given, config)
    _replace_alternatives(given, given)
    return Layer(COMMAND_LINE, _plain(given))


def _list_above(config: DictConfig, key: str) -> str | None:
    """The key of the list that `key` is an item of, or lies in: as a value it is the whole list that was set."""
    names = key.split(".")
    above = (".".join(names[:depth]) for depth in range(1, len(names)))
    return next((k for k in above if isinstance(OmegaConf.select(config, k), ListConfig)), None)


def _delete(config: DictConfig, key: str) -> bool:
    """Takes a key out, so that the schema's default holds; False where it is not set."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig) or name not in node:
        return False
    del node[name]
    return True


def _replace_alternatives(layer: DictConfig, config: DictConfig) -> None:
    """Takes back in `config` what `layer` leaves out while it gives the alternative."""
    given = flatten(_plain(layer))
    for this, other in (pair for a, b in ALTERNATIVES for pair in ((a, b), (b, a))):
        if given.get(this) is not None and other not in given:
            OmegaConf.update(config, other, None, force_add=True)


def _plain(node: Any, *, resolve: bool = False) -> dict[str, Any]:
    content = OmegaConf.to_container(node, resolve=resolve)
    if not isinstance(content, dict):
        raise ValueError(f"settings need names, not a list: {content}")
    return {str(name): value for name, value in content.items()}


def _nest(key: str, value: Any) -> Any:
    for name in reversed(key.split(".") if key else []):
        value = {name: value}
    return value


def _resolve(config: DictConfig, composition: Composition) -> None:
    """Sets the plain values; an interpolation that leads nowhere becomes a problem and a missing value."""
    for key, value in flatten(_plain(config)).items():
        if "${" in show(value):
            try:
                OmegaConf.to_container(OmegaConf.create([OmegaConf.select(config, key)]), resolve=True)
            except OmegaConfBaseException as error:
                composition.refuse(key, f"{key} = {show(value)} cannot be resolved: {_one_line(error)}")
                OmegaConf.update(config, key, MISSING)
    composition.values = _plain(config, resolve=True)


def _text_at(key: str, config: DictConfig) -> str | None:
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{key} cannot be resolved: {_one_line(error)}"]) from error
    return None if value is None else str(value)


def _one_line(error: BaseException) -> str:
    """The message of an error of Hydra, OmegaConf or YAML, without its hints on their own objects."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join(
        line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_"))
    )
