"""Families are found by their names, and nobody but their specs and bodies asks for a name."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from dist_plm.config.decode import decode, encode
from dist_plm.core.errors import ConfigError
from dist_plm.models.build import NETWORKS, TASK_NETWORKS
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.objectives import objectives_of
from dist_plm.spec.schema import PretrainConfig
from tests.spec.broken import problems
from tests.spec.make import pretrain_mapping

ROOT = Path(__file__).resolve().parents[3]
#: Where a family may be called by its name: its spec, its network, and the files of other programs.
OF_FAMILIES = ("dist_plm/spec/families", "dist_plm/models", "dist_plm/interop")
#: Settings that a run.yaml held of every family when there was one section for all, where the family does not have them.
OF_BEFORE = {
    "embedding_size": None,
    "segments": 0,
    "pair_head": None,
    "window": 0,
    "global_tokens": 0,
    "decoder_layers": None,
    "generator_hidden": None,
    "generator_layers": None,
    "generator_heads": None,
    "generator_ffn": None,
    "relative_buckets": 32,
    "relative_distance": 128,
}


def names_in(tree: ast.AST) -> list[str]:
    """Lists what names a family: its name as text, and imports of its module."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in FAMILIES]
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return texts + [module for module in modules if module.startswith("dist_plm.spec.families.") and is_family(module)]


def is_family(module: str) -> bool:
    return module.rpartition(".")[2] in FAMILIES


def test_nobody_else_asks_for_the_name_of_a_family():
    sources = [path for top in ("dist_plm", "launch", "tools") for path in (ROOT / top).rglob("*.py")]
    others = [path for path in sources if not str(path.relative_to(ROOT)).startswith(OF_FAMILIES)]
    assert len(others) > 200
    found = {str(path.relative_to(ROOT)): names_in(ast.parse(path.read_text(encoding="utf-8"))) for path in others}
    found.pop("tools/support_tables.py")  # shows what engines do, with a small gpt
    found.pop("tools/published_runs.py")  # reads runs of others, which say no family of ours
    assert found.pop("dist_plm/data/labelled/dialogues.py") == ["gpt"]  # a role of ShareGPT
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "branch",
    [
        'if model.family == "gpt": pass',
        'if family in ("t5", "transformer"): pass',
        'TABLE = {"electra": 1}',
        "from dist_plm.spec.families.bert import BertConfig",
    ],
)
def test_a_branch_would_be_found(branch):
    assert names_in(ast.parse(branch))


def test_every_family_has_a_network_and_no_network_is_without():
    assert NETWORKS.keys() == FAMILIES.keys()
    assert TASK_NETWORKS.keys() <= FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_passes_with_its_defaults(family):
    for objective in objectives_of(FAMILIES[family]):
        assert problems(model__family=family, objective__name=objective) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_written_when_all_families_shared_a_section_opens(family):
    mapping = pretrain_mapping(model__family=family, objective__name=objectives_of(FAMILIES[family])[0])
    expected = decode(PretrainConfig, mapping)
    mapping["model"] |= OF_BEFORE
    with pytest.raises(ConfigError, match=r"is not a setting of model\.family"):
        decode(PretrainConfig, mapping)
    opened = decode(PretrainConfig, mapping, of_before=True)
    assert opened == expected
    assert encode(opened)["model"].keys() == {field.name for field in fields(FAMILIES[family])}


def test_what_an_older_file_set_for_another_family_is_refused():
    mapping = pretrain_mapping(model__segments=2)
    with pytest.raises(ConfigError, match=r"model\.segments = 2 is not a setting of model\.family = 'gpt'"):
        decode(PretrainConfig, mapping, of_before=True)
