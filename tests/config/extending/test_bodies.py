"""An optimizer, objective, task, family or engine that is registered in part is refused by name, with what it lacks."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

import dist_plm.objectives
import dist_plm.optim
from dist_plm.cli.app import front
from dist_plm.config.extending.bodies import body_problem, build_from, import_body
from dist_plm.config.variants import Variants
from dist_plm.core.errors import EXIT_REFUSED, ConfigError
from dist_plm.models.build import whole_shard_specs
from dist_plm.objectives.build import build_objective, build_task
from dist_plm.optim.base import build_optimizer
from dist_plm.spec.engines import ENGINES
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.families.gpt import GPTConfig
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.objectives.base import ObjectiveConfig
from dist_plm.spec.objectives.causal import CausalConfig
from dist_plm.spec.optimizers import OPTIMIZERS
from dist_plm.spec.optimizers.base import OptimConfig
from dist_plm.spec.optimizers.sgd import SgdConfig
from dist_plm.spec.schedules import SCHEDULES
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.tasks import TASKS
from dist_plm.spec.tasks.tag import TagConfig
from tests.spec.broken import problems
from tests.spec.make import pretrain


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnOptim(SgdConfig):
    name: Literal["own"] = "own"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True, kw_only=True)
class OwnObjective(CausalConfig):
    body: ClassVar[str] = "own"
    name: Literal["own"] = "own"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True, kw_only=True)
class OwnTask(TagConfig):
    body: ClassVar[str] = "own"
    name: Literal["own"] = "own"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFamily(GPTConfig):
    family: Literal["own"] = "own"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMoments(OptimConfig):
    name: Literal["own"] = "own"


@dataclass(frozen=True, kw_only=True)
class NoBody(ObjectiveConfig):
    name: Literal["own"] = "own"


class NoDataclass(SgdConfig):
    name: Literal["own"] = "own"  # pyright: ignore[reportIncompatibleVariableOverride]


@pytest.fixture
def write(tmp_path: Path, monkeypatch) -> Iterator[Callable[[str], object]]:
    """Writes the body of what is called "own"; in a folder that is taken for one of the package."""
    for package in (dist_plm.optim, dist_plm.objectives):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setitem(OPTIMIZERS._members, "own", OwnOptim)
    monkeypatch.setitem(OBJECTIVES._members, "own", OwnObjective)
    yield lambda text: (tmp_path / "own.py").write_text(text)
    for name in ("dist_plm.optim.own", "dist_plm.objectives.own"):
        sys.modules.pop(name, None)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refused:
        act()
    (problem,) = refused.value.problems
    return problem


def test_all_that_is_registered_is_whole():
    for variants in (OPTIMIZERS, OBJECTIVES, TASKS, FAMILIES, ENGINES, SCHEDULES):
        assert [variants.problem(name) for name in variants] == [None] * len(variants)
    modules = [section(lr=1.0).body_module for section in OPTIMIZERS.values()]
    modules += [section().body_module for section in [*OBJECTIVES.values(), *TASKS.values(), *ENGINES.values()]]
    assert [body_problem("it", module) for module in modules] == [None] * len(modules)


@pytest.mark.parametrize(("what", "folder"), [("optim", "optim"), ("objective", "objectives")])
def test_what_has_no_body_is_refused_before_a_run(what, folder, write):
    (problem,) = problems(**{f"{what}__name": "own"})
    assert problem.startswith(
        f"{what}.name = 'own' is registered without a body: write dist_plm/{folder}/own.py, with a function `build`"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def built(optim, groups): ...\n", "has no function `build`: give it one"),
        ("build(1)\n", "has no function `build`: give it one"),
        ("import os\ndef build(:\n", "is no Python: invalid syntax (line 2): mend it"),
    ],
)
def test_a_body_without_build_is_refused_before_a_run(text, told, write, tmp_path, monkeypatch):
    (tmp_path / "own_folder").mkdir()
    monkeypatch.setattr(dist_plm.optim, "__path__", [str(tmp_path / "own_folder")])  # another file each time
    (tmp_path / "own_folder" / "own.py").write_text(text)
    (problem,) = problems(optim__name="own")
    assert problem.startswith(f"optim.name = 'own': dist_plm/optim/own.py {told}")


@pytest.mark.parametrize(
    "text",
    ["def build(optim, groups): ...", "build = print", "from os import path as build", "class build: ..."],
)
def test_a_body_may_have_its_build_from_anywhere(text, write):
    write(text)
    assert problems(optim__name="own") == []


def test_check_ends_with_one_message(write, capsys):
    words = ["experiment=gpt2_small", "data.path=nowhere", "optim=sgd", "optim.name=own", "optim.lr=1", "--check"]
    assert front(words, PretrainConfig, "pretrain", lambda *_: 1, "") == EXIT_REFUSED
    told = capsys.readouterr()
    assert "optim.name = 'own' is registered without a body" in told.err
    assert "Traceback" not in told.err


def test_what_a_body_fails_to_import_is_told_where_the_run_starts(write):
    write("import os\nimport no_such_library\ndef build(*_): ...\n")
    assert problems(optim__name="own", objective__name="own") == []  # another machine may have it
    for act, place in (
        (lambda: build_optimizer(OwnOptim(lr=1.0), []), "dist_plm/optim/own.py"),
        (lambda: build_objective(OwnObjective()), "dist_plm/objectives/own.py"),
        (lambda: build_task(OwnTask()), "dist_plm/objectives/own.py"),
    ):
        told = refusal(act)
        assert f"= 'own': {place} cannot be imported: ModuleNotFoundError: No module named 'no_such_library'" in told
        assert "(line 2 of " in told


def test_a_body_is_called_as_it_was_written_to_be(write):
    write("def build(optim): ...\n")
    told = refusal(lambda: build_optimizer(OwnOptim(lr=1.0), []))
    assert "`build` of dist_plm/optim/own.py is called with 2 arguments: too many positional arguments" in told


def test_what_build_itself_raises_stays(write):
    write("def build(optim, groups): raise TypeError('mine')\n")
    with pytest.raises(TypeError, match="mine"):
        build_from("it", "dist_plm.optim.own", 1, 2)


def test_a_task_without_a_body_is_refused(write):
    assert "task.name = 'own' is registered without a body" in refusal(lambda: build_task(OwnTask()))


def test_a_body_in_a_folder_that_is_not_there_is_missing():
    assert "write dist_plm/engines/own/engine.py" in refusal(lambda: import_body("it", "dist_plm.engines.own.engine"))


def test_a_family_without_a_network_is_refused(monkeypatch):
    monkeypatch.setitem(FAMILIES._members, "own", OwnFamily)
    told = "model.family = 'own' is registered without a network: enter it in NETWORKS of dist_plm/models/build.py"
    (problem,) = problems(model__family="own")
    assert problem.startswith(told)
    model = pretrain(model__family="own", model__vocab_size=8, model__max_positions=4).model
    assert refusal(lambda: whole_shard_specs(model)).startswith(told)


@pytest.mark.parametrize(
    ("section", "variants", "member", "told"),
    [
        ("optim", OPTIMIZERS, SgdConfig, 'is called otherwise: write name: Literal["own"] = "own" in it'),
        ("model", FAMILIES, GPTConfig, 'is called otherwise: write family: Literal["own"] = "own" in it'),
        ("optim", OPTIMIZERS, NoDataclass, "is no dataclass of its own"),
        ("optim", OPTIMIZERS, NoMoments, "does not give moments"),
        ("objective", OBJECTIVES, NoBody, "does not give body and learners and loss_terms"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_section_that_is_not_whole_is_refused(section, variants: Variants, member, told, monkeypatch):
    monkeypatch.setitem(variants._members, "own", member)
    problem = refusal(lambda: pretrain(**{f"{section}__{variants.tag}": "own"}))
    place = f"{member.__name__} of {member.__module__.replace('.', '/')}.py"
    assert problem.startswith(f"{section}.{variants.tag} = 'own' is registered, but {place} {told}")
