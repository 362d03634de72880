"""A root file in conf/ and command-line overrides, composed to plain values by Hydra's grammar and defaults lists.

Hydra says which files take part, in which order and where (`ConfigLoader.compute_defaults_list`); they are merged here,
so that what is merged is also what `--origin` reports. Problems are collected rather than raised one at a time, and
unknown keys pass: the strict decoder names them all, with what was meant.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dist_plm.cli.apply import apply, one_line, plain, replace_alternatives
from dist_plm.cli.from_hf import is_chosen, with_sizes
from dist_plm.cli.overrides import parse
from dist_plm.cli.search_path import OWN, SearchPath, overridden
from dist_plm.cluster.job import hydra_text
from dist_plm.config.credentials import mark, secrets_among
from dist_plm.config.decode import MISSING, flatten, show
from dist_plm.config.environment import EnvironmentText
from dist_plm.config.origins import Layer
from dist_plm.config.suggest import did_you_mean, near, other_names
from dist_plm.core.errors import ConfigError

#: The group whose files set values anywhere.
EXPERIMENT = "experiment"


#: Root files of pretraining, and what does the same for fine-tuning.
_OF_FINETUNING = {
    "plan": "launch/finetune.py --check … cluster.gpu=NAME prints its plan",
    "rehearse": "launch/rehearse.py task=NAME rehearses it",
}
#: A value that is an environment variable and nothing more.
_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^{}]*\}")
#: Hydra's resolver of the time.
_TIME = re.compile(r"\$\{\s*now\s*:")


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


def compose(config_name: str, overrides: Sequence[str], where: SearchPath = OWN) -> Composition:
    """Composes the root file `config_name` with Hydra overrides.

    Raises:
        ConfigError: where the files themselves cannot be composed, so that there are no values to speak of.
        CheckpointError: a directory of Hugging Face that is to tell the model's sizes does not.
    """
    composition = Composition()
    try:
        chosen, values = _sort_overrides(overrides, where.groups(config_name), config_name, where, composition)
        layers = _file_layers(config_name, chosen, where)
        config = _merge([layer.values for layer in layers])
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError([*composition.problems, f"conf/ cannot be composed: {one_line(error)}"]) from error
    given = apply(values, config, composition.problems)
    if is_chosen(layers):
        try:
            layers = with_sizes(layers, _text_at("model.init_from", config), _text_at("train.init_from", config))
        except ConfigError as error:
            raise ConfigError([*composition.problems, *error.problems]) from None
        config = _merge([layer.values for layer in layers])
        given = apply(values, config, [])  # again, over the sizes
    composition.layers = [*layers, given]
    _resolve(config, composition)
    return composition


def _sort_overrides(
    overrides: Sequence[str],
    groups: Mapping[str, str | None],
    config_name: str,
    where: SearchPath,
    composition: Composition,
) -> tuple[list[str], list[Override]]:
    """Overrides that choose files, rewritten for Hydra, and those that set values; the others become problems."""
    chosen: list[str] = []
    values: list[Override] = []
    for text in overrides:
        try:
            override = parse(text)
        except ConfigError as error:
            composition.refuse(text.partition("=")[0].lstrip("+~"), *error.problems)
            continue
        problem = _problem_of(override, groups, config_name, where)
        if problem is not None:
            composition.refuse(override.key_or_group, problem)
        elif override.key_or_group in groups and not isinstance(override.value(), dict):
            # A prefix of + or ++ asks Hydra for leave to add; here the schema decides what may be set.
            chosen.append(text if override.is_delete() else text.lstrip("+"))
        else:
            values.append(override)
    return chosen, values


def _problem_of(
    override: Override, groups: Mapping[str, str | None], config_name: str, where: SearchPath
) -> str | None:
    """Says what is wrong with an override before any file is read."""
    key, value, text = override.key_or_group, override.value(), override.input_line
    if override.is_hydra_override() or key == "hydra":
        return f"{text}: Hydra's own settings do nothing here; a run's directory is run.dir, or run.root and run.name"
    if override.is_sweep_override():
        quoted = f"{key}='\"{override.get_value_string()}\"'"
        return (
            f"{text} gives several values, a run takes one: for a list write {key}=[…], for text with a comma "
            f"{quoted}, for a run of each value add --multirun"
        )
    if override.package is not None or "/" in key:
        return f"{text} is not of the form group=choice or group.key=value{did_you_mean(_near_groups(key, groups))}"
    if key in groups and not isinstance(value, dict):
        return _group_problem(override, groups, config_name, where)
    if key not in groups and "." not in key and not isinstance(value, dict) and not override.is_delete():
        if where.is_group(key):
            return (
                f"{text}: {key} is not a group of {config_name}, whose groups are {', '.join(groups)}"
                f"{_hint(key, config_name)}"
            )
        if key == "command" and config_name in _OF_FINETUNING:
            return f"{text}: launch/{config_name}.py has no command{_hint('task', config_name)}"
        found = [] if key in where.own_settings(config_name) else _near_groups(key, groups)
        if found and isinstance(value, str):
            return f"{text}: {key} is not a group{did_you_mean([f'{g}={value}' for g in found])}"
    return None


def _group_problem(
    override: Override, groups: Mapping[str, str | None], config_name: str, where: SearchPath
) -> str | None:
    group, value = override.key_or_group, override.value()
    names = where.choices(group)
    if override.is_delete() or (value is None and groups[group] is None):
        return None
    for name in value if isinstance(value, list) else [value]:
        if name not in names:
            return (
                f"{group} = {show(name)} is not a choice{did_you_mean(near(str(name), names))}; "
                f"{where.places(group)} {', '.join(names)}"
            )
        if isinstance(name, str):
            # It refuses by file and line what Hydra would stumble over.
            chosen = overridden(where.read(f"{group}/{name}"))
            if lacked := [one for one in chosen if one not in groups]:
                return (
                    f"{group} = {name} chooses {' and '.join(lacked)}, which {config_name} does not have"
                    f"{_hint(lacked[0], config_name)}"
                )
            if problem := _of_other_training(group, name, groups, config_name, where):
                return problem
    return None


def _of_other_training(
    group: str, name: str, groups: Mapping[str, str | None], config_name: str, where: SearchPath
) -> str | None:
    """Says of an experiment or data that a command which trains otherwise cannot take them, and what takes them."""
    own = "finetune" if "task" in groups else "pretrain" if "objective" in groups else None
    if group not in (EXPERIMENT, "data") or own is None or where.trains(group, name) in (own, None):
        return None
    if own == "pretrain":
        return f"{group} = {name} is of fine-tuning, not of {config_name}{_hint('task', config_name)}"
    return (
        f"{group} = {name} is of pretraining, which launch/pretrain.py does; to fine-tune give model.init_from=DIR or "
        "train.init_from=RUN, task=NAME and data.train=FILE in its place"
    )


def _hint(group: str, config_name: str) -> str:
    """Says what does for fine-tuning, to which tasks belong, what a command does for pretraining."""
    if group != "task":
        return ""
    return f"; a task is fine-tuned: {_OF_FINETUNING.get(config_name, 'launch/finetune.py does so')}"


def _near_groups(key: str, groups: Mapping[str, str | None]) -> list[str]:
    key = re.split(r"[/@]", key)[0]
    return other_names(key, groups) or near(key, groups, cutoff=0.7)


def _file_layers(config_name: str, chosen: list[str], where: SearchPath) -> list[Layer]:
    own, *sites = where.folders
    searched = [f"hydra.searchpath=[{','.join(hydra_text(f'file://{site}') for site in sites)}]"] if sites else []
    with initialize_config_dir(str(own), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        defaults = loader.compute_defaults_list(config_name, [*chosen, *searched], RunMode.RUN).defaults
    layers: list[Layer] = []
    before: tuple[str, str] | None = None
    for default in defaults:
        path, package = default.config_path, default.package or ""
        if path is None or path.startswith("hydra/"):
            continue
        content = where.read(path)
        content.pop("defaults", None)
        if package == EXPERIMENT:
            raise ValueError(f"{where.source(path)} has to begin with the line: # @package _global_")
        place = (path.rpartition("/")[0], package)
        if place == before and package:  # several choices of one group, as in track=[wandb,tensorboard]
            _extend_lists(layers[-1].values[package], content)
        before = place
        layer = _merge([_nest(package, content)])
        replace_alternatives(layer, layer)
        layers.append(Layer(where.source(path), plain(layer)))
    return layers


def _extend_lists(before: Mapping[str, Any], content: dict[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, list) and isinstance(before.get(name), list):
            content[name] = before[name] + [v for v in value if v not in before[name]]


def _merge(mappings: Sequence[Any]) -> DictConfig:
    config = OmegaConf.merge(*mappings)
    assert isinstance(config, DictConfig)
    return config


def _nest(key: str, value: Any) -> Any:
    for name in reversed(key.split(".") if key else []):
        value = {name: value}
    return value


def _resolve(config: DictConfig, composition: Composition) -> None:
    """Sets the plain values; an interpolation that leads nowhere becomes a problem and a missing value."""
    for key, value in flatten(plain(config)).items():
        if _TIME.search(repr(value)):
            composition.refuse(
                key,
                f"{key} = {show(value)} would differ between ranks, and when the run is started again: let the shell say the "
                f"time once, as in {key}=x_$(date +%F)",
            )
            OmegaConf.update(config, key, MISSING)
        elif "${" in repr(value):
            try:
                OmegaConf.to_container(OmegaConf.create([OmegaConf.select(config, key)]), resolve=True)
            except OmegaConfBaseException as error:
                why = f"cannot be resolved: {one_line(error)}; give {key} a value of its own"
                composition.refuse(key, f"{key} = {show(value)} {why}")
                OmegaConf.update(config, key, MISSING)
    secrets = secrets_among(_texts(plain(config)))
    composition.values = mark(plain(config, resolve=True), secrets, plain(config))
    raw = flatten(plain(config))
    for key, text in flatten(composition.values).items():
        if type(text) is str and _ENVIRONMENT.fullmatch(str(raw.get(key))):
            *above, name = key.split(".")
            reduce(lambda values, part: values[part], above, composition.values)[name] = EnvironmentText(text)


def _texts(value: Any) -> Iterator[str]:
    """All text in plain values, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _text_at(key: str, config: DictConfig) -> str | None:
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{key} cannot be resolved: {one_line(error)}"]) from error
    return None if value is None else str(value)
