"""A probe reads the hidden states that Transformers gives, and learns as scikit-learn does."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dist_plm.spec.schema import PrecisionConfig
from dist_plm.tasks.evaluate.evaluate import measured
from dist_plm.tasks.evaluate.probe import logistic_regression, open_probe, weights_of
from dist_plm.tasks.inference.open_model import build_runner
from tests.ranks.pool import RanksError
from tests.tasks.inference.models import evaluate_config, opened

SENTENCES = ("The cat sat", "nobody knew what", "To be, or not", "the mind", "that is the question", "Ein kurzer Satz")


@pytest.mark.parametrize("count", [2, 3])
def test_it_learns_as_scikit_learn_does(count: int) -> None:
    draw = np.random.default_rng(count)
    seen, others = (draw.normal(size=(n, 7)).astype(np.float32) * draw.uniform(0.1, 5, 7) for n in (60, 20))
    labels = (seen[:, 0] + draw.normal(size=60) > 0).astype(np.int64) + (seen[:, 1] > 1) * (count - 2)
    scaler = StandardScaler().fit(seen.astype(np.float64))
    theirs = LogisticRegression(tol=1e-10, max_iter=10_000).fit(scaler.transform(seen), labels)
    expected = theirs.decision_function(scaler.transform(others))
    told = logistic_regression(seen, labels, count, others)
    if count == 2:
        assert told[:, 1] - told[:, 0] == pytest.approx(expected, abs=1e-4)
    else:
        assert told - told.mean(axis=1, keepdims=True) == pytest.approx(expected, abs=1e-4)


def test_tokens_count_as_the_pooling_says() -> None:
    lengths = np.array([2, 4])
    assert weights_of(lengths, 4, "mean").tolist() == [[0.5, 0.5, 0, 0], [0.25] * 4]
    assert weights_of(lengths, 4, "first").tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]
    assert weights_of(lengths, 4, "last").tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def vectors(world, config):
    session = opened(world, config)
    run = session.config
    probe = open_probe(
        config, session.vocabulary.tokenizer, run.data.sequence_length, has_decoder=run.model.has_decoder
    )
    found = probe._vectors(probe.tables["test"], build_runner(session, needed=()), lambda: None)
    return found, [probe.tables["test"]["tokens"][row].tolist() for row in range(len(found))]


@pytest.mark.ranks
def test_it_reads_what_transformers_gives(ranks, model_dirs, tmp_path) -> None:
    for name, count in (("train", 12), ("test", 9)):
        rows = [{"text": SENTENCES[n % 6] + " on" * (n % 5), "label": "ab"[n % 2]} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"rows": str(tmp_path / "test.jsonl"), "train_rows": str(tmp_path / "train.jsonl")}
    for name, kind in (("bert", "AutoModel"), ("llama", "AutoModel"), ("t5", "T5EncoderModel")):
        model = getattr(transformers, kind).from_pretrained(model_dirs(name)).eval()
        config = evaluate_config(model_dirs(name), on="probe", data=data, batch_size=4)
        ((found, tokens),) = ranks.run(1, vectors, config)
        for row, numbers in enumerate(tokens):
            with torch.no_grad():
                expected = model(torch.tensor([numbers])).last_hidden_state[0].mean(dim=0)
            assert found[row] == pytest.approx(expected.numpy(), abs=2e-5), (name, row)
    (told,) = ranks.run(1, found_by, evaluate_config(model_dirs("bert"), on="probe", data=data))
    assert (told["results"]["rows"], told["results"]["train_rows"]) == (9, 12)


def found_by(world, config):
    return measured(config, opened(world, config))


@pytest.mark.ranks
def test_states_that_overflow_are_no_result(ranks, model_dirs, tmp_path) -> None:
    """One weight of 60,000 is finite in fp16, and what is multiplied by it is not."""
    overflowing = transformers.BertForMaskedLM.from_pretrained(model_dirs("bert"))
    with torch.no_grad():
        overflowing.bert.encoder.layer[0].output.LayerNorm.weight[0] = 6e4
    shutil.copytree(model_dirs("bert"), tmp_path / "bert")
    overflowing.save_pretrained(tmp_path / "bert")
    rows = [{"text": SENTENCES[n % 6], "label": "ab"[n % 2]} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"rows": str(tmp_path / "rows.jsonl"), "train_rows": str(tmp_path / "rows.jsonl")}
    config = evaluate_config(tmp_path / "bert", on="probe", data=data)
    (told,) = ranks.run(1, found_by, config)
    assert told["results"]["accuracy"] >= 0.5
    with pytest.raises(RanksError, match=r"DataError: accuracy.* nan: .*overflow; try precision=fp32"):
        ranks.run(1, found_by, replace(config, precision=PrecisionConfig(name="fp16")))
