"""The laws of the house: small folders, and nobody but a named thing's own spec and body branches on its name."""

import ast
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from dist_plm.spec.engines import ENGINES
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.optimizers import OPTIMIZERS
from dist_plm.spec.schedules import SCHEDULES
from dist_plm.spec.schema import PrecisionConfig
from dist_plm.spec.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "dist_plm").rglob("*.py"))
#: Sections whose things are found by name, and where a name of theirs may decide something.
NAMED = {
    "optim": (OPTIMIZERS, ("spec/optimizers",)),
    "objective": (OBJECTIVES, ("spec/objectives",)),
    "task": (TASKS, ("spec/tasks",)),
    "engine": (ENGINES, ("spec/engines",)),
    "schedule": (SCHEDULES, ("spec/schedules",)),
    "precision": (get_args(get_type_hints(PrecisionConfig)["name"]), ("spec/schema.py",)),
}
#: Classes of a whole run's configuration.
WHOLE = {
    "Training",
    "TrainingConfig",
    "PretrainConfig",
    "FinetuneConfig",
    "SubmissionConfig",
    "FinetuneSubmissionConfig",
    "AnySubmission",
    "Submitted",
}
#: Who may take one, and why: files, or functions and classes of files, relative to dist_plm/.
TAKES_WHOLE = {
    "cli/": "composes, checks and prints configurations",
    "config/": "decodes and writes them",
    "tasks/": "starts from them",
    "plan/": "counts what a whole run takes",
    "train/build.py": "hands each part of a run the sections that it reads",
    "train/ending/proposed_runs.py": "checks whole runs that it proposes",
    "train/opening/open_here.py:open_here": "completes a configuration by what its data tell",
    "train/data.py": "completes a configuration by what its data tell",
    "train/labelled.py": "completes a configuration by what its data tell",
    "train/reporting.py:open_records": "writes run.yaml, and tells trackers all settings",
    "train/reporting.py:build_recorder": "tells trackers all settings",
    "spec/rules/": "relates sections",
    "spec/inference/named_sets_rules.py": "relates sections",
    "spec/derived.py:derive": "fills in what follows from other sections",
    "spec/derived.py:Case": "holds what rules relate",
    "cluster/check.py": "completes and checks what is submitted",
    "cluster/job.py:batch_script": "writes what is submitted",
    "cluster/submit.py:Submission": "holds what is submitted",
    "cluster/preflight.py:look": "compares whole configurations of ranks",
    "cluster/preflight.py:preflight": "compares whole configurations of ranks",
    "plan/search.py": "changes settings of several sections, and lets the rules check them",
    "plan/verdict.py": "changes settings of several sections, and lets the rules check them",
    "spec/schedules.py:problems": "relates the thing to other sections",
    **dict.fromkeys(
        (f"spec/{things}/*:problems" for things in ("engines", "families", "objectives", "optimizers")),
        "relates the thing to other sections",
    ),
}


#: Modules of one name with one meaning: the role that each plays in its folder, or the thing that all are of.
SAME_MODULE = {
    "base": "declares what a folder's things are",
    "build": "builds what a configuration names",
    "engine": "is the body of an engine",
    "schema": "declares the settings of a command",
    "rules": "checks the settings of a command",
    "attention": "the layer, and its kernel",
    "dropout": "the layer, and its kernel",
    "checkpoint": "checkpoints, and the rules of their section",
    "clean": "cleaning, and its settings",
    "convert": "the conversion, its command and its rules",
    "data": "data, their rules, and their opening for a run",
    "encoder": "encoders, described and built",
    "encoder_decoder": "encoders with decoders, described and built",
    "engines": "the engines, described and built",
    "evaluate": "the evaluation, and its command",
    "fp8": "computing in 8 bits: what a rank can, what a configuration needs",
    "generate": "the generation, and its command",
    "grid": "the process grid, and its rules",
    "inference": "what evaluating and generating share, and its settings",
    "labelled": "labelled rows, their rules, and their opening for a run",
    "masking": "masking, and its settings",
    "mlm_pairs": "pairs of segments, described and built",
    "objectives": "the objectives, described and built",
    "plan": "the plan, and its command",
    "preflight": "the look before a run, and its command",
    "prepare": "the preparation of data, and its settings",
    "quickstart": "what the quickstarts read",
    "report": "the report, and its command",
    "samples": "samples, and the command that shows them",
    "schedules": "the learning rate's schedules: their curves, and the warm-up before them",
    "sources": "the sources of text",
    "store": "the store of tokens",
    "submit": "the submission, and its command",
    "tasks": "what is done with a model, and the tasks that it is fine-tuned for",
    "transformer": "the transformer: its layer, its family",
    "watch": "watching: of a submitted job's ranks, and the command for runs",
    "windows": "windows of running text, sampled and described",
}
#: Libraries, which folders and modules are named after.
LIBRARIES = {"megatron", "deepspeed"}
LONGEST_FILE = 300


def test_no_file_is_longer_than_a_head_can_hold():
    sources = [*SOURCES, *(file for name in ("launch", "tools", "bench") for file in (ROOT / name).rglob("*.py"))]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources}
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


def definitions(file: Path) -> dict[str, str]:
    """Classes and aliases of types that a module defines for others: name -> what it means, None for a class of its own."""
    found = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = str(file)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name[0].isupper() and not name.isupper() and not isinstance(node.value, ast.Call):
                found[name] = ast.unparse(node.value)
    return {name: meaning for name, meaning in found.items() if not name.startswith("_")}


def several(files: Iterable[Path]) -> dict[str, list[str]]:
    """Names of classes and types with more than one meaning, and these."""
    meanings: dict[str, set[str]] = {}
    for file in files:
        for name, meaning in definitions(file).items():
            meanings.setdefault(name, set()).add(meaning)
    return {name: sorted(found) for name, found in meanings.items() if len(found) > 1}


def test_a_class_name_means_one_thing():
    assert several(SOURCES) == {}


def test_the_search_for_names_of_two_meanings_finds_them(tmp_path):
    for name, text in {
        "a": "class Row: ...\nclass _Own: ...\nInts = NDArray[int]\nPiece = tuple[int, int]\nLOOSE = 1\n",
        "b": "class Row: ...\nclass _Own: ...\nInts = NDArray[int]\nclass Piece: ...\nLOOSE = 2\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert sorted(several(tmp_path.glob("*.py"))) == ["Piece", "Row"]


def test_a_module_name_means_one_thing():
    """Folders are modules, too. A named thing's spec, body and files of others are called by its name."""
    modules = [file if file.name != "__init__.py" else file.parent for file in SOURCES]
    counts = Counter(module.stem for module in modules)
    things = {name for variants, _ in NAMED.values() for name in variants} | set(FAMILIES) | LIBRARIES
    repeated = {name for name, count in counts.items() if count > 1}
    assert repeated - things - set(SAME_MODULE) == set(), "name the second for what it does"
    assert set(SAME_MODULE) <= repeated, "these need no exception"


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


@pytest.mark.parametrize(
    "section", sorted(set(NAMED) - {"schedule", "precision"})
)  # whose bodies are in their sections
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
