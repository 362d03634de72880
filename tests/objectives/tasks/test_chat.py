"""Dialogues become the tokens that Transformers' own templates give, and what is learned of them is what the assistant says."""

import json

import numpy as np
import pytest
import transformers

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.columns import find_columns
from dist_plm.data.labelled.dialogues import template_beside
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_task, build_writing_task
from dist_plm.spec.tasks import TASKS
from tests.tasks.inference.models import END, byte_level

BEGIN, STOP = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TURNS = [
    ("system", "Be short."),
    ("user", "To be?"),
    ("assistant", "Not to be."),
    ("user", " The cat"),
    ("assistant", "sat"),
]
OPENAI = [{"role": role, "content": text} for role, text in TURNS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer = byte_level()
    tokenizer.add_special_tokens([BEGIN, STOP])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    fast.chat_template = CHATML
    fast.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def encoder(folder):
    return ExampleEncoder(Tokenizer.load(folder), 200)


def encode(encoder, *rows, columns=None, **settings):
    body = build_task(TASKS["chat"](**settings))
    found = [LabelledRow(f"line {n}", row) for n, row in enumerate(rows, 1)]
    made = body.encode(found, columns or {"messages": "messages"}, encoder)
    return {name: [column[row].tolist() for row in range(len(column))] for name, column in made.items()}


def learned(encoder, made, row=0):
    """The pieces of text that are learned in one go."""
    labels, parts = made["labels"][row], [[]]
    for label in labels:
        if label != IGNORED:
            parts[-1].append(label)
        elif parts[-1]:
            parts.append([])
    return [encoder.tokenizer.decode(part) for part in parts if part]


def test_tokens_and_marks_are_those_of_transformers(folder, encoder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        OPENAI, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    made = encode(encoder, {"messages": OPENAI}, template=MARKED)
    ids, mask = theirs["input_ids"], theirs["assistant_masks"]
    assert made["tokens"] == [ids[:-1]]
    assert made["labels"] == [[i if m else IGNORED for i, m in zip(ids[1:], mask[1:], strict=True)]]
    assert 0 < sum(mask) < len(mask)


def test_without_marks_each_turn_of_the_assistant_is_learned_to_its_end(folder, encoder):
    template = template_beside(str(folder))
    assert template == CHATML
    made = encode(encoder, {"messages": OPENAI}, template=template)
    assert learned(encoder, made) == [f"Not to be.{STOP}", f"sat{STOP}"]
    assert made == encode(encoder, {"messages": OPENAI}, template=MARKED)


def test_by_hand():
    """Letters, so that each token can be seen: the label at a place is the token after it."""

    class Letters:
        def __init__(self):
            self.length, self.has_decoder = 200, False
            self.special_names, self.special_texts = {"eos_token": "$"}, ["$"]

        def marked(self, text):
            return [ord(letter) for letter in text], [(place, place + 1) for place in range(len(text))]

        def ragged(self, rows):
            return [np.array(row) for row in rows]

    made = encode(Letters(), {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    assert "".join(map(chr, made["tokens"][0])) == "User: a\nAssistant: b$"
    assert "".join("." if i == IGNORED else chr(i) for i in made["labels"][0]) == "." * 17 + " b$."


def test_every_form_of_a_dialogue_gives_the_same(encoder):
    pair = [{"role": "user", "content": "To be?"}, {"role": "assistant", "content": "No"}]
    wanted = encode(encoder, {"messages": pair}, template=CHATML)
    sharegpt = [{"from": "human", "value": "To be?"}, {"from": "gpt", "value": "No"}]
    forms = [
        ({"messages": sharegpt}, None),
        ({"messages": json.dumps(pair)}, None),
        ({"messages": str(pair)}, None),
        ({"p": "To be?", "c": "No"}, {"prompt": "p", "completion": "c"}),
        # Of a file whose rows have one form or the other.
        ({"p": "To be?", "c": "No"}, {"messages": "messages", "prompt": "p", "completion": "c"}),
        ({"messages": pair}, {"messages": "messages", "prompt": "p", "completion": "c"}),
    ]
    for row, columns in forms:
        assert encode(encoder, row, columns=columns, template=CHATML) == wanted
    system = encode(
        encoder, {"messages": pair, "s": "Be."}, columns={"messages": "messages", "system": "s"}, template=CHATML
    )
    said = [{"role": "system", "content": "Be."}, *pair]
    assert system == encode(encoder, {"messages": said}, template=CHATML)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"i": "To be?", "n": "The cat", "o": "No"}, {"prompt": "i", "input": "n", "completion": "o"}),
        ({"i": "To be?\n\nThe cat", "n": " ", "o": "No"}, {"prompt": "i", "input": "n", "completion": "o"}),
        ({"i": "To be?\n\nThe cat", "n": None, "o": "No"}, {"prompt": "i", "input": "n", "completion": "o"}),
        ({"n": "To be?\n\nThe cat", "o": "No"}, {"input": "n", "completion": "o"}),
        ({"n": "To be?\n\nThe cat", "o": "No"}, {"prompt": "n", "input": "n", "completion": "o"}),
    ],
)
def test_what_an_instruction_is_about_follows_it_as_in_alpaca(encoder, row, columns):
    said = [{"role": "user", "content": "To be?\n\nThe cat"}, {"role": "assistant", "content": "No"}]
    assert encode(encoder, row, columns=columns, template=CHATML) == encode(
        encoder, {"messages": said}, template=CHATML
    )


def test_columns_of_alpaca_are_known():
    names = ["instruction", "input", "output"]
    expected = {"prompt": "instruction", "input": "input", "completion": "output"}
    assert find_columns(TASKS["chat"].columns, {}, names, "rows.jsonl") == expected


def test_a_template_that_marks_all_is_refused(encoder):
    everything = "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}"
    with pytest.raises(DataError, match="line 1: all of the dialogue is marked as what the assistant says"):
        encode(encoder, {"messages": OPENAI}, template=everything)


def test_packed_dialogues_are_the_same_ones(encoder):
    said = [[{"role": "user", "content": "a" * n}, {"role": "assistant", "content": "b" * n}] for n in (3, 30, 9, 1)]
    rows = [{"messages": one} for one in said]
    apart = encode(encoder, *rows, template=MARKED)
    short = ExampleEncoder(encoder.tokenizer, max(map(len, apart["tokens"])) + 5)
    packed = encode(short, *rows, template=MARKED, packing=True)
    assert len(packed["tokens"]) < len(rows)
    found = []
    for tokens, labels, documents, positions in zip(
        *(packed[name] for name in ("tokens", "labels", "documents", "positions")), strict=True
    ):
        assert len(tokens) <= short.length
        for number in range(max(documents) + 1):
            at = [place for place, one in enumerate(documents) if one == number]
            assert [positions[place] for place in at] == list(range(len(at)))
            found.append(([tokens[place] for place in at], [labels[place] for place in at]))
    assert sorted(found) == sorted(zip(apart["tokens"], apart["labels"], strict=True))


def test_a_decoder_beside_an_encoder_writes_each_turn_of_the_assistant(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    both = ExampleEncoder(Tokenizer.load(folder), 60, has_decoder=True)
    made = encode(both, {"messages": OPENAI}, template=CHATML)
    assert len(made["tokens"]) == 2
    for row, turn in enumerate((2, 4)):
        source = theirs.apply_chat_template(OPENAI[:turn], add_generation_prompt=True, return_dict=False)
        assert made["tokens"][row] == [*source, both.end][-60:]
        target = theirs(OPENAI[turn]["content"], add_special_tokens=False)["input_ids"]
        assert made["labels"][row] == [*target, both.end]
        assert made["decoder_tokens"][row] == [both.start, *target]
    body = build_writing_task(TASKS["chat"]())
    assert body.prompts([OPENAI[:2]], ExampleEncoder(both.tokenizer, 200, has_decoder=True))[0][-1] == both.end
    with pytest.raises(DataError, match="line 1: nobody says anything before the assistant"):
        encode(both, {"messages": OPENAI[2:3]})


def test_a_prompt_is_what_stands_before_an_answer(encoder):
    pair = [{"role": "user", "content": "To be?"}, {"role": "assistant", "content": "No"}]
    (prompt,) = build_writing_task(TASKS["chat"](template=CHATML)).prompts(["To be?"], encoder)
    made = encode(encoder, {"messages": pair}, template=CHATML)
    assert made["tokens"][0][: len(prompt)] == prompt
    assert made["labels"][0][: len(prompt) - 1] == [IGNORED] * (len(prompt) - 1)
    assert made["labels"][0][len(prompt) - 1] != IGNORED


def test_the_token_that_ends_a_turn(encoder):
    ends = build_writing_task(TASKS["chat"](template=CHATML)).ends(encoder)
    assert [encoder.tokenizer.decode([end]) for end in ends] == [STOP]
    assert (
        build_writing_task(TASKS["chat"](template="{% for m in messages %}{{ m.content }}{% endfor %}")).ends(encoder)
        == []
    )


CHANGES_THE_PAST = "{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}"
REFUSES = "{{ raise_exception('only users may begin') }}"


@pytest.mark.parametrize(
    ("row", "settings", "part"),
    [
        ({"messages": "not messages"}, {}, "line 1 holds no list of messages"),
        ({"messages": "[{'role': 'user'}\n {'role': 'user'}]"}, {}, "which is no list as JSON or Python writes one"),
        ({"messages": []}, {}, "line 1 holds no list of messages"),
        ({"messages": [{"role": "user"}]}, {}, "message 1 has no role and content"),
        ({"messages": OPENAI[:2]}, {}, "the assistant says nothing"),
        ({"messages": [*OPENAI[:2], {"role": "assistant", "content": " "}]}, {}, "the assistant says nothing"),
        ({"messages": OPENAI}, {"template": CHANGES_THE_PAST}, "give a template with {% generation %} marks"),
        ({"messages": OPENAI}, {"template": REFUSES}, "the chat template refuses the dialogue: only users may begin"),
        (
            {"messages": OPENAI},
            {"template": "{{ messages[0].content + 1 }}"},
            "line 1: the chat template cannot write the dialogue (TypeError: can only concatenate",
        ),
        ({"messages": [{"role": "assistant", "content": f"a{END}b"}]}, {}, "a special token, which would end it"),
        (
            {"messages": [{"role": "user", "content": "long " * 99}, OPENAI[2]]},
            {},
            "nothing that the assistant says is within data.sequence_length = 200",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(encoder, row, settings, part):
    with pytest.raises(DataError) as refused:
        encode(encoder, row, **settings)
    assert part in str(refused.value)


def test_a_system_message_that_is_no_text(encoder):
    columns = {"prompt": "p", "completion": "c", "system": "s"}
    with pytest.raises(DataError, match=r"line 1: column 's' is int, no text: mend the row"):
        encode(encoder, {"p": "a", "c": "b", "s": 3}, columns=columns)


def test_no_column_of_a_dialogue(encoder):
    with pytest.raises(DataError, match="neither messages nor a prompt and its completion in the columns text"):
        encode(encoder, {"text": "a"}, columns={"prompt": "text"})


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ("[" * 100_000, "the chat template of the tokenizer .* cannot be read: it nests"),
        ("[]", "the chat template of the tokenizer .* cannot be read: "),
    ],
)
def test_a_template_that_cannot_be_read(tmp_path, settings, part):
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(DataError, match=part):
        template_beside(str(tmp_path))


def test_the_template_of_several_that_is_called_default(tmp_path):
    several = [{"name": [1], "template": "a"}, {"name": "default", "template": "b"}, {"name": "tool", "template": "c"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert template_beside(str(tmp_path)) == "b"
