"""A wheel is all that a user needs: its files, the command, the imports that it declares, and a run without the checkout."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ROOT / "tests" / "data" / "texts"
#: Imported where it is there, and missed by name where a setting wants it.
OPTIONAL = {"triton", "liger_kernel", "lm_eval", "mlflow", "peft", "sentence_transformers"}
#: Scripts of bench/ import each other.
OWN = {"dist_plm", "tests", "tools", "bench", *(path.stem for path in (ROOT / "bench").glob("*.py"))}


def imports_of(folder: str) -> dict[str, str]:
    """The packages that files of a folder import, each with one of the files."""
    found: dict[str, str] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {name.partition(".")[0]: str(path) for name in names}
    known = sys.stdlib_module_names | OWN | OPTIONAL
    return {name: path for name, path in found.items() if name not in known}


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {normal(re.split(r"[\s<>=!~\[;]", line)[0]) for line in wanted}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("dist_plm", ()), ("launch", ()), ("tests", ("dev",)), ("tools", ("dev",)), ("bench", ("dev", "bench"))],
)
def test_every_import_is_declared(folder, extras):
    providers = packages_distributions()
    allowed = declared(*extras)
    # datasketch, of the extra that bench/ alone needs, may not be installed here.
    missing = {
        name: path
        for name, path in imports_of(folder).items()
        if not {normal(provider) for provider in providers.get(name, [name])} & allowed
    }
    assert missing == {}


def test_the_license_is_complete():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of a fresh environment with the wheel in it and, for what it needs, this one's packages behind it."""
    work = tmp_path_factory.mktemp("wheel")
    source, environment = work / "source", work / "environment"
    for name in ("dist_plm", "conf", "slurm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = work.glob("dist_plm-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    interpreter = environment / "bin" / "python"
    install = [*pip, "--python", str(interpreter), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    shutil.rmtree(source)
    # A line of a .pth file adds a folder without the .pth files in it, so not the checkout.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "behind.pth").write_text(sysconfig.get_path("purelib"))
    return interpreter


def run(python: Path, folder: Path, *words: str) -> str:
    """What a command prints, run in `folder` without anything of the checkout on the way to modules."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RANK", "WORLD_SIZE")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_command_finds_what_the_wheel_carries(python, tmp_path):
    command = str(python.with_name("dist-plm"))
    where = run(python, tmp_path, str(python), "-c", "import dist_plm; print(dist_plm.__file__)")
    assert where.startswith(str(python.parents[1]))
    assert "  prepare " in run(python, tmp_path, command, "--help")
    help_text = run(python, tmp_path, command, "pretrain", "--help")
    assert "dist-plm pretrain train.steps=50" in help_text
    assert "launch/" not in help_text
    words = ["experiment=gpt2_small", "data.path=x", "cluster=example", "nodes=2", "submit.dry_run=true"]
    script = run(python, tmp_path, command, "submit", *words, "submit.check_data=false", "train.global_batch=256")
    given = script[script.index("script=(") : script.index("container=")].split()
    assert given[1:4] == ["-m", "dist_plm", "pretrain"]
    (common,) = re.findall(r"^source (.*)$", script, re.MULTILINE)
    assert Path(common).is_relative_to(python.parents[1])
    assert Path(common).read_text() == (ROOT / "slurm" / "common.sh").read_text()
    tiny = ROOT / "tests" / "monitor" / "report_page" / "tiny"
    assert "page: report.html" in run(python, tmp_path, command, "report", str(tiny), "html=report.html")
    assert "uPlot" in (tmp_path / "report.html").read_text()
    assert list(python.parents[1].glob("lib/**/licenses/**/uplot/LICENSE"))


@pytest.mark.ranks
def test_a_wheel_trains_the_quickstart_without_the_checkout(python, tmp_path):
    command = str(python.with_name("dist-plm"))
    sources = f"[{{path: '{TEXTS}/*.txt', document: line}}]"
    words = ["data.split=[0.8,0.1,0.1]", "tokenizer=bpe", "tokenizer.vocab_size=300"]
    run(python, tmp_path, command, "prepare", f"data.sources={sources}", "data.out=store", *words)
    settings = [
        "experiment=quickstart",
        "data.path=store",
        "train.steps=2",
        "train.global_batch=2",
        "train.micro_batch=1",
    ]
    small = ["data.sequence_length=32", "model.layers=2", "model.hidden=32", "model.heads=2"]
    torchrun = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    text = run(python, tmp_path, *torchrun, "-m", "dist_plm", "pretrain", *settings, *small)
    assert "-m dist_plm pretrain" in text
    steps = [json.loads(line) for line in (tmp_path / "runs/quickstart/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if "loss" in step][-1] == 2
    assert "quickstart" in run(python, tmp_path, command, "report", "runs/quickstart")
