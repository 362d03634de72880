"""Says what a checkpoint holds, or converts it.

    python launch/convert.py inspect=runs/quickstart
    python launch/convert.py inspect=runs/quickstart/checkpoints/step_00000100
    python launch/convert.py from=runs/quickstart to=exported format=hf
    python launch/convert.py from=downloads/bert-base-uncased to=imported
    python launch/convert.py from=megatron/checkpoints to=imported vocab_size=50257

inspect= prints step, samples seen, data, size and every tensor with its shape, and compares each file with its checksum. A
run or a directory of checkpoints stands for the newest one in it; URLs of fsspec (s3://…) are paths too.

from= to= format=hf writes a directory of Hugging Face from a checkpoint or run, format=peft the adapters of one that has such
(model.lora), format=sentence_transformers an encoder that makes vectors of texts. Without format= a checkpoint is made, from
which launch/pretrain.py goes on with train.resume=…, on any process grid. Tensors go from disk to disk one at a time.
What was exported is opened by Transformers then, and its logits are compared with those of the checkpoint (verify=false: not).

Of Megatron-LM (--ckpt-format torch_dist) GPT models are read, of DeepSpeed (ZeRO 1, 2 and 3, no pipeline) those of Megatron and
of Hugging Face; with weights, the optimizer's moments and step. Padding of the vocabulary goes: Megatron's softmax counts it,
this program's does not, so the first losses are that much lower. What a checkpoint does not tell is asked for; of a model of
Hugging Face config.json is read, where it lies beside the checkpoint or in hf_config=DIR. Nothing that a file says is run: of
classes only those that are known are made, others are named and refused.
"""

import signal
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.config.credentials import mask
from dist_plm.config.origins import Origin
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED
from dist_plm.core.streams import tell
from dist_plm.spec.schema_convert import ConvertConfig


def run(config: ConvertConfig, origins: dict[str, Origin]) -> int:
    # Imported here, as both import torch, which --help does without.
    if config.inspect is None:
        from dist_plm.tasks.convert.convert import convert

        tell(mask(convert(config)))
        return EXIT_FINISHED
    from dist_plm.tasks.convert.inspection import inspect

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # what only prints ends quietly under `… | head`
    text, sound = inspect(config.inspect)
    tell(mask(text))
    return EXIT_FINISHED if sound else EXIT_REFUSED


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    app.main(ConvertConfig, "convert", run, __doc__)


if __name__ == "__main__":
    main()
