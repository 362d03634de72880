"""What is written beside Transformers, token by token, on one process and on ranks that share a model."""

import functools
import itertools
import shutil

import pytest
import torch
import transformers

from dist_plm.tasks.generate.generate import answered
from dist_plm.tasks.generate.with_transformers import TransformersWriter
from tests.ranks.ports import free_port
from tests.ranks.selection import covering
from tests.tasks.evaluate.test_perplexity import tokenizer_of
from tests.tasks.inference.models import END, LENGTH, VOCAB, generate_config, opened
from tests.train.running import make_store, run_case, settings

pytestmark = pytest.mark.ranks

GRIDS = {"one": (1, {}), "tensor": (2, {"tensor": 2, "sequence_parallel": True}), "pipeline": (2, {"pipeline": 2})}
SHORT = ["To be", "The cat; the dog", "Ein", "question"]
PROMPTS = ["To be", "The cat sat on the mat; the dog", "Ein", "question"]


def found(world, config, prompts, own_loop=False):
    session = opened(world, config)
    with pytest.MonkeyPatch.context() as patch:
        if own_loop:  # for what one process would have Transformers do
            patch.setattr(TransformersWriter, "of", classmethod(lambda cls, session: None))
        answers, _ = answered(config, session, prompts)
    return answers


@functools.cache
def model_of(directory):
    kind = transformers.AutoModelForSeq2SeqLM if directory.name.startswith("t5") else transformers.AutoModelForCausalLM
    return kind.from_pretrained(directory).eval(), transformers.AutoTokenizer.from_pretrained(directory)


def theirs(directory, prompt, **settings):
    """The new tokens of `transformers.generate`, up to the first that ends a text."""
    model, tokenizer = model_of(directory)
    read = tokenizer(prompt, return_tensors="pt").input_ids
    if directory.name.startswith("t5"):
        read = torch.cat([read, torch.tensor([[1]])], 1)
    with torch.no_grad():
        result = model.generate(read, do_sample=False, max_new_tokens=12, pad_token_id=0, **settings)
    new = result[0, 1 if directory.name.startswith("t5") else read.shape[1] :].tolist()
    end = model.config.eos_token_id
    return tuple(new[: new.index(end)] if end in new else new)


@pytest.mark.parametrize(
    ("name", "grid"),
    covering(
        itertools.product(["gpt2", "llama", "t5"], GRIDS),
        [("gpt2", "one"), ("gpt2", "pipeline"), ("llama", "tensor"), ("t5", "tensor")],
    ),
)
def test_greedy_as_transformers(ranks, model_dirs, name, grid):
    if name == "t5" and grid == "pipeline":
        pytest.skip("a rule refuses pipelines of encoder and decoder")
    directory, (size, parallel) = model_dirs(name), GRIDS[grid]
    expected = [theirs(directory, prompt) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    config = generate_config(directory, max_new_tokens=12, batch_size=3, parallel=parallel)
    for own_loop in {size > 1, True}:
        for answers in ranks.run(size, found, config, PROMPTS, own_loop):
            assert [answer.tokens for answer in answers] == expected


def test_stages_that_hold_unlike_numbers_of_layers_write_as_transformers(ranks, model_dirs):
    directory, cut = model_dirs("gpt2"), {"pipeline": 2, "stage_layers": [3, 1]}
    expected = [theirs(directory, prompt) for prompt in PROMPTS]
    for answers in ranks.run(2, found, generate_config(directory, max_new_tokens=12, parallel=cut), PROMPTS):
        assert [answer.tokens for answer in answers] == expected


@pytest.mark.parametrize("beams", covering([1, 3], [3]))
def test_rows_of_the_matrix_that_are_no_tokens_are_not_written(ranks, model_dirs, tmp_path, beams):
    directory = tmp_path / "gpt2"
    model, tokenizer = with_more_rows(transformers.AutoModelForCausalLM, model_dirs("gpt2"), directory)
    beyond, settings = list(range(len(tokenizer), model.config.vocab_size)), {"num_beams": beams}
    assert any(set(theirs(directory, prompt, **settings)) & set(beyond) for prompt in PROMPTS)
    expected = [theirs(directory, prompt, suppress_tokens=beyond, **settings) for prompt in PROMPTS]
    config = generate_config(directory, max_new_tokens=12, **settings)
    for own_loop in (False, True):
        (answers,) = ranks.run(1, found, config, PROMPTS, own_loop)
        assert [answer.tokens for answer in answers] == expected


def test_rows_of_the_matrix_that_are_no_tokens_fill_no_mask(ranks, model_dirs, tmp_path):
    directory = tmp_path / "bert"
    model, tokenizer = with_more_rows(transformers.AutoModelForMaskedLM, model_dirs("bert"), directory)
    read = tokenizer("the [MASK] sat", return_tensors="pt").input_ids
    with torch.no_grad():
        shares = torch.softmax(model(read).logits[0], -1)[read[0] == tokenizer.convert_tokens_to_ids("[MASK]")]
    assert int(shares.argmax()) >= len(tokenizer)
    best = shares[0, : len(tokenizer)].topk(3)
    (filled,) = ranks.run(1, found, generate_config(directory, best=3), ["the [MASK] sat"])[0]
    assert [token for token, _ in filled.masks[0]] == tokenizer.convert_ids_to_tokens(best.indices.tolist())
    assert [share for _, share in filled.masks[0]] == pytest.approx(best.values.tolist(), rel=1e-4)


def with_more_rows(kind, source, directory):
    """Copies a model to `directory`, with a vocabulary of 40 rows more, which are likelier than its tokens."""
    shutil.copytree(source, directory)
    tokenizer = tokenizer_of(source)
    model = kind.from_pretrained(source).eval()
    model.resize_token_embeddings(len(tokenizer) + 40, mean_resizing=False)
    with torch.no_grad():
        rows = model.get_output_embeddings().weight
        rows[len(tokenizer) :] = 3 * rows[:40]
    model.save_pretrained(directory)
    return model, tokenizer


def test_repetition_is_punished_as_by_transformers_whatever_the_batch(ranks, model_dirs):
    directory = model_dirs("llama")
    expected = [theirs(directory, prompt, repetition_penalty=1.7) for prompt in PROMPTS]
    for size, own_loop in itertools.product((1, 4), (False, True)):
        config = generate_config(directory, max_new_tokens=12, batch_size=size, repetition_penalty=1.7)
        (answers,) = ranks.run(1, found, config, PROMPTS, own_loop)
        assert [answer.tokens for answer in answers] == expected


@pytest.mark.parametrize(
    ("name", "grid", "beams"),
    [("gpt2", "pipeline", 3), ("llama", "tensor", 4), pytest.param("t5", "tensor", 3, marks=pytest.mark.slow)],
)
def test_beams_are_those_of_transformers(ranks, model_dirs, name, grid, beams):
    directory, (size, parallel) = model_dirs(name), GRIDS[grid]
    expected = [theirs(directory, prompt, num_beams=beams) for prompt in PROMPTS]
    for ranks_of, where, own_loop in ((1, {}, False), (1, {}, True), (size, parallel, True)):
        config = generate_config(directory, max_new_tokens=12, batch_size=2, num_beams=beams, parallel=where)
        for answers in ranks.run(ranks_of, found, config, PROMPTS, own_loop):
            assert [answer.tokens for answer in answers] == expected


@pytest.mark.parametrize("name", covering(["gpt2", "t5"], ["gpt2"]))
def test_draws_depend_on_seed_and_row_alone(ranks, model_dirs, name):
    directory = model_dirs(name)
    drawn = {"max_new_tokens": 12, "temperature": 1.3, "top_k": 50, "top_p": 0.95, "samples": 2}
    (first,) = ranks.run(1, found, generate_config(directory, batch_size=8, **drawn), PROMPTS)
    (second,) = ranks.run(1, found, generate_config(directory, batch_size=3, **drawn), PROMPTS)
    grids = [{"tensor": 2}, {}] + ([{"pipeline": 2}] if name == "gpt2" else [])
    assert [a.tokens for a in first] == [a.tokens for a in second]
    assert first[0].tokens != first[1].tokens
    for parallel in grids:
        config = generate_config(directory, batch_size=5, parallel=parallel, **drawn)
        for answers in ranks.run(2, found, config, PROMPTS):
            assert [a.tokens for a in answers] == [a.tokens for a in first]
    (other,) = ranks.run(1, found, generate_config(directory, seed=7, **drawn), PROMPTS)
    assert [a.tokens for a in other] != [a.tokens for a in first]


def test_a_draw_follows_the_distribution(ranks, model_dirs):
    directory, count = model_dirs("gpt2"), 600
    model, tokenizer = model_of(directory)
    with torch.no_grad():
        shares = torch.softmax(model(tokenizer("To be", return_tensors="pt").input_ids).logits[0, -1], -1)
    config = generate_config(directory, max_new_tokens=1, temperature=1.0, samples=count, batch_size=200)
    (answers,) = ranks.run(1, found, config, ["To be"])
    likely = int(shares.argmax())
    hits = sum(likely in answer.tokens for answer in answers)
    share = float(shares[likely])
    assert abs(hits / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_an_answer_ends_before_a_text_and_at_the_last_position(ranks, model_dirs):
    directory = model_dirs("gpt2")
    (whole,) = ranks.run(1, found, generate_config(directory, max_new_tokens=12), ["To be"])
    text = whole[0].text
    stop = text[len(text) // 2 :][:2]
    for own_loop in (False, True):
        config = generate_config(directory, max_new_tokens=12, stop=[stop])
        (ended,) = ranks.run(1, found, config, ["To be"], own_loop)
        assert (ended[0].text, ended[0].finish) == (text[: text.index(stop)], "stop")
        (full,) = ranks.run(1, found, generate_config(directory, max_new_tokens=500), ["To be"], own_loop)
        _, tokenizer = model_of(directory)
        assert full[0].finish == "length"
        assert len(full[0].tokens) == LENGTH - len(tokenizer("To be").input_ids)


def test_an_answer_that_a_text_ended_holds_no_token_of_its_batch(ranks, model_dirs):
    """t5's own token fills up rows, which ends none."""
    directory = model_dirs("t5")
    (whole,) = ranks.run(1, found, generate_config(directory, max_new_tokens=12), PROMPTS)
    text = next(one.text for one in whole if one.text != whole[0].text)
    stop = next(sign for sign in text if sign not in whole[0].text)
    for own_loop in (False, True):
        told = []
        for size in (1, 4):
            config = generate_config(directory, batch_size=size, stop=[stop], max_new_tokens=12)
            (answers,) = ranks.run(1, found, config, PROMPTS, own_loop)
            told.append([(answer.tokens, answer.text, answer.finish) for answer in answers])
        assert told[0] == told[1]
        assert {finish for _, _, finish in told[0]} == {"stop", "length"}


def test_rows_of_a_window_with_global_tokens_write_alike_in_any_batch(ranks, model_dirs, tmp_path):
    """The first tokens, which all others see, are those of each prompt, whatever pads it."""
    model = {"window": 2, "global_tokens": 2, "vocab_size": VOCAB, "init_std": 0.25}
    changes = {f"model__{name}": value for name, value in model.items()}
    changes |= {"data__sequence_length": LENGTH, "train__steps": 1, "schedule__warmup_steps": 0}
    run = settings(make_store(tmp_path / "store"), tmp_path / "run", **changes)
    assert ranks.run(1, run_case, run, free_port()) == [0]
    written = {"tokenizer": str(model_dirs("gpt2")), "max_new_tokens": 8, "begin": False}
    for beams in (1, 3):
        told = []
        for size in (1, 4):
            config = generate_config(tmp_path / "run", batch_size=size, num_beams=beams, **written)
            (answers,) = ranks.run(1, found, config, SHORT)
            told.append([answer.tokens for answer in answers])
        assert told[0] == told[1]
        assert len(set(told[0])) == len(SHORT)


def test_an_empty_prompt_begins_where_documents_do(ranks, model_dirs):
    directory = model_dirs("gpt2")
    (answers,) = ranks.run(1, found, generate_config(directory, max_new_tokens=12), [""])
    assert answers[0].tokens == theirs(directory, END)


@pytest.mark.parametrize(
    ("name", "grid"), [*(("bert", grid) for grid in GRIDS), ("roberta", "one"), ("electra", "one")]
)
def test_masks_are_filled_as_by_transformers(ranks, model_dirs, name, grid):
    directory, (size, parallel) = model_dirs(name), GRIDS[grid]
    tokenizer = tokenizer_of(directory)
    weights = directory / "generator" if name == "electra" else directory
    model = transformers.AutoModelForMaskedLM.from_pretrained(weights).eval()
    mask = "<mask>" if name == "roberta" else "[MASK]"
    prompt = f"the {mask} sat on the {mask}"
    read = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        shares = torch.softmax(model(read).logits[0], -1)[read[0] == tokenizer.convert_tokens_to_ids(mask)]
    best = shares.topk(3)
    # A piece of a word is shown as such, bytes as text.
    shown = (lambda i: tokenizer.decode([i]).strip()) if name == "roberta" else tokenizer.convert_ids_to_tokens
    expected = [[shown(int(i)) for i in row] for row in best.indices]
    for (filled,) in ranks.run(size, found, generate_config(directory, best=3, parallel=parallel), [prompt]):
        assert [[t for t, _ in mask] for mask in filled.masks] == expected
        for mask, values in zip(filled.masks, best.values, strict=True):
            assert [share for _, share in mask] == pytest.approx(values.tolist(), rel=1e-4)


def test_a_chat_is_written_out_by_the_template(ranks, model_dirs, tmp_path):
    source = model_dirs("gpt2")
    directory = tmp_path / "gpt2"
    shutil.copytree(source, directory)
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}%s{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    (directory / "chat_template.jinja").write_text(template.replace("%s", "; "))
    config = generate_config(directory, max_new_tokens=12, chat=True)
    for own_loop in (False, True):
        (answers,) = ranks.run(1, found, config, ["To be", "Ein"], own_loop)
        assert [a.tokens for a in answers] == [theirs(source, f"user: {said}; A:") for said in ("To be", "Ein")]
