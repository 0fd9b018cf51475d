# make demo and make test are all a fresh machine needs; see `make help`.

PYTHON ?= python3
STACK ?= onedl
VENV = $(if $(filter openmmlab,$(STACK)),.venv-openmmlab,.venv)
RUN = $(VENV)/bin/python
DOCS = .venv-docs

.PHONY: help setup demo test doctor lint docs clean distclean
.NOTPARALLEL:

help:
	@echo 'make setup    the environment: .venv, pinned packages, mmcv compiled once'
	@echo 'make demo     set up, train and evaluate on generated data; MODEL=name'
	@echo "make test     set up and run the tests; ARGS='tests/ops -x' goes to pytest"
	@echo 'make doctor   set up and report on this machine and its packages'
	@echo 'make lint     set up and run ruff'
	@echo 'make docs     build the site of the pages in site/, in its own environment'
	@echo 'make clean    remove caches and build leftovers'
	@echo 'make distclean   also remove the environments'
	@echo
	@echo 'STACK=openmmlab   the original OpenMMLab packages, in .venv-openmmlab'
	@echo "PYTHON=python3.11, TORCH='torch==2.13.0', MAX_JOBS=2   for the set-up"

setup:
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo 'There is no $(PYTHON) here. Fix: install Python 3.10 to 3.13 (apt-get' \
	    'install python3 python3-venv python3-dev) or name it: make PYTHON=...'; \
	  exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$$('$(PYTHON)' --version 2>&1) is too old; 3.10 to 3.13 are supported." \
	    'Fix: make PYTHON=python3.11, or another that is installed.'; \
	  exit 1; }
	@'$(PYTHON)' -m tools.environment.bootstrap --stack '$(STACK)' --torch '$(TORCH)'

demo: setup
	@$(RUN) -m tools.demo $(if $(MODEL),--model '$(MODEL)') $(ARGS)

test: setup
	@$(RUN) -m pytest -n auto --dist loadfile $(ARGS); \
	  status=$$?; echo $$status > $(VENV)/pytest.status; exit $$status

doctor: setup
	@$(RUN) -m mmssm.openmmlab.doctor $(ARGS)

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

docs: $(DOCS)/ready
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo 'The site is in site/: open site/index.html; for its search serve it:' \
	  '$(PYTHON) -m http.server -d site'

$(DOCS)/ready: requirements/docs.txt
	@'$(PYTHON)' -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install -q -r requirements/docs.txt
	@touch $@

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune \
	  -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-openmmlab $(DOCS) mmssm/.mim
