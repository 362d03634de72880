from pathlib import Path

import pytest
import yaml

from dist_plm.cli.app import front, load
from dist_plm.cli.commands.submit import execute as submit
from dist_plm.cli.search_path import CONF, SearchPath
from dist_plm.core.errors import ConfigError
from dist_plm.spec.schema import PretrainConfig


@pytest.fixture(params=["site", "a site, of ours"])
def site(tmp_path: Path, request) -> Path:
    """A site's folder: a cluster, and an experiment that builds on ones of the program's own."""
    folder = tmp_path / request.param
    cluster = yaml.safe_load((CONF / "cluster" / "example.yaml").read_text())
    files = {
        "cluster/hall.yaml": yaml.safe_dump({**cluster, "partition": "hall"}),
        "experiment/ours.yaml": "# @package _global_\ndefaults:\n  - override /model: gpt2_small\n  - override /cluster: hall\n"
        "  - _self_\nrun:\n  name: ours\noptim:\n  lr: 0.5\ntrain:\n  global_batch: 256\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def pretrain(site: Path, *overrides: str):
    return load(PretrainConfig, "pretrain", overrides, [str(site)])


def test_choices_of_a_site_stand_beside_those_of_conf(site):
    config, origins = pretrain(site, "experiment=ours", "data.path=x")
    assert (config.optim.lr, config.model.layers, config.cluster.partition) == (0.5, 12, "hall")
    assert origins["optim.lr"].source == f"{site}/experiment/ours.yaml"
    assert origins["model.layers"].source == "conf/model/gpt2_small.yaml"


def test_a_misspelt_choice_of_a_site_is_told_with_where_was_looked(site):
    with pytest.raises(ConfigError) as refused:
        pretrain(site, "cluster=hal")
    assert "did you mean hall?" in str(refused.value)
    assert f"conf/cluster and {site}/cluster have cpu, example" in str(refused.value)


def test_help_lists_a_sites_choices(site, capsys):
    assert front(["--help", "--config-dir", str(site)], PretrainConfig, "pretrain", lambda *_: 1, "") == 0
    assert "hall" in capsys.readouterr().out


def test_files_of_one_name_that_differ_are_refused(site):
    (site / "model").mkdir()
    (site / "model" / "gpt2_small.yaml").write_text((CONF / "model" / "gpt2_small.yaml").read_text())
    assert pretrain(site, "experiment=ours", "data.path=x")[0].model.layers == 12
    (site / "model" / "gpt2_small.yaml").write_text("layers: 3\n")
    with pytest.raises(ConfigError, match="have one name and say different things: rename the first"):
        pretrain(site, "experiment=ours", "data.path=x")
    assert pretrain(site, "model=gpt_tiny")[0].model.layers != 3


def test_several_folders_in_their_order(site, tmp_path):
    other = tmp_path / "other"
    (other / "optim").mkdir(parents=True)
    (other / "optim" / "mine.yaml").write_text("name: adamw\nlr: 0.25\n")
    config, _ = load(PretrainConfig, "pretrain", ["optim=mine", "cluster=hall"], [str(site), str(other)])
    assert (config.optim.lr, config.cluster.partition) == (0.25, "hall")
    assert SearchPath.with_sites([str(site), str(other)]).choices("optim").count("adamw") == 1


def test_a_submitted_job_needs_nothing_of_the_folder(site, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["experiment=ours", "nodes=2", "submit.dry_run=true", "submit.check_data=false", "data.path=x"]
    assert submit(["--config-dir", str(site), *arguments]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --partition=hall" in script
    told, rest = script.splitlines()[2], script.split("# ---- settings")[1]
    assert str(site) in told.replace("'", "")
    assert str(site) not in rest
