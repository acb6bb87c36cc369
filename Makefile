# Each target installs what it needs into VENV first.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check
TEST = $(RUN) -m pytest -n auto --dist worksteal

.PHONY: quickstart test slow parity tpu gpu lint

quickstart: $(VENV)/.installed        ## train ACmix on scanned digits and look at what it learned
	$(RUN) main.py --config=configs/digits.py --workdir=runs/digits
	$(RUN) main.py --mode=eval --workdir=runs/digits
	$(RUN) main.py --mode=inspect --workdir=runs/digits

test: $(VENV)/.installed-test         ## the test suite
	$(TEST)

slow: $(VENV)/.installed-test         ## the tests that take minutes each
	$(TEST) -m slow

parity: $(VENV)/.installed-parity     ## our plain networks and files against those of PyTorch
	$(TEST) tests/parity/*.py

tpu: $(VENV)/.installed-tpu           ## compile for TPUs, without one
	$(TEST) tests/accelerators/compile_tpu.py

gpu: $(VENV)/.installed-gpu           ## compile for an H100, without one; installs 5 GB
	$(TEST) tests/accelerators/compile_gpu.py

lint: $(VENV)/.installed-test         ## style and docstrings
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(VENV)/.installed: requirements.txt requirements/base.txt requirements/train.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements/test.txt requirements/search.txt
	$(INSTALL) -r requirements/test.txt -r requirements/search.txt
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-test requirements/torch.txt
	$(INSTALL) -r requirements/torch.txt
	touch $@

$(VENV)/.installed-tpu: $(VENV)/.installed-test requirements/tpu.txt
	$(INSTALL) -r requirements/tpu.txt
	touch $@

$(VENV)/.installed-gpu: $(VENV)/.installed-test requirements/gpu.txt
	$(INSTALL) -r requirements/gpu.txt
	touch $@
