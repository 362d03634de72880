"""Tasks of lm-evaluation-harness on any grid give what the harness's own model of Transformers gives on the same directory."""

import json
import shutil

import pytest
import tokenizers as hf
import yaml
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from megatron.core import parallel_state
from tokenizers import processors

from dist_plm.core.errors import ConfigError, UserError
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.spec.inference.rules import EVALUATE_RULES
from dist_plm.tasks.evaluate.evaluate import check_evaluation, measured
from dist_plm.tasks.harness.harness_model import HarnessModel
from dist_plm.tasks.inference.open_model import build_runner
from tests.ranks.selection import covering
from tests.tasks.inference.models import END, LENGTH, TEXTS, evaluate_config, opened

pytestmark = pytest.mark.ranks

GRIDS = {
    "one": (1, {}),
    "data": (2, {"data": 2}),
    "tensor": (2, {"tensor": 2}),
    "pipeline": (2, {"pipeline": 2}),
    "data_tensor": (4, {"data": 2, "tensor": 2}),
}
#: Of contexts and how they go on: none before it, a space at its end, more than a pass sees, and words of the vocabulary.
PAIRS = [
    ("", " To be"),
    ("", END + " or not"),
    ("The cat sat ", "on the mat"),
    ("The cat sat", " on the log;"),
    (TEXTS[1], " and nobody knew"),
    (END + "The dog", " sat"),
    ("Ein kurzer", " Satz mit Umlauten: äöü"),
]
ASKED = [
    {"until": ["\n", " the"], "max_gen_toks": 7},
    {"until": [], "max_gen_toks": 5, "do_sample": False, "temperature": 0.7},
    {"until": "o", "max_new_tokens": 9},
]
ROWS = [
    {"question": "The cat sat on the", "choices": [" mat", " log and all", " bird"], "label": 0, "text": TEXTS[1]},
    {"question": "To be, or not to", "choices": [" be", " sit", " nobody at all"], "label": 1, "text": TEXTS[0]},
    {"question": "Whether it is", "choices": [" nobler", " the", "!"], "label": 2, "text": TEXTS[2]},
    {"question": "and nobody knew what", "choices": [" the bird", " it", " question"], "label": 0, "text": "What"},
    {"question": "the dog sat", "choices": [" on the log", ";", " in"], "label": 1, "text": "the log; the mat"},
]
TASKS = {
    "chosen": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "fewshot_split": "test",
        "target_delimiter": "",
    },
    "read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def requests(kind: str, arguments: list) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def asked_of(model) -> tuple[list, list, list]:
    """What the harness may ask, all of it."""
    contexts = [context or "A" for context, _ in PAIRS[2:]]
    written = [(context, how) for how in ASKED for context in contexts]
    return (
        model.loglikelihood(requests("loglikelihood", PAIRS)),
        model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS])),
        model.generate_until(requests("generate_until", written)),
    )


@pytest.fixture(scope="module")
def exported(model_dirs, tmp_path_factory):
    """Directories as an export has them, with the tokenizer's own files; of llama one that begins texts with a token."""
    found = {}
    for name in ("gpt2", "llama"):
        found[name] = tmp_path_factory.mktemp("exported") / name
        shutil.copytree(model_dirs(name), found[name])
        if name == "llama":
            tokenizer = hf.Tokenizer.from_file(str(found[name] / "tokenizer.json"))
            frame = {"single": f"{END} $A", "special_tokens": [(END, tokenizer.token_to_id(END))]}
            tokenizer.post_processor = processors.TemplateProcessing(**frame)
            tokenizer.save(str(found[name] / "tokenizer.json"))
        Tokenizer.load(found[name]).save_directory(found[name])
    return found


@pytest.fixture(scope="module")
def theirs(exported):
    how = {"device": "cpu", "dtype": "float32", "batch_size": 3, "max_length": LENGTH}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LOCAL_RANK", raising=False)  # an engine of another test may have set it: it would join ranks
        return {name: HFLM(pretrained=str(where), **how) for name, where in exported.items()}


@pytest.fixture(scope="module")
def tasks(theirs, tmp_path_factory):
    """A folder of tasks; every other row of `written` has for an answer what gpt2 writes."""
    folder = tmp_path_factory.mktemp("tasks")
    how = TASKS["written"]["generation_kwargs"]
    written = theirs["gpt2"].generate_until(requests("generate_until", [(row["question"], how) for row in ROWS]))
    rows = [{**row, "answer": text if n % 2 else "?"} for n, (row, text) in enumerate(zip(ROWS, written, strict=True))]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
        content = {"task": name, "test_split": "test", "metadata": {"version": 1.0}, **data, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def answers(world, config):
    session = opened(world, config)
    return asked_of(HarnessModel(config, session, build_runner(session), LENGTH))


def check(ours, model) -> None:
    likely, rolled, written = asked_of(model)
    assert [hit for _, hit in ours[0]] == [hit for _, hit in likely]
    assert [one for one, _ in ours[0]] == pytest.approx([one for one, _ in likely], rel=1e-5)
    assert ours[1] == pytest.approx(rolled, rel=1e-5)
    assert ours[2] == written
    assert len(set(written)) > 5


CELLS = [(name, grid) for name in ("gpt2", "llama") for grid in GRIDS]


@pytest.mark.parametrize(("name", "grid"), covering(CELLS, [("gpt2", "data"), ("llama", "tensor")]))
def test_answers_are_those_of_transformers(ranks, exported, theirs, name, grid):
    size, parallel = GRIDS[grid]
    config = evaluate_config(exported[name], on="lm_eval", tasks=["any"], parallel=parallel, batch_size=3)
    for ours in ranks.run(size, answers, config):
        check(ours, theirs[name])


def found(world, config):
    return measured(config, opened(world, config))


@pytest.mark.parametrize("grid", covering(list(GRIDS), ["data"]))
def test_tasks_give_the_harness_own_numbers(ranks, exported, theirs, tasks, grid):
    size, parallel = GRIDS[grid]
    asked = {"on": "lm_eval", "tasks": list(TASKS), "task_folder": str(tasks), "num_fewshot": 1, "window": LENGTH}
    told = ranks.run(size, found, evaluate_config(exported["gpt2"], parallel=parallel, **asked))
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    own = simple_evaluate(theirs["gpt2"], tasks=list(TASKS), num_fewshot=1, task_manager=manager, log_samples=False)
    expected = {
        f"{task}/{name.partition(',')[0]}": value
        for task, measures in own["results"].items()
        for name, value in measures.items()
        if name.endswith(",none") and isinstance(value, float) and value == value
    }
    assert {"chosen/acc", "chosen/acc_stderr", "read/word_perplexity", "written/exact_match"} <= expected.keys()
    assert told[0]["results"] == pytest.approx(expected, rel=1e-5)
    assert all(one["results"] == told[0]["results"] for one in told)
    assert told[0]["counts"] == dict.fromkeys(TASKS, len(ROWS))


def refused(world, config) -> str:
    with pytest.raises(UserError) as refusal:
        measured(config, opened(world, config))
    return str(refusal.value)


def all_refused(world, configs) -> list[str]:
    """In one process, as importing the harness takes longer than all that is refused."""
    messages = []
    for config in configs:
        messages.append(refused(world, config))
        parallel_state.destroy_model_parallel()
    return messages


def test_what_cannot_be_is_refused_in_one_message(ranks, exported, model_dirs, tasks, tmp_path):
    (tmp_path / "broken.yaml").write_text((tasks / "read.yaml").read_text().replace("rows.jsonl", "gone.jsonl"))
    asked = {"on": "lm_eval", "window": LENGTH}
    of_folder = {"task_folder": str(tasks)}
    cases = (
        (exported["gpt2"], {"tasks": ["read"], "task_folder": str(tmp_path)}, "tasks = read cannot be loaded: "),
        (exported["gpt2"], {"tasks": ["read"], "task_folder": str(tmp_path)}, "gone.jsonl"),
        (
            exported["gpt2"],
            {"tasks": ["read"], **of_folder, "window": LENGTH + 1},
            "the 32 positions that the model has",
        ),
        (
            exported["gpt2"],
            {"tasks": ["chosen"], **of_folder, "window": 2},
            "has an answer of 3 tokens, and a pass sees 2",
        ),
        (exported["gpt2"], {"tasks": ["written"], **of_folder, "window": 4}, "write 4 tokens, and a pass sees 4"),
        (model_dirs("t5"), {"tasks": ["read"], **of_folder}, "does not read from left to right"),
        (model_dirs("bert"), {"tasks": ["read"], **of_folder}, "does not read from left to right"),
    )
    configs = [evaluate_config(directory, **{**asked, **settings}) for directory, settings, _ in cases]
    told = zip(*ranks.run(2, all_refused, configs), strict=True)
    for (_, _, part), config, messages in zip(cases, configs, told, strict=True):
        assert all(part in message for message in messages), messages
        if part.startswith(("the 32 positions", "does not read")):
            with pytest.raises(UserError, match=part):
                check_evaluation(config, 2)
    check_evaluation(evaluate_config(exported["gpt2"], tasks=["chosen"], **asked, **of_folder), 2)


@pytest.mark.slow
def test_a_task_that_is_not_there_is_told_with_near_names(ranks, exported, tasks):
    """All of the harness's own are looked through, which takes ten seconds."""
    config = evaluate_config(exported["gpt2"], on="lm_eval", tasks=["chosne"], task_folder=str(tasks))
    told = "tasks = chosne: neither lm-evaluation-harness nor task_folder has such a task; did you mean chosen"
    for message in ranks.run(1, refused, config):
        assert told in message
    with pytest.raises(UserError, match=told):
        check_evaluation(config, 1)


def problems(**settings) -> list[str]:
    config = evaluate_config("x", **settings)
    return [problem for rule in EVALUATE_RULES for problem in rule(config)]


def test_settings_of_others_have_no_effect():
    assert problems(on="lm_eval", tasks=["a"], num_fewshot=0) == []
    (problem,) = problems(on="lm_eval")
    assert "tasks=[lambada_openai,arc_easy]" in problem
    (problem,) = problems(on="lm_eval", tasks=["a"], data={"text": "x"})
    assert "data.text = 'x' has no effect" in problem
    (problem,) = problems(on="perplexity", tasks=["a"], data={"text": "x"})
    assert "tasks = ['a'] has no effect" in problem


def test_without_the_harness_the_extra_is_named(monkeypatch):
    from dist_plm.tasks.harness import measure_harness

    monkeypatch.setattr(measure_harness, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'dist_plm\[lm_eval\]'"):
        measure_harness.check_harness(None)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="task_folder = nowhere is no directory"):
        measure_harness.check_harness("nowhere")
