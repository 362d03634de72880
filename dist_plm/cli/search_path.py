"""Finds the files of the groups: in conf/, then in the folders of --config-dir, as Hydra's option of that name does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from dist_plm.core.errors import ConfigError
from dist_plm.core.installed import shipped
from dist_plm.core.parsing import load_yaml, read_text

CONF = shipped("conf")
#: How a file chooses of a group in place of the root file.
_OVERRIDE = "override /"
#: Commands that train.
Training = Literal["pretrain", "finetune"]


@dataclass(frozen=True, slots=True)
class SearchPath:
    """Holds the folders in which files are looked up, the program's own first."""

    folders: tuple[Path, ...] = (CONF,)

    @classmethod
    def with_sites(cls, config_dirs: Sequence[str]) -> "SearchPath":
        """Adds a site's folders.

        Raises:
            ConfigError: one is not a directory.
        """
        problems = [f"--config-dir {given} is not a directory" for given in config_dirs if not Path(given).is_dir()]
        if problems:
            raise ConfigError(problems)
        return cls((CONF, *(Path(given).absolute() for given in config_dirs)))

    def choices(self, group: str) -> list[str]:
        """Lists the files of a group, by name."""
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")})

    def is_group(self, name: str) -> bool:
        """Tells whether a folder of the search path has a group of this name."""
        return any((folder / name).is_dir() for folder in self.folders)

    def own_settings(self, config_name: str) -> set[str]:
        """Names what a root file sets itself, beside the groups that it chooses."""
        values = OmegaConf.load(self.find(config_name))
        return {str(key) for key in values} - {"defaults"}

    def find(self, path: str) -> Path:
        """Finds the file of a choice, as in model/gpt2_small.

        Raises:
            ValueError: two folders say different things under this name.
        """
        first, *others = [f for f in (folder / f"{path}.yaml" for folder in self.folders) if f.is_file()] or [
            self.folders[0] / f"{path}.yaml"
        ]
        for other in others:
            if read_text(other) != read_text(first):
                raise ValueError(
                    f"{other} and {self.source(path)} have one name and say different things: rename the first"
                )
        return first

    def source(self, path: str) -> str:
        """Names the file of a choice to a person: conf/model/gpt2_small.yaml, or a site's with its folder."""
        file = next((f / f"{path}.yaml" for f in self.folders if (f / f"{path}.yaml").is_file()), None)
        return f"conf/{path}.yaml" if file is None or file.is_relative_to(self.folders[0]) else str(file)

    def places(self, group: str) -> str:
        """Begins a sentence on the choices of a group: "conf/model has"."""
        sites = [str(folder / group) for folder in self.folders[1:] if (folder / group).is_dir()]
        return f"{' and '.join([f'conf/{group}', *sites])} {'have' if sites else 'has'}"

    def groups(self, config_name: str) -> dict[str, str | None]:
        """Lists the groups that a root file and those it builds on compose, with the choice made in each."""
        groups: dict[str, str | None] = {}
        for entry in self.read(config_name).get("defaults") or []:
            if isinstance(entry, Mapping):
                groups.update(entry)
            elif entry != "_self_":
                groups.update(self.groups(entry))
        return groups

    def trains(self, group: str, name: str) -> Training | None:
        """Tells which training a file is of, by what it chooses and sets: rows and tasks are fine-tuned, a corpus pretrains.
        None where it may be either's."""
        content = self.read(f"{group}/{name}")
        if group == "data":
            return "finetune" if "train" in content else "pretrain" if "path" in content else None
        chosen = overridden(content)
        if "task" in chosen or group == "task":
            return "finetune"
        if "objective" in chosen:
            return "pretrain"
        data = chosen.get("data")
        return self.trains("data", data) if data in self.choices("data") else None

    def asked_for(self, overrides: Sequence[str]) -> Training:
        """Tells which training the words of a command line ask for, for commands that take both."""
        for text in overrides:
            key, _, value = text.lstrip("+~").partition("=")
            if key.partition(".")[0] == "task":
                return "finetune"
            if key in ("experiment", "data") and value in self.choices(key) and self.trains(key, value) == "finetune":
                return "finetune"
        return "pretrain"

    def read(self, path: str) -> dict[str, Any]:
        """Reads a file as OmegaConf would, yet within bounds."""
        file = self.find(path)
        content = load_yaml(read_text(file), str(file), plain_exponents=True)
        if content is None:
            return {}
        values = OmegaConf.to_container(OmegaConf.create(content), resolve=False)
        if not isinstance(values, dict):
            raise ValueError(f"settings need names, not a list: {values}")
        return {str(name): value for name, value in values.items()}


OWN = SearchPath()


def overridden(content: Mapping[str, Any]) -> dict[str, Any]:
    """Lists the groups of which a file chooses in place of the root file, each with its choice."""
    entries = [entry for entry in content.get("defaults") or [] if isinstance(entry, Mapping)]
    chosen = {str(key): choice for entry in entries for key, choice in entry.items()}
    return {key.removeprefix(_OVERRIDE): choice for key, choice in chosen.items() if key.startswith(_OVERRIDE)}
