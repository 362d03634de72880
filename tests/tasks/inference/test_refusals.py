"""Wrong inputs of launch/evaluate.py and launch/generate.py: one message each, exit code 2, nothing written."""

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dist_plm.cli.app import front
from dist_plm.core.errors import EXIT_REFUSED, ConfigError, UserError
from dist_plm.data.store.store import TokenStoreWriter, dtype_for
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.tasks.evaluate.evaluate import check_evaluation, evaluate, measured
from dist_plm.tasks.generate.check_generation import check_generation
from dist_plm.tasks.generate.generate import answered, generate
from dist_plm.tasks.generate.prompts import read_prompts
from tests.tasks.inference.models import evaluate_config, generate_config, opened

#: Command lines that are refused before a model is opened, with what the message has to say.
EVALUATE = [
    ([], ["from is missing", "there is nothing to read"]),
    (["from=x", "data.path=a", "data.text=b"], ["data.path = 'a' and data.text = 'b' are both given"]),
    (["from=x", "data.text=b", "data.split=train"], ["data.split = 'train' has no effect"]),
    (["from=x", "data.path=a", "window=8", "stride=9"], ["stride = 9 exceeds window = 8"]),
    (["from=x", "data.path=a", "on=objective", "stride=9"], ["stride = 9 has no effect with on = 'objective'"]),
    (["from=x", "data.text=a", "on=objective"], ["on = 'objective' reads a store"]),
    (["from=x", "data.path=a", "on=bleu"], ["on = 'bleu'", "perplexity"]),
    (["from=x", "data.path=a", "name=law"], ["name = 'law' has no effect with trackers = false"]),
    (["from=x", "data.path=a", "trackers=true", "name=a/b"], ["name = 'a/b' is not allowed", "letters"]),
    (["from=x", "data.path=a", "trackers=true", "name=loss"], ["name = 'loss' is not allowed", "perplexity"]),
    (
        ["from=x", "data.path=a", "on=contamination", "trackers=true"],
        ["trackers = true has no effect", "runs no model"],
    ),
    (["from=x", "data.path=a", "track=wandb"], ["track is not a group of evaluate"]),
    (["from=x", "data.path=a", "strid=9"], ["strid = 9 is not a setting", "did you mean stride?"]),
    (["from=x", "data.path=a", "parallel.sequence_parallel=true"], ["parallel.sequence_parallel = true has no effect"]),
    (["from=x", "data.path=a", "precision=fp8"], ["precision.name = 'fp8' is for training"]),
    (
        ["from=x", "data.path=a", "precision=bf16", "precision.tf32=true"],
        ["precision.tf32 = true has no effect", "'bf16'"],
    ),
    (["from=x", "data.path=a", "precision=fp16", "precision.loss_scale_window=7"], ["loss_scale_window", "no effect"]),
]
GENERATE = [
    (["from=x"], ["there is no prompt"]),
    (["from=x", "chat=true", "out=a.jsonl"], ["out = 'a.jsonl' has no effect with chat = true without a prompt"]),
    (["from=x", "prompt=a", "prompts=b"], ["prompt and prompts are both given"]),
    (["from=x", "prompt=a", "num_beams=2", "temperature=1"], ["num_beams = 2", "temperature = 1", "leave out one"]),
    (["from=x", "prompt=a", "top_k=5"], ["top_k = 5 has no effect with temperature = 0"]),
    (["from=x", "prompt=a", "samples=2"], ["samples = 2 has no effect with temperature = 0"]),
    (["from=x", "prompt=a", "top_p=0"], ["top_p = 0"]),
    (["from=x", "prompt=a", 'stop=[""]'], ["holds an empty text"]),
    (["from=x", "prompt=a", "max_new_tokens=0"], ["max_new_tokens = 0", "at least 1"]),
    (["from=x", "prompts=a.txt", "column=b"], ["column = 'b' has no effect with prompts = 'a.txt'"]),
    (["from=x", "prompt=a", "chat=true", "begin=false"], ["begin = false has no effect with chat = true"]),
]


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "parts"),
    [(EvaluateConfig, "evaluate", *row) for row in EVALUATE] + [(GenerateConfig, "generate", *row) for row in GENERATE],
)
def test_settings_are_refused_at_once(kind, name, arguments, parts, capsys):
    assert front(arguments, kind, name, lambda *_: 0, "") == EXIT_REFUSED
    told = capsys.readouterr().err
    for part in parts:
        assert part in told


def refusal(world, config, prompts=None):
    """What a rank is told."""
    try:
        session = opened(world, config)
        if isinstance(config, EvaluateConfig):
            measured(config, session)
        else:
            answered(config, session, prompts or read_prompts(config))
    except UserError as error:
        return str(error)
    return "nothing was refused"


def refusal_of_another_split(world):
    """What a rank is told where each was started with a split of its own."""
    split = ("test", "validation")[world.rank]
    return refusal(world, evaluate_config(Path("nowhere"), data={"path": "nowhere", "split": split}))


@pytest.mark.ranks
def test_ranks_that_would_measure_different_things_are_refused(ranks) -> None:
    """What each sums up would be told as one number."""
    first, second = ranks.run(2, refusal_of_another_split)
    assert first == second
    assert "rank 1 on localhost has another than rank 0 (data.split: 'test' -> 'validation'): " in first


def refusal_without_a_model(config):
    """What one process is told that only looks."""
    try:
        (check_evaluation if isinstance(config, EvaluateConfig) else check_generation)(config, 1)
    except UserError as error:
        return str(error)
    return "nothing was refused"


def damaged(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without(*names):
    def remove(directory):
        for name in names:
            (directory / name).unlink()

    return remove


def huge(directory):
    """Finite weights whose products are not."""
    weights = load_file(directory / "model.safetensors")
    save_file(
        {name: value * 1e20 for name, value in weights.items()}, directory / "model.safetensors", {"format": "pt"}
    )


def headless(directory):
    """What BertModel saves."""
    config, weights = directory / "config.json", load_file(directory / "model.safetensors")
    config.write_text(config.read_text().replace("BertForMaskedLM", "BertModel"))
    kept = {name.removeprefix("bert."): value for name, value in weights.items() if name.startswith("bert.")}
    save_file(kept, directory / "model.safetensors", {"format": "pt"})


#: By the name of a test: the model, what is done to its directory, the configuration, what the message has to say.
OPENED = {
    "scores that are no numbers": ("gpt2", huge, generate_config, {"prompt": "To be"}, "scores that are no numbers"),
    "no numbers to draw by": (
        "gpt2",
        huge,
        generate_config,
        {"prompt": "To be", "temperature": 1.0, "parallel": {"tensor": 1}},
        "scores that are no numbers",
    ),
    "shares that are no numbers": (
        "bert",
        huge,
        generate_config,
        {"prompt": "To [MASK]"},
        "scores that are no numbers",
    ),
    "a loss that is no number": (
        "gpt2",
        huge,
        evaluate_config,
        {"data": {"text": "{}/text0.txt"}},
        "loss, perplexity, word_perplexity, byte_perplexity, bits_per_byte of",
    ),
    "a prompt of another language": (
        "bert",
        lambda d: None,
        generate_config,
        {"prompt": "床前 [MASK]"},
        "100 % of the",
    ),
    "text of another language": (
        "bert",
        lambda d: Path(f"{d}/text0.txt").write_text("床前明月光，疑是地上霜"),
        evaluate_config,
        {"data": {"text": "{}/text0.txt"}},
        "the model was trained on other text",
    ),
    "no such run": ("gpt2", shutil.rmtree, generate_config, {"prompt": "a"}, "there is nothing at"),
    "an empty directory": (
        "gpt2",
        lambda d: [path.unlink() for path in d.iterdir()],
        generate_config,
        {"prompt": "a"},
        "is no checkpoint that is known",
    ),
    "damaged weights": ("gpt2", damaged, generate_config, {"prompt": "a"}, "is truncated, damaged"),
    "no weights": ("gpt2", without("model.safetensors"), generate_config, {"prompt": "a"}, "model.safetensors"),
    "no tokenizer": (
        "gpt2",
        without("tokenizer.json"),
        generate_config,
        {"prompt": "a"},
        "the tokenizer of",
    ),
    "another tokenizer": (
        "gpt2",
        lambda d: None,
        generate_config,
        {"prompt": "a", "tokenizer": "nowhere/tokenizer.json"},
        "nowhere/tokenizer.json",
    ),
    "no head": ("bert", headless, generate_config, {"prompt": "To [MASK]"}, "holds no head that predicts"),
    "a long prompt": (
        "gpt2",
        lambda d: None,
        generate_config,
        {"prompt": "x1" * 40},
        "positions for it and its answer",
    ),
    "a long prompt of a dialogue": (
        "gpt2",
        lambda d: None,
        generate_config,
        {"prompt": "x1" * 40, "chat": True},
        "prompt has 96 tokens",
    ),
    "a beginning of what an encoder reads": (
        "t5",
        lambda d: None,
        generate_config,
        {"prompt": "To be", "begin": True},
        "begin = true has no effect with model.family = 't5'",
    ),
    "half of a character": (
        "gpt2",
        lambda d: Path(d, "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "\\ud83d"}\n'),
        generate_config,
        {"prompts": "{}/p.jsonl"},
        "p.jsonl, line 2: its text holds half of a character",
    ),
    "no mask": ("bert", lambda d: None, generate_config, {"prompt": "the cat"}, "write [MASK] for what"),
    "writing of a masked model": (
        "bert",
        lambda d: None,
        generate_config,
        {"prompt": "[MASK]", "temperature": 1.0},
        "temperature = 1.0 has no effect with a masked model",
    ),
    "a grid that does not divide": (
        "gpt2",
        lambda d: None,
        generate_config,
        {"prompt": "a", "parallel": {"tensor": 3}},
        "parallel.tensor = 3",
    ),
    "no prompts": ("gpt2", lambda d: None, generate_config, {"prompts": "nowhere.txt"}, "nowhere.txt cannot be read"),
    "no text": ("gpt2", lambda d: None, evaluate_config, {"data": {"text": "nowhere/*.txt"}}, "nowhere/*.txt"),
    "no store": (
        "gpt2",
        lambda d: None,
        evaluate_config,
        {"data": {"path": "nowhere"}},
        "there is neither such a directory",
    ),
    "perplexity of t5": ("t5", lambda d: None, evaluate_config, {"data": {"text": "{}/text0.txt"}}, "on=objective"),
    "joined text of a masked model": (
        "bert",
        lambda d: None,
        evaluate_config,
        {"data": {"text": "{}/text0.txt"}, "documents": "joined"},
        "documents = 'joined' is for models that read from left to right",
    ),
    "a window beyond the positions": (
        "gpt2",
        lambda d: None,
        evaluate_config,
        {"data": {"text": "{}/text0.txt"}, "window": 64},
        "window = 64 is longer than the 32 positions",
    ),
    "a task that nobody tells": (
        "t5",
        lambda d: None,
        evaluate_config,
        {"on": "task", "data": {"rows": "{}/text0.txt"}},
        "say that with task=choice or task=classify or",
    ),
    "an empty split": ("gpt2", lambda d: None, evaluate_config, {"data": {"path": "{}/pair"}}, "is empty"),
}


def filled_in(value, directory):
    if isinstance(value, dict):
        return {key: filled_in(inner, directory) for key, inner in value.items()}
    return value.format(directory) if isinstance(value, str) and "{}" in value else value


@pytest.mark.ranks
@pytest.mark.parametrize("name", OPENED)
def test_what_cannot_be_opened_is_refused(ranks, model_dirs, tmp_path, name):
    model, change, make, settings, part = OPENED[name]
    directory = shutil.copytree(model_dirs(model), tmp_path / "model")
    if name == "an empty split":
        with TokenStoreWriter(directory / "pair", dtype_for(300)) as writer:
            writer.add_document([1, 2, 3])
    change(directory)
    config = make(directory, **filled_in(settings, directory))
    (told,) = ranks.run(1, refusal, config)
    before = refusal_without_a_model(config)
    assert part in told
    assert "train.resume" not in told
    if change is huge:
        assert before == "nothing was refused"  # of what its weights make nothing is known before
    else:
        assert part in before
        assert "train.resume" not in before


@pytest.mark.parametrize(
    ("make", "settings", "part"),
    [
        (generate_config, {"prompts": "p.jsonl", "out": "folder/../p.jsonl"}, "the file of prompts = 'p.jsonl'"),
        (generate_config, {"prompt": "a", "tokenizer": "t.json", "out": "t.json"}, "the file of tokenizer = 't.json'"),
        (evaluate_config, {"data": {"text": "*.jsonl"}, "out": "p.jsonl"}, "the file of data.text = '*.jsonl'"),
        (evaluate_config, {"data": {"path": "pair"}, "out": "pair.idx"}, "the file of data.path = 'pair'"),
        (evaluate_config, {"on": "task", "data": {"rows": "link"}, "predictions": "p.jsonl"}, "data.rows = 'link'"),
        (evaluate_config, {"on": "probe", "data": {"train_rows": "p.jsonl"}, "out": "p.jsonl"}, "data.train_rows ="),
        (evaluate_config, {"on": "task", "out": "new", "predictions": "new"}, "out = 'new' is the file of predictions"),
        (
            generate_config,
            {"prompt": "a", "out": "model/run.yaml"},
            "out = 'model/run.yaml' is a file of from = 'model'",
        ),
        (
            evaluate_config,
            {"data": {"path": "store"}, "out": "store/manifest.json"},
            "is a file of data.path = 'store'",
        ),
    ],
)
def test_no_file_is_replaced_that_is_read(tmp_path, monkeypatch, make, settings, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("model", "store"):
        (tmp_path / name).mkdir()
    for name in ("p.jsonl", "t.json", "pair.bin", "pair.idx", "model/run.yaml", "store/manifest.json"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "link").symlink_to("p.jsonl")
    config = make(Path("model"), **settings)
    with pytest.raises(ConfigError, match=re.escape(part)):
        (check_evaluation if make is evaluate_config else check_generation)(config, 1)
    with pytest.raises(ConfigError, match="would replace it: name another"):
        (evaluate if make is evaluate_config else generate)(config)


def test_nothing_is_refused_that_can_be_done(model_dirs, tmp_path):
    """By what looks at it without a model, on as many ranks as one pleases."""
    texts, wide = {"text": f"{model_dirs('gpt2')}/text*.txt"}, {"tensor": 2}
    for name in ("gpt2", "llama"):
        config = evaluate_config(model_dirs(name), data=texts, parallel=wide, out=str(tmp_path / "out.json"))
        check_evaluation(config, 8)
        check_generation(generate_config(model_dirs(name), prompt="To be", parallel=wide), 8)
    check_generation(generate_config(model_dirs("bert"), prompt="To [MASK]"), 3)
    check_evaluation(evaluate_config(model_dirs("bert"), data=texts), 3)
    with pytest.raises(UserError, match="needs a multiple of 2 processes, but this run has 7"):
        check_generation(generate_config(model_dirs("gpt2"), prompt="To be", parallel=wide), 7)
    with pytest.raises(UserError, match="there is no directory nowhere"):
        check_evaluation(evaluate_config(model_dirs("gpt2"), data=texts, out="nowhere/out.json"), 1)
