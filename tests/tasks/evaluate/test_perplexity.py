"""Perplexity beside a plain loop over Transformers, by both protocols, and the same on every number of ranks."""

import itertools
import math
import re

import pytest
import torch
import transformers

from dist_plm.tasks.evaluate.evaluate import measured
from tests.ranks.selection import covering
from tests.tasks.inference.models import END, LENGTH, TEXTS, evaluate_config, opened

pytestmark = pytest.mark.ranks

GRIDS = {"two_data": (2, {}), "tensor": (2, {"tensor": 2}), "pipeline": (2, {"pipeline": 2})}


def found(world, config):
    return measured(config, opened(world, config))


def log_likelihoods(model, tokens):
    """Of tokens[1:], each given those before it."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]])).logits[0].double()
    return torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].tolist()


def loaded(directory):
    is_masked = "bert" in directory.name or "electra" in directory.name
    kind = transformers.AutoModelForMaskedLM if is_masked else transformers.AutoModelForCausalLM
    weights = directory / "generator" if "electra" in directory.name else directory
    return kind.from_pretrained(weights).eval(), tokenizer_of(directory)


def tokenizer_of(directory):
    if "electra" in directory.name:  # beside whose halves no file names a class
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    return transformers.AutoTokenizer.from_pretrained(directory)


def rolling(model, tokens, end, window):
    """As `loglikelihood_rolling` of lm-evaluation-harness scores a document."""
    total = sum(log_likelihoods(model, [end, *tokens[:window]]))
    for first in range(window, len(tokens), window):
        last = min(first + window, len(tokens))
        context = tokens[last - window - 1 : last]
        total += sum(log_likelihoods(model, context)[-(last - first) :])
    return total


def strided(model, tokens, window, stride):
    """As the guide of Hugging Face on perplexity, each token counted once."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        scores = log_likelihoods(model, tokens[begin:end])[-(end - before) :]
        total, count, before = total + sum(scores), count + len(scores), end
        if end == len(tokens):
            break
    return total, count


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_documents_as_lm_evaluation_harness_reads_them(ranks, model_dirs, name):
    directory = model_dirs(name)
    config = evaluate_config(directory, data={"text": f"{directory}/text*.txt"}, batch_size=3, samples=2)
    (told,) = ranks.run(1, found, config)
    model, tokenizer = loaded(directory)
    end = tokenizer.convert_tokens_to_ids(END)
    tokens = [tokenizer(text).input_ids for text in TEXTS]
    assert any(len(t) > 2 * LENGTH for t in tokens)
    each = [rolling(model, t, end, LENGTH) for t in tokens]
    total, results = sum(each), told["results"]
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    num_words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    assert (results["tokens"], results["bytes"], results["words"]) == (sum(map(len, tokens)), num_bytes, num_words)
    assert results["loss"] == pytest.approx(-total / results["tokens"], rel=1e-5)
    assert results["word_perplexity"] == pytest.approx(math.exp(-total / num_words), rel=1e-4)
    assert results["byte_perplexity"] == pytest.approx(math.exp(-total / num_bytes), rel=1e-4)
    assert results["bits_per_byte"] == pytest.approx(-total / num_bytes / math.log(2), rel=1e-5)
    hardest = sorted(((-s / len(t), n) for n, (s, t) in enumerate(zip(each, tokens, strict=True))), reverse=True)[:2]
    assert [one["number"] for one in told["samples"]] == [n for _, n in hardest]
    assert [one["loss"] for one in told["samples"]] == pytest.approx([loss for loss, _ in hardest], rel=1e-5)


@pytest.mark.parametrize("stride", [None, 12])
def test_one_text_with_a_stride_as_the_guide_of_hugging_face(ranks, model_dirs, stride):
    directory = model_dirs("gpt2")
    text = {"text": f"{directory}/text1.txt"}
    (told,) = ranks.run(1, found, evaluate_config(directory, data=text, documents="joined", stride=stride))
    model, tokenizer = loaded(directory)
    total, count = strided(model, tokenizer(TEXTS[1]).input_ids, LENGTH, stride or LENGTH)
    assert told["results"]["tokens"] == count
    assert told["results"]["loss"] == pytest.approx(-total / count, rel=1e-5)


def pseudo(model, tokens, stride, frame=(2, 3, 4)):
    """As Salazar et al. 2020 score a sentence; windows as those of documents."""
    total, hits, window = 0.0, 0, LENGTH - 2
    for place, token in enumerate(tokens):
        stop = window if place < window else min(window + -(-(place + 1 - window) // stride) * stride, len(tokens))
        start = max(0, min(stop, len(tokens)) - window)
        row = [frame[0], *tokens[start:stop], frame[1]]
        row[place - start + 1] = frame[2]
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([row])).logits[0, place - start + 1].double(), -1)
        total, hits = total + float(scores[token]), hits + int(scores.argmax() == token)
    return total, hits


FRAMES = {"roberta": ("<s>", "</s>", "<mask>")}


@pytest.mark.parametrize(("name", "stride"), [("bert", 30), ("bert", 7), ("roberta", 7), ("electra", 30)])
def test_masked_models_by_pseudo_log_likelihood(ranks, model_dirs, name, stride):
    directory = model_dirs(name)
    text = {"text": f"{directory}/text*.txt"}
    (told,) = ranks.run(1, found, evaluate_config(directory, data=text, stride=stride))
    model, tokenizer = loaded(directory)
    tokens = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    frame = tokenizer.convert_tokens_to_ids(FRAMES.get(name, ("[CLS]", "[SEP]", "[MASK]")))
    each = [pseudo(model, t, stride, frame) for t in tokens]
    count = sum(map(len, tokens))
    assert told["results"]["tokens"] == count
    assert told["results"]["loss"] == pytest.approx(-sum(s for s, _ in each) / count, rel=1e-5)
    assert told["results"]["accuracy"] == sum(hits for _, hits in each) / count
    assert told["results"]["pseudo_perplexity"] == pytest.approx(math.exp(told["results"]["loss"]))


READ = {
    "documents": ("gpt2", {"samples": 2}),
    "joined": ("gpt2", {"documents": "joined", "stride": 5}),
    "masked": ("bert", {"samples": 3}),
}


@pytest.mark.parametrize(
    ("how", "grid"),
    covering(
        itertools.product(READ, GRIDS),
        [("documents", "pipeline"), ("documents", "two_data"), ("joined", "tensor"), ("masked", "two_data")],
    ),
)
def test_ranks_agree_with_one(ranks, model_dirs, how, grid):
    (name, changes), (size, parallel) = READ[how], GRIDS[grid]
    directory = model_dirs(name)
    settings = {"data": {"text": f"{directory}/text*.txt"}, "batch_size": 4, **changes}
    (alone,) = ranks.run(1, found, evaluate_config(directory, **settings))
    for told in ranks.run(size, found, evaluate_config(directory, parallel=parallel, **settings)):
        assert told["results"] == pytest.approx(alone["results"], rel=1e-6)
        assert [one["name"] for one in told["samples"]] == [one["name"] for one in alone["samples"]]


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_stages_that_hold_unlike_numbers_of_layers_agree_with_one_rank(ranks, model_dirs, name):
    directory = model_dirs(name)
    settings = {"data": {"text": f"{directory}/text*.txt"}, "batch_size": 4}
    (alone,) = ranks.run(1, found, evaluate_config(directory, **settings))
    cut = {"pipeline": 2, "stage_layers": [1, 3]}
    for told in ranks.run(2, found, evaluate_config(directory, parallel=cut, **settings)):
        assert told["results"] == pytest.approx(alone["results"], rel=1e-6)
