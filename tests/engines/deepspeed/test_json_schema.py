"""What `engine.deepspeed` may hold is what this DeepSpeed reads; offload goes through to its JSON; all before a run starts."""

import errno
import inspect
import json
import os
import re

import pytest

from dist_plm.cluster.check import check_run
from dist_plm.core.errors import ConfigError
from dist_plm.engines.deepspeed.json_schema import SCHEMAS, check_keys
from dist_plm.engines.deepspeed.settings import OURS, PLAIN, on_nvme, settings_of, write_settings
from dist_plm.train.build import engine_settings
from tests.ranks.training import configure

NVME = {
    "zero_optimization": {
        "offload_optimizer": {"device": "nvme", "nvme_path": "/local", "buffer_count": 5, "pipeline_read": True},
        "offload_param": {"device": "nvme", "nvme_path": "/local", "buffer_size": 10_000_000},
    },
    "aio": {"block_size": 1048576, "queue_depth": 16, "single_submit": False, "overlap_events": True},
}


def configured(extra: dict, **changes):
    return configure(2, engine__name="deepspeed", engine__zero_stage=3, engine__deepspeed=extra, **changes)


def test_every_key_is_one_that_deepspeed_reads():
    from deepspeed.runtime import config, constants

    read = {name: value for name, value in vars(constants).items() if isinstance(value, str)}
    source = inspect.getsource(config)
    names = {value for name, value in read.items() if re.search(rf"\b{name}\b", source)}
    assert set(PLAIN) <= names
    elsewhere = {"fp16", "bf16", "torch_autocast", "tensorboard", "wandb"}  # sections with files of their own
    assert {key for key in OURS if "." not in key} <= names | elsewhere
    for key, default in {"prescale_gradients": False, "dump_state": False, "zero_force_ds_cpu_optimizer": True}.items():
        assert isinstance(default, PLAIN[key])
        assert read[key.upper()] == key


def test_schemas_are_deepspeeds_own():
    from deepspeed.runtime.swap_tensor.aio_config import get_aio_config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    assert SCHEMAS["zero_optimization"] is DeepSpeedZeroConfig
    assert SCHEMAS["aio"]().model_dump() == get_aio_config({})


def test_what_deepspeed_calls_deprecated_is_refused():
    """But for a name that nothing here asks for."""
    fields = SCHEMAS["zero_optimization"].model_fields
    old = {name for name, field in fields.items() if (field.json_schema_extra or {}).get("deprecated")}
    refused = old - {"gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save"}
    assert {"cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory"} <= refused
    for name in refused:
        with pytest.raises(ConfigError, match=f"{name} = true is a deprecated setting"):
            configured({"zero_optimization": {name: True}})


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (
            {"zero_optimisation": {}},
            r"zero_optimisation is not a setting of DeepSpeed; did you mean zero_optimization\?",
        ),
        ({"zero_optimization": {"overlap_com": True}}, r"overlap_com .*did you mean overlap_comm\?"),
        ({"zero_optimization": {"offload_optimizer": {"device": "disk"}}}, r"offload_optimizer\.device = 'disk'"),
        ({"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}}, r"offload_optimizer\.devise"),
        ({"aio": {"block_sizes": 4}}, r"aio\.block_sizes .*did you mean block_size\?"),
        ({"aio": {"queue_depth": "many"}}, r"aio\.queue_depth = 'many'"),
        ({"dump_state": 1}, r"dump_state = 1 is not allowed: it must be true or false"),
        ({"gradient_clipping": 2.0}, r"gradient_clipping = 2\.0 is decided by optim\.clip_norm"),
        ({"zero_optimization": {"round_robin_gradients": True}}, r"gives wrong weights"),
    ],
)
def test_typos_are_refused_before_a_run_is_queued(extra, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_run(configured(extra), 2, with_data=False)


def test_offload_goes_through_to_the_json(tmp_path):
    config = configured(NVME)
    check_keys(config.engine.own_keys)
    settings = settings_of(engine_settings(config))
    write_settings(settings, tmp_path)
    written = json.loads((tmp_path / "deepspeed.json").read_text())
    assert written["aio"] == NVME["aio"]
    for name, values in NVME["zero_optimization"].items():
        assert written["zero_optimization"][name] == values
    assert written["zero_optimization"]["stage"] == 3
    assert written["zero_force_ds_cpu_optimizer"] is False, "the configured optimizer is the one that steps"


def test_a_full_disk_ends_no_run_for_the_json(tmp_path, monkeypatch, caplog):
    """One rank alone writes it, and others wait for that rank."""

    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_settings({"before": 1}, tmp_path)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_room)
        write_settings({"after": 1}, tmp_path)
    assert f"{tmp_path}/deepspeed.json cannot be written: No space left on device" in caplog.text
    assert json.loads((tmp_path / "deepspeed.json").read_text()) == {"before": 1}


def test_what_lies_on_nvme_is_told_by_its_key():
    keys = [f"engine.deepspeed.zero_optimization.offload_{of}.device" for of in ("optimizer", "param")]
    assert on_nvme(configured(NVME).engine.own_keys) == keys
    for extra in ({}, {"zero_optimization": {"offload_optimizer": None, "offload_param": {"device": "cpu"}}}):
        assert on_nvme(configured(extra).engine.own_keys) == []
