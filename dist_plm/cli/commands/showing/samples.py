"""Shows the text that a step of a run learned from, with what was masked or asked.

    python launch/samples.py run=runs/quickstart step=100
    python launch/samples.py run=runs/quickstart step=100 limit=2
    python launch/samples.py run=runs/quickstart samples='[64, 80]'

So a spike of the loss leads to its data: metrics.jsonl names the worst microbatch of a step, worst/first_sample to
worst/last_sample. Samples are read again from the run's data, which must be where they were. What the run skips
(train.heal.mode=on, data.skip_samples) is no part of any step; numbers show it all the same.

[[this -> that]] stands for what is masked or corrupted, and what is to be predicted in its place; in <<…>> is what alone is
predicted of a text; a decoder's text and labels of a task follow on lines of their own.
"""

import signal
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.config.credentials import mask
from dist_plm.config.origins import Origin
from dist_plm.core.errors import EXIT_FINISHED
from dist_plm.core.streams import tell
from dist_plm.spec.samples_shown.schema import SamplesShownConfig


def run(config: SamplesShownConfig, origins: dict[str, Origin]) -> int:
    # Imported here, as it reads data, which --help does without.
    from dist_plm.tasks.samples.show_samples import show_samples

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # what only prints ends quietly under `… | head`
    tell(mask(show_samples(config)))
    return EXIT_FINISHED


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    app.main(SamplesShownConfig, "samples", run, __doc__)


if __name__ == "__main__":
    main()
