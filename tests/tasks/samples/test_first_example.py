"""What a fine-tuning run is about to learn is shown, what is predicted of it apart."""

import json

from dist_plm.tasks.samples.first_example import first_example
from dist_plm.train.data import open_run
from tests.train.finetuning import make_rows, settings

GPT = {"family": "gpt", "layers": 1, "hidden": 32, "heads": 2}
SAID = [
    {"role": "user", "content": "the film"},
    {"role": "assistant", "content": "was good"},
    {"role": "user", "content": "the play"},
    {"role": "assistant", "content": "was not"},
]


def opened(folder, rows, **changes):
    make_rows(folder)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_run(settings(folder, folder / "run", **changes), 1)


def test_what_the_assistant_says_is_marked_or_green(tmp_path):
    config, data = opened(tmp_path, [{"messages": SAID}], model=GPT, task__name="chat", data__sequence_length=64)
    heading, line = first_example(config, data, coloured=False).splitlines()
    assert heading == "the first example, with what alone is predicted of it in <<…>>:"
    assert line.count("<<") == line.count(">>") == 2
    first, second = (part.partition(">>")[0] for part in line.split("<<")[1:])
    assert first.replace(" ", "").startswith("wasgood")
    assert second.replace(" ", "").startswith("wasnot")
    assert "film" not in first
    _, coloured = first_example(config, data, coloured=True).splitlines()
    assert coloured.replace("\x1b[32m", "<<").replace("\x1b[0m", ">>") == line


def test_labels_stand_below_the_text(tmp_path):
    rows = [{"text": "the film was good " * 9, "label": name} for name in ("good", "good", "bad")]
    config, data = opened(tmp_path, rows, train__epochs=1)
    _, text, label = first_example(config, data, coloured=False).splitlines()
    assert text.startswith("[CLS] the film was good")
    assert label in ("class_labels: 0", "class_labels: 1")
