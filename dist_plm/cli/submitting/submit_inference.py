"""Submits an evaluation, or a generation, once all of it has passed here."""

from collections.abc import Sequence

from dist_plm.cli.submitting.check_inference import check_inference
from dist_plm.cli.submitting.told_jobs import told, watched
from dist_plm.cluster.submission.inference_job import InferenceJob
from dist_plm.cluster.submit import busy_problems, queue, refuse_what_cannot_start
from dist_plm.core.errors import ConfigError
from dist_plm.spec.inference.submissions import InferenceSubmission


def submit_inference(config: InferenceSubmission, overrides: Sequence[str]) -> int | None:
    """Submits a job, or prints its script. Returns the exit code where the job is followed.

    Args:
        overrides: that it was made from, for people to read.
    Raises:
        UserError: it is not fit to be queued.
    """
    checked = check_inference(config)
    job = InferenceJob(checked, tuple(overrides), is_new=config.submit.dir is None)
    if problems := list(busy_problems(job.place, "name another with submit.dir=DIR")):
        raise ConfigError(problems)
    if config.submit.dry_run:
        print(job.script, end="")
        return None
    refuse_what_cannot_start([job])
    followed = told(job, queue(job), {"out": str(job.place.working / (checked.out or ""))})
    return watched([followed]) if config.submit.watch else None
