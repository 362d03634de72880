"""Is an evaluation or a generation fit to be queued? Asked on the login node, without building a model."""

from functools import partial

from dist_plm.cluster.submission.asked_of_slurm import fewer_nodes_problems, slurm_problems, world_size
from dist_plm.cluster.submission.inference_job import placed, problems_on
from dist_plm.core.errors import ConfigError
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.inference.submissions import InferenceSubmission, asked_by
from dist_plm.spec.rules.finalize import check_evaluate, check_generate


def check_inference(submission: InferenceSubmission) -> InferenceSubmission:
    """The submission checked for the ranks that its nodes will have, with a place for the job and its results.

    Raises:
        ConfigError: with every rule that is broken.
        UserError: the model or what is read cannot be used, or results cannot be written.
    """
    asked = asked_by(submission)
    problems = [*slurm_problems(submission.cluster, is_signalled=False), *submission.submission_problems()]
    try:
        _check_settings(asked)
    except ConfigError as error:
        problems += error.problems
    if not submission.submit.check_data:
        problems += problems_on(submission, submission.nodes)
    problems += fewer_nodes_problems(submission, partial(problems_on, submission))
    if problems:
        raise ConfigError(problems)
    if submission.submit.check_data:
        _look(asked, world_size(submission.nodes, submission.cluster))
    return placed(submission)


def _check_settings(asked: EvaluateConfig | GenerateConfig) -> None:
    """By the rules of the command that the job starts."""
    if isinstance(asked, EvaluateConfig):
        check_evaluate(asked)
    else:
        check_generate(asked)


def _look(asked: EvaluateConfig | GenerateConfig, num_ranks: int) -> None:
    """Sees to it that so many ranks can do it. Brings PyTorch."""
    if isinstance(asked, EvaluateConfig):
        from dist_plm.tasks.evaluate.evaluate import check_evaluation

        check_evaluation(asked, num_ranks)
    else:
        from dist_plm.tasks.generate.check_generation import check_generation

        check_generation(asked, num_ranks)
