"""The stand-in redirects what its table lists and nothing else, in any order of imports, and what it lists is enough."""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_plm.distributed.cuda_shim import REDIRECTS, install, installed
from dist_plm.distributed.device import Device, choose
from tests.ranks.server import fork_server

LISTED = sorted([redirect.owner.replace(":", "."), redirect.name] for redirect in REDIRECTS)


def import_megatron():
    for part in ("dist_checkpointing.strategies.fully_parallel", "distributed", "optimizer", "pipeline_parallel"):
        importlib.import_module(f"megatron.core.{part}")
    for model in ("bert", "gpt", "T5"):
        importlib.import_module(f"megatron.core.models.{model}")


def attributes():
    """Every attribute of the modules of PyTorch and Megatron-core, and of classes that are redirected, by owner and name."""
    owners = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("torch", "megatron")}
    owners |= {redirect.owner.replace(":", "."): redirect.resolve() for redirect in REDIRECTS}
    return {(name, key): value for name, owner in owners.items() for key, value in list(vars(owner).items())}


def changes(before, after):
    return sorted([*key] for key in before.keys() | after.keys() if before.get(key) is not after.get(key))


def functions_of(module):
    for value in list(vars(module).values()):
        held = list(vars(value).values()) if inspect.isclass(value) else [value]
        yield from (f for f in held if inspect.isfunction(f) and f.__module__.startswith("megatron"))


def stale(originals):
    """Where Megatron-core still holds one of `originals`, as a global of a module or as a default argument."""
    known = {id(value) for value in originals}
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and "fsdp" not in name:
            yield from (f"{name}.{key}" for key, value in vars(module).items() if id(value) in known)
            for function in functions_of(module):
                defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
                if any(id(value) in known for value in defaults):
                    yield f"{function.__module__}.{function.__qualname__}"


def in_new_process(fn, *args):
    """Call `fn` in a process that has imported PyTorch and Megatron-core, and has nothing redirected."""
    with ProcessPoolExecutor(1, mp_context=fork_server()) as executor:
        return executor.submit(fn, *args).result()


def look_around_install():
    assert not installed()
    import_megatron()
    before = attributes()
    install()
    after = attributes()
    install()
    originals = [before[*key] for key in map(tuple, LISTED) if key in before]
    return changes(before, after), changes(after, attributes()), sorted(stale(originals))


def test_redirects_what_is_listed_and_nothing_else():
    changed, changed_again, held = in_new_process(look_around_install)
    assert changed == LISTED
    assert changed_again == []
    assert held == []


def look_around_cuda(requested):
    assert not installed()
    import_megatron()
    current = []
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=2),
        mock.patch("torch.cuda.set_device", current.append),
    ):
        before = attributes()
        device = choose(requested, 1)
        return changes(before, attributes()), current, device


@pytest.mark.parametrize("requested", ["cuda", "auto"])
def test_on_cuda_nothing_is_redirected(requested):
    device = Device(kind="cuda", torch_device=torch.device("cuda", 1), backend="nccl")
    assert in_new_process(look_around_cuda, requested) == ([], [1], device)


def look_around_gpu():
    before = attributes()
    device = choose("cuda", 0)
    assert torch.zeros(1, device="cuda").is_cuda
    return changes(before, attributes()), device.kind


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_real_gpu_nothing_is_redirected():
    assert in_new_process(look_around_gpu) == ([], "cuda")


def test_every_redirect_says_why():
    assert all(len(redirect.why) > 10 for redirect in REDIRECTS)
    assert len(LISTED) == len({tuple(entry) for entry in LISTED})


# What Megatron-core asks of CUDA, read from its source, so that an upgrade that asks for more is noticed here.

#: Parts that are not run on CPU, or at all.
UNUSED_PARTS = (
    "distributed/fsdp",
    "energy_monitor",
    "export",
    "extensions",
    "full_cuda_graph",
    "fusions",
    "inference",
    "models/audio",
    "models/common/model_chunk_schedule_plan",
    "models/gpt/fine_grained_callables",
    "models/mamba",
    "models/mimo",
    "models/multimodal",
    "models/retro",
    "models/vision",
    "nccl_allocator",
    "optimizer/cpu_offloading",
    "optimizer/optimizer_cuda_graph",
    "pipeline_parallel/fine_grained_activation_offload",
    "post_training",
    "quantization",
    "rerun_state_machine",
    "resharding",
    "ssm",
    "tensor_parallel/inference_layers",
    "transformer/cuda_graphs",
    "transformer/custom_layers/batch_invariant_kernels",
    "transformer/experimental_attention_variant",
    "transformer/moe/router_trace",
)
#: Names of torch.cuda that are right as they are without a device, or of things that are not used on CPU.
LEFT_ALONE = {
    "CUDAGraph",
    "BFloat16Tensor",
    "Event",
    "FloatTensor",
    "HalfTensor",
    "OutOfMemoryError",
    "amp",
    "clock_rate",
    "default_generators",
    "device_count",
    "empty_cache",
    "is_available",
    "nvtx",
    "power_draw",
    "random",
    "set_device",
    "temperature",
    "utilization",
}
OLDEST = importlib.metadata.version("megatron-core").startswith("0.16.")
#: Likewise; dispatch of tokens to experts, which no run has, asks for them in Megatron-core 0.19.
LEFT_ALONE_IF_USED = set() if OLDEST else {"get_device_capability", "is_current_stream_capturing"}
#: What Megatron-core asks for no more from 0.17 on.
REDIRECTED_IF_USED = set() if OLDEST else {"default_stream"}


def megatron_syntax_trees():
    spec = importlib.util.find_spec("megatron.core")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        if not path.relative_to(root).as_posix().startswith(UNUSED_PARTS):
            yield ast.parse(path.read_text())


def test_every_name_of_torch_cuda_that_megatron_uses_is_accounted_for():
    redirected = {redirect.name for redirect in REDIRECTS if redirect.owner == "torch.cuda"}
    used = set()
    for tree in megatron_syntax_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch.cuda":
                used.add(node.attr)
    assert used - redirected - LEFT_ALONE_IF_USED == LEFT_ALONE
    assert redirected - used - REDIRECTED_IF_USED <= {"set_rng_state"}


def test_every_factory_that_megatron_calls_for_cuda_is_redirected():
    redirected = {f"torch.{redirect.name}" for redirect in REDIRECTS if redirect.owner == "torch"}
    used = set()
    for tree in megatron_syntax_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                on_cuda = [k for k in node.keywords if k.arg == "device" and ast.unparse(k.value).startswith("'cuda")]
                name = ast.unparse(node.func)
                if on_cuda and name.startswith("torch.") and not name.startswith("torch.cuda."):
                    used.add(name)
    assert used == redirected


# What the redirected functions do, on a rank of the pool, where they are installed.


def make_tensors(world):
    assert installed()
    install()
    made = [
        torch.zeros(2, device="cuda"),
        torch.ones(2, device="cuda:0"),
        torch.empty(2, device=torch.device("cuda")),
        torch.tensor([1.0], device="cuda"),
        torch.empty_like(torch.zeros(2), device="cuda"),
        torch.zeros(2, device=torch.cuda.current_device()),
        torch.zeros(2).cuda(),
        torch.nn.Linear(2, 2).cuda().weight,
    ]
    assert {tensor.device.type for tensor in made} == {"cpu"}
    assert torch.zeros(2, device="meta").is_meta
    assert torch.tensor([1, 2]).dtype == torch.int64
    with torch.device("meta"):
        assert torch.zeros(2).is_meta
        assert torch.ones(2, device="cpu").device.type == "cpu"
    with FakeTensorMode():
        assert torch.zeros(2, device="cuda").shape == (2,)


def test_factories(ranks):
    ranks.run(1, make_tensors)


def scripted(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(2) + torch.tensor([1.0, 2.0]) + x


def compile_factories(world):
    return torch.jit.script(scripted)(torch.ones(2)).tolist()


def test_factories_in_torch_script(ranks):
    assert ranks.run(1, compile_factories) == [[2.0, 3.0]]


def name_types(world):
    tensor = torch.nn.Parameter(torch.zeros(1))
    named = [tensor.type(), tensor.half().type(), tensor.bfloat16().type(), torch.zeros(1, device="meta").type()]
    assert tensor.type(torch.float64).dtype == torch.float64
    assert tensor.type("torch.DoubleTensor").dtype == torch.float64
    return named


def test_types_are_named_as_on_cuda(ranks):
    on_cuda = ["torch.cuda.FloatTensor", "torch.cuda.HalfTensor", "torch.cuda.BFloat16Tensor"]
    assert ranks.run(1, name_types) == [[*on_cuda, "torch.meta.FloatTensor"]]


def use_streams(world):
    side = torch.cuda.Stream(device=torch.cuda.current_device())
    with torch.cuda.stream(side):
        tensor = torch.ones(3) * 2
    side.wait_stream(torch.cuda.default_stream())
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    return tensor.tolist()


def test_streams(ranks):
    assert ranks.run(1, use_streams) == [[2.0, 2.0, 2.0]]


def draw(world):
    torch.cuda.manual_seed(3)
    state = torch.cuda.get_rng_state()
    first = torch.rand(2).tolist()
    torch.cuda.set_rng_state(state)
    return first, torch.rand(2).tolist(), torch.rand(2, generator=torch.Generator().manual_seed(3)).tolist()


def test_random_state_is_that_of_the_cpu(ranks):
    [(first, again, expected)] = ranks.run(1, draw)
    assert first == again == expected
