"""Every setting of launch/submit.py command=evaluate and command=generate, as frozen dataclasses; see schema.py."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.schema import JobConfig, SubmitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSubmitConfig(SubmitConfig):
    """`dir` is the job's directory, which holds its script, its log, and results that `out` gives no place. Derived when None:
    a new one in the directory of the run that is asked, evaluate/1, evaluate/2, …, or of a model without one in
    runs/evaluate/NAME. `check_data` looks at the model, and opens what is read, before anything is queued."""

    dir: str | None = None


@dataclass(frozen=True, kw_only=True)  # no slots: see JobConfig
class InferenceJobConfig(JobConfig):
    """Says how a model that is trained already is asked on a cluster.

    Attributes:
        asks: what the command's settings decode into.
        result: names the file of results in the job's directory, where `out` is None.
    """

    asks: ClassVar[type[EvaluateConfig] | type[GenerateConfig]]
    result: ClassVar[str]

    submit: InferenceSubmitConfig = field(default_factory=InferenceSubmitConfig)

    def submission_problems(self) -> Iterator[str]:
        """Yields a sentence for each thing that no job can do."""
        reason = f"command = {self.command!r}, which trains nothing"
        yield from no_effect(self.submit, "submit", ("force", "rehearse"), reason)
        yield from path_problems("submit.dir", self.submit.dir, made=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSubmissionConfig(EvaluateConfig, InferenceJobConfig):
    """An evaluation that is submitted."""

    asks: ClassVar[type[EvaluateConfig] | type[GenerateConfig]] = EvaluateConfig
    result: ClassVar[str] = "results.json"

    command: Literal["evaluate"] = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSubmissionConfig(GenerateConfig, InferenceJobConfig):
    """A generation that is submitted."""

    asks: ClassVar[type[EvaluateConfig] | type[GenerateConfig]] = GenerateConfig
    result: ClassVar[str] = "answers.jsonl"

    command: Literal["generate"] = "generate"

    def submission_problems(self) -> Iterator[str]:
        yield from InferenceJobConfig.submission_problems(self)
        if self.talks:
            yield (
                "chat = true without a prompt talks in a terminal, which a job has none of: give prompts=FILE, what one says a "
                "line, or start launch/generate.py where you sit"
            )


#: A submission of either kind.
InferenceSubmission = EvaluateSubmissionConfig | GenerateSubmissionConfig


def asked_by(submission: InferenceSubmission) -> EvaluateConfig | GenerateConfig:
    """Returns what the job starts, as the command of that name knows it."""
    kind = submission.asks
    return kind(**{f.name: getattr(submission, f.name) for f in fields(kind)})
