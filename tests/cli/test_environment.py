"""${oc.env:NAME} in files and overrides, for settings of every type."""

import pytest

from dist_plm.cli.app import load
from dist_plm.core.errors import ConfigError
from dist_plm.spec.schema import PretrainConfig


def with_variable(text: str, key: str, monkeypatch, *more: str):
    monkeypatch.setenv("GIVEN", text)
    config, _ = load(PretrainConfig, "pretrain", [f"{key}=${{oc.env:GIVEN}}", *more])
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optim.lr", "3e-4", 3e-4),
        ("train.steps", "50", 50),
        ("train.seed", "007", "refused"),
        ("model.bias", "false", False),
        ("run.name", "2024", "2024"),
        ("run.name", "true", "true"),
        ("precision.name", "bf16", "bf16"),
        ("optim.betas", "[0.9, 0.98]", (0.9, 0.98)),
        ("data.path", "/corpora/web", "/corpora/web"),
        ("run.dir", "null", "null"),
        ("train.stop_at", "null", None),
        ("train.steps", "many", "refused"),
        ("precision.name", "bf8", "refused"),
    ],
)
def test_a_variable_is_read_as_the_setting_wants_it(key, text, value, monkeypatch):
    if value == "refused":
        with pytest.raises(ConfigError, match=rf"{key} = '?{text}'? is not allowed"):
            with_variable(text, key, monkeypatch)
    else:
        found = with_variable(text, key, monkeypatch)
        assert found == value
        assert type(found) is type(value)


def test_parts_of_a_text_and_fallbacks(monkeypatch):
    monkeypatch.setenv("USER_NAME", "ada")
    overrides = ["run.name=${oc.env:USER_NAME}_1", "optim.lr=${oc.env:NOT_SET_ANYWHERE,5e-4}"]
    config, _ = load(PretrainConfig, "pretrain", overrides)
    assert (config.run.name, config.optim.lr) == ("ada_1", 5e-4)


def test_files_of_a_site_read_variables(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndata:\n  path: ${oc.env:CORPORA}/web\ntrain:\n  steps: ${oc.env:STEPS}\n"
    (tmp_path / "experiment" / "ours.yaml").write_text(text)
    monkeypatch.setenv("CORPORA", "/corpora")
    monkeypatch.setenv("STEPS", "12")
    config, _ = load(PretrainConfig, "pretrain", ["experiment=ours"], [str(tmp_path)])
    assert (config.data.path, config.train.steps) == ("/corpora/web", 12)
