"""A dialogue in the terminal: each answer is that to all that was said, on one rank and on two."""

import contextlib
import io
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from dist_plm.core.errors import UserError
from dist_plm.tasks.generate.check_generation import rows_to_write
from dist_plm.tasks.generate.converse import heard, turns
from dist_plm.tasks.generate.generate import answered
from tests.tasks.inference.models import generate_config, opened

pytestmark = pytest.mark.ranks


def talk(world, config, lines):
    """Dialogues after each answer, and what a dialogue of the last of them is answered alone."""
    session, left = opened(world, config), iter(lines)
    try:
        said = list(turns(config, session, lambda: next(left, None)))
    except UserError as error:
        return str(error), None
    (alone,), _ = answered(config, session, [said[-1][:-1]])
    return said, alone.text.strip()


def test_each_answer_is_that_to_all_that_was_said(ranks, model_dirs):
    config = generate_config(model_dirs("llama"), chat=True, max_new_tokens=3)
    lines = ["a", "", "b", "cat"]
    ((said, alone),) = ranks.run(1, talk, config, lines)
    assert [len(dialogue) for dialogue in said] == [2, 2, 4], "an empty line begins anew"
    assert [one["content"] for one in said[-1][::2]] == ["b", "cat"]
    assert said[-1][-1]["content"] == alone
    shared = generate_config(model_dirs("llama"), chat=True, max_new_tokens=3, parallel={"tensor": 2})
    for found, _ in ranks.run(2, talk, shared, lines):
        assert found == said


def remembered(world, config, lines):
    """What is left of the dialogue after each answer, what was told, and the last prompt as the model reads it."""
    session, left, told = opened(world, config), iter(lines), io.StringIO()
    with contextlib.redirect_stdout(told):
        said = list(turns(config, session, lambda: next(left, None)))
    (row,) = rows_to_write(config, session, [said[-1][:-1]])
    return said, told.getvalue(), session.vocabulary.decode(row.tokens)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_nothing_is_forgotten_but_whole_turns_and_that_is_told(ranks, model_dirs, name):
    """Of a model that counts positions; the other reads on."""
    config = generate_config(model_dirs(name), chat=True, max_new_tokens=1)
    ((said, told, read),) = ranks.run(1, remembered, config, ["first", "the cat sat", "last"])
    forgets = name == "gpt2"
    assert ("(what was said first is forgotten)" in told) == forgets
    assert (len(said[-1]) < 6) == forgets
    assert all(f"User: {one['content']}\n" in read for one in said[-1][:-1:2])


def test_a_model_that_fills_in_does_not_talk(ranks, model_dirs):
    ((problem, _),) = ranks.run(1, talk, generate_config(model_dirs("bert"), chat=True), ["a"])
    assert "fills in what is masked and does not talk" in problem


def hear(world, seconds, timeout):
    """What ranks hear whose collectives wait for less long than a line takes, and of a terminal that breaks."""
    group, lines = dist.new_group(timeout=timedelta(seconds=timeout)), iter(["thought of", None])

    def read() -> str | None:
        time.sleep(seconds)
        return next(lines)

    def break_off() -> str | None:
        raise OSError(5, "Input/output error")

    found = [heard(group, read) for _ in range(2)]
    try:
        heard(group, break_off)
    except UserError as error:
        return [*found, str(error)]
    finally:
        dist.destroy_process_group(group)


def test_a_person_may_think_for_longer_than_a_collective_waits(ranks):
    assert ranks.run(2, hear, 4.0, 2.5) == [["thought of", None, "Input/output error"]] * 2
