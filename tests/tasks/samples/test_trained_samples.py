"""Samples shown of a masked run are those that its ranks learned from, mask and all; and a page shows its worst."""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from dist_plm.config.decode import decode
from dist_plm.engines.loss_terms import LossTerms
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.tasks.samples.cut_samples import MOST_CHARACTERS, CutSamples
from dist_plm.tasks.samples.marked_text import lines_of
from dist_plm.tasks.samples.show_samples import decoder_of, settings_of, show_samples
from tests.ranks.ports import free_port
from tests.train.named_sets import BERT, case, make_corpus
from tests.train.running import run_case

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[3]


def recording_case(world, config, port):
    """A run; of each of its steps the samples of this rank, by their numbers, each its tokens and labels."""
    original, steps = LossTerms.count, []

    def counted(terms, microbatches):
        if torch.is_grad_enabled():
            rows = ((b["samples"], b["tokens"], b["labels"]) for b in microbatches)
            steps.append(
                {
                    int(n): (tokens.tolist(), labels.tolist())
                    for row in rows
                    for n, tokens, labels in zip(*row, strict=True)
                }
            )
        return original(terms, microbatches)

    with patch.object(LossTerms, "count", counted):
        return run_case(world, config, port), steps


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def masked(ranks, corpus, tmp_path_factory):
    """A run of BERT on two data ranks, and what they learned from."""
    run_dir = tmp_path_factory.mktemp("masked")
    seen = ranks.run(2, recording_case, case(corpus, run_dir, **BERT), free_port())
    assert [code for code, _ in seen] == [0, 0]
    return run_dir, [first | second for first, second in zip(*(steps for _, steps in seen), strict=True)]


def as_learned(run_dir, arrays):
    tokens, labels = (np.array([values]) for values in arrays)
    return next(lines_of({"tokens": tokens, "labels": labels}, decoder_of(settings_of(run_dir)), "encoder"))


def test_the_mask_that_is_shown_is_what_the_step_learned_from(masked):
    run_dir, steps = masked
    assert len(steps) == 4
    for step, samples in enumerate(steps, start=1):
        text = show_samples(decode(SamplesShownConfig, {"run": str(run_dir), "step": step, "limit": 99}))
        heading, *shown = text.split("\n--- sample ")
        assert heading.startswith(f"step {step} learned from samples ")
        told = {int(number): lines.splitlines()[0] for number, _, lines in (one.partition("\n") for one in shown)}
        assert told == {number: as_learned(run_dir, arrays) for number, arrays in samples.items()}
        assert sum(" -> " in line for line in told.values()) > len(told) / 2


def page_of(run_dir, page):
    """The samples on the page that launch/report.py writes in a process of its own, which imports no PyTorch."""
    program = "import sys; from dist_plm.cli.commands.showing.report import execute; code = execute(sys.argv[1:])"
    program += "; sys.exit(code or 9 * ('torch' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_dir), f"html={page}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data = page.read_text().partition('id="data">')[2].partition("</script>")[0]
    return json.loads(data)["runs"][0]["samples"]


def test_a_page_shows_the_samples_of_the_worst_microbatch(masked, corpus, tmp_path):
    run_dir, steps = masked
    last = read_metrics(run_dir / "metrics.jsonl")[-1]
    first, stop = int(last["worst/first_sample"]), int(last["worst/last_sample"]) + 1
    (shown,) = page_of(run_dir, tmp_path / "page.html")
    assert shown["title"].startswith("The worst microbatch of step 4, of loss ")
    learned = [as_learned(run_dir, steps[3][number]) for number in range(first, stop)]
    assert [row["text"].splitlines()[0][:300] for row in shown["rows"]] == [text[:300] for text in learned]
    moved = corpus.rename(corpus.with_name("moved"))
    try:
        (shown,) = page_of(run_dir, tmp_path / "page.html")
    finally:
        moved.rename(corpus)
    assert shown["rows"] == []
    assert shown["note"].startswith("They cannot be read here (")
    assert f"python launch/samples.py run={run_dir} 'samples=[{first}, {stop}]'" in shown["note"]


def test_long_samples_are_cut(masked, monkeypatch):
    run_dir, steps = masked
    monkeypatch.setattr("dist_plm.tasks.samples.cut_samples.MOST_CHARACTERS", 20)
    number = min(steps[0])
    (text,) = CutSamples()(run_dir, number, number + 1)
    assert text == f"{as_learned(run_dir, steps[0][number])[:20]}…"
    assert MOST_CHARACTERS < 1000
