# Each target installs what it needs into VENV first.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: quickstart test slow parity lint

quickstart: $(VENV)/.installed        ## train ACmix on scanned digits and look at what it learned
	$(RUN) main.py --config=configs/digits.py --workdir=runs/digits
	$(RUN) main.py --mode=eval --workdir=runs/digits
	$(RUN) main.py --mode=inspect --workdir=runs/digits

test: $(VENV)/.installed-test         ## the test suite
	$(RUN) -m pytest -n auto --dist loadfile

slow: $(VENV)/.installed-test         ## the tests that take minutes each
	$(RUN) -m pytest -n auto --dist loadfile -m slow

parity: $(VENV)/.installed-parity     ## our plain networks and files against those of PyTorch
	$(RUN) -m pytest -n auto tests/parity/*.py

lint: $(VENV)/.installed-test         ## style and docstrings
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-test requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	touch $@
