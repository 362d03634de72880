"""The settings that stand in the batch scripts of slurm/ are ones that the launch scripts accept."""

import subprocess
from pathlib import Path

import pytest

from dist_plm.cli.app import front
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.schema import PretrainConfig, TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig

SLURM = Path(__file__).resolve().parents[2] / "slurm"
TEMPLATES = sorted(SLURM.glob("*.sbatch"))


def words_of(template: Path) -> list[str]:
    """Ranks a node (1 where it says nothing) and words of the script, as the shell sees them."""
    settings = template.read_text().partition("# ---- settings\n")[2].partition("# ---- end of settings\n")[0]
    program = settings.replace("source slurm/common.sh", "") + 'printf "%s\\n" "${ranks_per_node:-1}" "${script[@]}"'
    env = {"SLURM_ARRAY_TASK_ID": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "-eu", "-c", program], env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_what_a_template_runs_is_accepted(
    template: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, script, *overrides = words_of(template)
    monkeypatch.chdir(tmp_path)
    kind, name = {
        "launch/pretrain.py": (PretrainConfig, "pretrain"),
        "launch/finetune.py": (FinetuneConfig, "finetune"),
        "launch/prepare_data.py": (PrepareConfig, "prepare_data"),
        "launch/evaluate.py": (EvaluateConfig, "evaluate"),
    }[script]
    # Weights of others, which are not here, would be looked at.
    model = {"model=from_hf": "model=bert_tiny"}
    overrides = [model.get(word, word) for word in overrides if not word.startswith("model.init_from=")]
    arguments = ["--check", f"--world-size={ranks}", *overrides]
    assert front(arguments, kind, name, lambda config, origins: 1, "") == 0, capsys.readouterr().err
    if issubclass(kind, TrainingConfig):
        run_dir = next(
            line.split("=", 1)[1] for line in template.read_text().splitlines() if line.startswith("run_dir=")
        )
        assert f"  run           {run_dir.replace('$variant', 'optim.lr=2e-4')}\n" in capsys.readouterr().out
