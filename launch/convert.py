"""Says what a checkpoint holds.

    python launch/convert.py inspect=runs/quickstart
    python launch/convert.py inspect=runs/quickstart/checkpoints/step_00000100

Prints step, samples seen, data, size and every tensor with its shape, and compares each file with its checksum. A run or a
directory of checkpoints stands for the newest one in it; URLs of fsspec (s3://…) are paths too.
"""

from _app import main

from dist_plm.config.origins import Origin
from dist_plm.config.schema_convert import ConvertConfig
from dist_plm.errors import EXIT_FINISHED, EXIT_REFUSED


def run(config: ConvertConfig, origins: dict[str, Origin]) -> int:
    from dist_plm.tasks.inspection import inspect  # imports torch, which --help does without

    assert config.inspect is not None
    text, sound = inspect(config.inspect)
    print(text)
    return EXIT_FINISHED if sound else EXIT_REFUSED


if __name__ == "__main__":
    main(ConvertConfig, "convert", run, __doc__)
