import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_plm.cli.app import load
from dist_plm.config import credentials, runfile
from dist_plm.config.credentials import FromEnvironment, followed, mask, read_back, unset_in
from dist_plm.config.decode import decode, encode, show
from dist_plm.core.errors import ConfigError
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.spec.tasks import TaskConfig


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """What one test reads is no secret of the next."""
    before = dict(credentials._known)
    credentials._known.clear()
    yield
    credentials._known.clear()
    credentials._known.update(before)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://user:hunter2@host/x", "s3://user:***@host/x"),
        ("https://ghp_0123456789abcdefghij@host/x", "https://***@host/x"),
        ("error at 's3://a:b@c' and s3://d:e@f", "error at 's3://a:***@c' and s3://d:***@f"),
        ("s3://x/y?secret=hunter2&region=eu", "s3://x/y?secret=***&region=eu"),
        ("s3://x?a=1&aws_secret_access_key=hunter2", "s3://x?a=1&aws_secret_access_key=***"),
        ("--export=ALL,AWS_SECRET_ACCESS_KEY=hunter2,B=1", "--export=ALL,AWS_SECRET_ACCESS_KEY=***,B=1"),
        ("export WANDB_API_KEY='hunter 2'", "export WANDB_API_KEY=***"),
        ("HF_TOKEN=hunter2 run", "HF_TOKEN=*** run"),
    ],
)
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert mask(text) == shown
    assert "hunter" not in show(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/x",
        "ssh://me@host/x",
        "export A_TOKEN=$B",
        'export KEY_TOKEN="$(cat file)"',
        "optim.lr=1",
        "a: b@c",
        "--export=ALL,HF_TOKEN",
        "tokens=5 tokenizer=bpe tokenizer.path=x num_tokens=3",
        "memory://a?region=eu",
        "http://localhost:8080/x@y",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "override",
    [
        "checkpoint.dir='memory://user:hunter2@x'",
        "checkpoint.dir='memory://x?secret=hunter2'",
        "train.resume='s3://user:hunter2@x'",
        "cluster.options=['--export=ALL,MY_API_KEY=hunter2']",
        "cluster.setup=['export HF_TOKEN=hunter2']",
        "data.blend=[{path: 'x://u:hunter2@y'}]",
        "checkpoint.dir='memory://${oc.env:PATH}:hunter2@x'",
        "checkpoint.dir='memory://user:${oc.env:PATH}@x?secret=hunter2'",
    ],
)
def test_a_credential_in_the_open_is_refused_without_being_shown(override: str) -> None:
    with pytest.raises(ConfigError, match=r"holds a credential, .*\$\{oc.env:NAME\}") as caught:
        load(PretrainConfig, "pretrain", [override])
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "from=x", "prompt=def connect(api_key='abc', token=None):"],
        ["generate", "from=x", "prompt=x", 'stop=["token=x"]'],
        ["finetune", "model=gpt_tiny", "task=chat", "data.train=x", "task.template=\"{%- set eos_token='[SEP]' -%}\""],
        ["finetune", "model=gpt_tiny", "task=seq2seq", "data.train=x", 'task.prefix="password=abc "'],
    ],
)
def test_what_people_and_models_read_may_look_like_anything(words: list[str]) -> None:
    name, *overrides = words
    cls = GenerateConfig if name == "generate" else FinetuneConfig
    config, _ = load(cls, name, overrides)
    assert decode(cls, encode(config)) == config


def test_what_a_run_has_written_is_read_whatever_it_looks_like() -> None:
    written = {"name": "classify", "positive": "token=abc"}
    with pytest.raises(ConfigError, match="holds a credential"):
        decode(TaskConfig, written)
    assert decode(TaskConfig, written, of_before=True).positive == "token=abc"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_credential_of_the_environment_is_used_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    monkeypatch.setenv("PLACE", "memory://user:hunter3@x")
    overrides = ["checkpoint.dir='memory://user:${oc.env:MY_SECRET}@x'", "train.resume='${oc.env:PLACE}/y'"]
    config, _ = load(PretrainConfig, "pretrain", [*overrides, "train.init_from='${checkpoint.dir}/z'"])
    assert config.checkpoint.dir == "memory://user:hunter2@x"
    assert config.train.resume == "memory://user:hunter3@x/y"
    assert config.train.init_from == "memory://user:hunter2@x/z"
    written = runfile.text(config)
    assert "hunter" not in written
    assert "hunter" not in show(config.checkpoint.dir)
    assert "dir: memory://user:${oc.env:MY_SECRET}@x" in written
    assert "resume: ${oc.env:PLACE}/y" in written

    runfile.write(config, tmp_path / "run.yaml")
    assert runfile.read(tmp_path / "run.yaml", PretrainConfig) == config
    assert encode(runfile.read(tmp_path / "run.yaml", PretrainConfig)) == encode(config)
    monkeypatch.delenv("MY_SECRET")
    with pytest.raises(ConfigError, match="refers to MY_SECRET of the environment, which is not set here"):
        runfile.read(tmp_path / "run.yaml", PretrainConfig)


@pytest.mark.parametrize(
    "url",
    [
        "s3://${oc.env:GIVEN}@bucket/x",
        "s3://${oc.env:OTHER}:${oc.env:GIVEN}@bucket/x",
        "s3://u:${oc.env:GIVEN}@${oc.env:OTHER}/x",
        "s3://bucket/x?sig=${oc.env:GIVEN}",
        "s3://bucket/x?region=eu&sig=${oc.env:GIVEN,abc}#y",
        "s3://bucket/${oc.env:MY_SECRET}",
        "${oc.env:URL}",
    ],
)
@pytest.mark.parametrize("secret", ["a", "a/b+c="])
def test_a_short_credential_is_known_by_its_place(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_url = f"s3://{secret.replace('/', '%2F')}@b"
    for name, value in {"GIVEN": secret, "MY_SECRET": secret, "OTHER": "data", "URL": of_url}.items():
        monkeypatch.setenv(name, value)
    config, _ = load(PretrainConfig, "pretrain", [f"checkpoint.dir='{url}'", "train.init_from='${checkpoint.dir}/y'"])
    for written in (encode(config)["checkpoint"]["dir"], encode(config)["train"]["init_from"]):
        without_names = re.sub(r"\$\{oc.env:\w+\}", "", written)
        assert secret not in without_names.replace("data", "")
    assert decode(PretrainConfig, read_back(encode(config))) == config
    assert config.data.path == encode(config)["data"]["path"], "a short secret stands in other words by chance"


def test_what_stands_in_no_place_of_a_credential_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "b")
    config, _ = load(PretrainConfig, "pretrain", ["checkpoint.dir='memory://me@${oc.env:BUCKET}/x?region=eu'"])
    assert encode(config)["checkpoint"]["dir"] == "memory://me@b/x?region=eu"


def test_texts_of_libraries_show_no_credential_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter4/")
    monkeypatch.setenv("SHORT", "abc")
    load(PretrainConfig, "pretrain", ["checkpoint.dir='memory://b/${oc.env:MY_SECRET}'"])
    assert mask("no such file: b/hunter4/x") == "no such file: b/${oc.env:MY_SECRET}x"
    load(PretrainConfig, "pretrain", ["checkpoint.dir='memory://${oc.env:SHORT}@b/x'"])
    assert mask("no such file: memory://abc@b/x/latest") == "no such file: memory://${oc.env:SHORT}@b/x/latest"


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("tiger", "user 'me' with 'tiger' is unknown", "user 'me' with '*' is unknown"),
        ("tiger", "https://me:tiger@h/x", "https://me:*@h/x"),
        ("tiger", "tigers and xtiger, ${oc.env:tiger}", "tigers and xtiger, ${oc.env:tiger}"),
        ("t+g/", "at t+g/: no", "at *: no"),
        ("p@ss", "https://h/?x=p%40ss and p@ss", "https://h/?x=* and *"),
        ("p%40ss", "'p@ss', 'p%40ss'", "'*', '*'"),
        ("a", "a word and s3://me:a@b/x", "a word and *"),
    ],
)
def test_a_short_credential_is_masked_where_it_is_a_word(
    secret: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three characters and fewer it is a word of any text, and masked in its URL alone."""
    monkeypatch.setenv("MY_SECRET", secret)
    load(PretrainConfig, "pretrain", ["checkpoint.dir='s3://me:${oc.env:MY_SECRET}@b/x'"])
    whole = "s3://me:${oc.env:MY_SECRET}@b/x"
    assert mask(text) == shown.replace("*", whole if secret == "a" else "${oc.env:MY_SECRET}")


def test_an_authors_directory_is_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "MY_AUTHORS", "AUTHORS_DIR", "HTTP_AUTH", "AUTHORIZATION", "OAUTH_KEY"):
        monkeypatch.setenv(name, "/data/x")
    found = credentials.secrets_among([f"${{oc.env:{name}}}" for name in ("AUTHOR", "MY_AUTHORS", "AUTHORS_DIR")])
    assert not found
    assert len(credentials.secrets_among(["${oc.env:HTTP_AUTH} ${oc.env:AUTHORIZATION} ${oc.env:OAUTH_KEY}"])) == 3


def test_tokens_that_are_counted_and_tokenizers_are_no_credentials() -> None:
    values = {"MAX_TOKENS": "512", "TOKENIZER_DIR": "/data/tokenizer", "TOKENS": "7", "TOKENISER": "x"}
    secrets = {"HF_TOKEN": "12345678", "API_TOKENS": "a,b", "TOKEN_OF_CI": "abc"}
    texts = [f"${{oc.env:{name}}}" for name in (*values, *secrets)]
    assert credentials.secrets_among(texts, values | secrets) == secrets


def test_what_another_run_referred_to_is_followed_where_it_is_set() -> None:
    text = "${oc.env:SECRET_DIR}/a ${oc.env:OTHER_KEY}"
    assert followed(text, {"SECRET_DIR": "/s", "OTHER_KEY": "k"}) == "/s/a k"
    assert followed(text, {"SECRET_DIR": "/s"}) == text
    assert unset_in(text, {"SECRET_DIR": "/s"}) == ["OTHER_KEY"]
    assert followed("/s/a", {}) == "/s/a"


def test_variables_that_are_no_credentials_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    config, _ = load(PretrainConfig, "pretrain", ["run.root='${oc.env:SCRATCH}/runs'"])
    assert encode(config)["run"]["root"] == "/scratch/me/runs"


def test_it_goes_to_other_processes_as_it_is() -> None:
    text = pickle.loads(pickle.dumps(FromEnvironment("secret", "${oc.env:A}")))
    assert (text, text.written) == ("secret", "${oc.env:A}")
