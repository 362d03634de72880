"""The laws of the house: small folders, and nobody but a named thing's own spec and body branches on its name."""

import ast
import re
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dist_plm.spec.engines import ENGINES
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.optimizers import OPTIMIZERS
from dist_plm.spec.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "dist_plm").rglob("*.py"))
#: Sections whose things are found by name, and where a name of theirs may decide something.
NAMED = {
    "optim": (OPTIMIZERS, ("spec/optimizers",)),
    "objective": (OBJECTIVES, ("spec/objectives",)),
    "task": (TASKS, ("spec/tasks",)),
    "engine": (ENGINES, ("spec/engines",)),
}
#: Classes of a whole run's configuration.
WHOLE = {"Training", "TrainingConfig", "PretrainConfig", "FinetuneConfig", "SubmissionConfig"}
#: Who may take one, and why: files, or functions and classes of files, relative to dist_plm/.
TAKES_WHOLE = {
    "cli/": "composes, checks and prints configurations",
    "config/": "decodes and writes them",
    "tasks/": "starts from them",
    "plan/": "counts what a whole run takes",
    "train/build.py": "hands each part of a run the sections that it reads",
    "train/data.py": "completes a configuration by what its data tell",
    "train/labelled.py": "completes a configuration by what its data tell",
    "train/reporting.py:open_records": "writes run.yaml, and tells trackers all settings",
    "train/reporting.py:build_recorder": "tells trackers all settings",
    "spec/rules/": "relates sections",
    "spec/derived.py:derive": "fills in what follows from other sections",
    "spec/derived.py:Case": "holds what rules relate",
    "cluster/check.py": "completes and checks what is submitted",
    "cluster/job.py:batch_script": "writes what is submitted",
    "cluster/submit.py:Submission": "holds what is submitted",
    "cluster/preflight.py:look": "compares whole configurations of ranks",
    "cluster/preflight.py:preflight": "compares whole configurations of ranks",
    "plan/search.py": "changes settings of several sections, and lets the rules check them",
    "plan/verdict.py": "changes settings of several sections, and lets the rules check them",
    **dict.fromkeys(
        (f"spec/{things}/*:problems" for things in ("engines", "families", "objectives", "optimizers")),
        "relates the thing to other sections",
    ),
}


def test_a_folder_holds_a_dozen_files_at_most():
    files = Counter(file.parent.relative_to(ROOT) for file in SOURCES if file.name != "__init__.py")
    assert {str(folder): count for folder, count in files.items() if count > 12} == {}


def branches(file: Path, section: str, names: set[str]) -> list[int]:
    """Lines that compare `….SECTION.name` with anything, or any `….name` with one of the names."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        of_section = any(ast.unparse(side).endswith(f"{section}.name") for side in sides)
        of_name = any(ast.unparse(side).endswith(".name") for side in sides) and any(
            isinstance(constant, ast.Constant) and constant.value in names
            for side in sides
            for constant in ast.walk(side)
        )
        if of_section or of_name:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("section", NAMED)
def test_nobody_else_branches_on_a_registered_name(section):
    variants, own = NAMED[section]
    places = {}
    for file in SOURCES:
        relative = file.relative_to(ROOT / "dist_plm").as_posix()
        if not relative.startswith(own) and (lines := branches(file, section, set(variants))):
            places[relative] = lines
    assert places == {}


@pytest.mark.parametrize("section", NAMED)
def test_every_registered_name_has_one_body(section):
    variants, _ = NAMED[section]
    for name, variant in variants.items():
        module = {"optim": f"optim/{name}", "engine": f"engines/{name}/engine"}.get(
            section, f"objectives/{getattr(variant, 'body', name).replace('.', '/')}"
        )
        body = ast.parse((ROOT / "dist_plm" / f"{module}.py").read_text())
        assert sum(isinstance(node, ast.FunctionDef) and node.name == "build" for node in body.body) == 1


def test_the_search_for_branches_finds_them(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "def f(c, optim):\n    if c.engine.name != 'deepspeed':\n        return optim.name in ('lamb', 'sgd')\n"
    )
    assert branches(file, "engine", set(ENGINES)) == [2]
    assert branches(file, "optim", set(OPTIMIZERS)) == [3]


def takers(file: Path) -> list[str]:
    """Functions and classes that take or hold a run's whole configuration."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = ast.walk(node.args)
            annotations = [one.annotation for one in arguments if isinstance(one, ast.arg) and one.annotation]
        elif isinstance(node, ast.ClassDef):
            annotations = [one.annotation for one in node.body if isinstance(one, ast.AnnAssign)]
        else:
            continue
        named = {word for one in annotations for word in re.findall(r"\w+", ast.unparse(one))}
        if named & WHOLE:
            found.append(node.name)
    return found


def test_a_function_takes_the_sections_that_it_reads():
    used, unlisted = set(), []
    for file in SOURCES:
        relative = file.relative_to(ROOT / "dist_plm").as_posix()
        for name in takers(file):
            place = f"{relative}:{name}"
            listed = [one for one in TAKES_WHOLE if fnmatch(place, one) or (":" not in one and place.startswith(one))]
            used.update(listed)
            unlisted += [] if listed else [place]
    assert unlisted == [], "give them the sections that they read"
    assert set(TAKES_WHOLE) - used <= {"config/", "tasks/", "spec/objectives/*:problems"}, "these need no exception"


def test_the_search_for_takers_of_all_finds_them(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "def f(a, *, c: 'PretrainConfig | None'): ...\n"
        "def g(train: TrainConfig, text: str) -> PretrainConfig: ...\n"
        "class H:\n    all: Sequence[SubmissionConfig]\n    async def m(self, *cs: schema.PretrainConfig): ...\n"
    )
    assert sorted(takers(file)) == ["H", "f", "m"]


def raw_errors(file: Path) -> list[int]:
    """Lines that show an error of the system as Python does, "[Errno 2] …", or the None that some have for words."""
    found = []
    for handler in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ExceptHandler)):
        kinds = set(re.findall(r"\w+", ast.unparse(handler.type))) if handler.type else {"BaseException"}
        if handler.name is None or not kinds & {"OSError", "Exception", "BaseException", "IOError"}:
            continue
        for node in (inner for line in handler.body for inner in ast.walk(line)):
            shown = isinstance(node, ast.FormattedValue) and ast.unparse(node.value) in (
                handler.name,
                f"str({handler.name})",
            )
            worded = isinstance(node, ast.Attribute) and ast.unparse(node) == f"{handler.name}.strerror"
            logged = (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).startswith("log.")
                and any(ast.unparse(argument) == handler.name for argument in node.args)
            )
            if shown or worded or logged:
                found.append(node.lineno)
    return found


def test_errors_of_the_system_are_shown_in_words():
    places = {file.relative_to(ROOT / "dist_plm").as_posix(): raw_errors(file) for file in SOURCES}
    assert {place: lines for place, lines in places.items() if lines} == {}, "show reason_of(error)"


def test_the_search_for_errors_shown_raw_finds_them(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "try: ...\nexcept OSError as error:\n    print(f'{error}')\n    print(error.strerror)\n"
        "try: ...\nexcept (ValueError, OSError) as e:\n    log.warning('%s', e)\n"
        "try: ...\nexcept ValueError as error:\n    print(f'{error}')\n"
    )
    assert raw_errors(file) == [3, 4, 7]
