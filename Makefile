# make demo     the quickstart: an executed notebook, figures and a table in figures/quickstart/
# make test     all tests, and every notebook in its smoke profile
# make test-fast  what needs no training, no process of its own and no browser
# make lab      JupyterLab on the notebooks, beginning with one that says where to go
# make explore  the explorers without code cells, in the browser, for a class-room's screen
# make figures  every notebook, from the runs that came with the lab and those you have
# make report   the same, and all of it on one page: figures/report.html
# make screenshots  the documentation's pictures of the explorers; needs Chromium
# make docs     the documentation as a site, in build/site; notebooks are shown, not executed
# make lint     ruff, notebooks included; the direction of imports; what is declared; types
# make gpu      on a machine with a CUDA device, 9 minutes at most: its tests, and how well it is
#                 used, as runs/gpu-<its name>.json
# make cluster-test  sweeps on a Slurm of its own, minutes; needs Debian's slurm-wlm and munge
# make losses   whether golden losses moved since BASE, a git revision (HEAD~1), to the last bit
#
# Whichever comes first makes .venv; PYTHON=/path/to/python3.12 chooses the Python for it.
# ARGS are options for JupyterLab or Voilà: make lab ARGS=--no-browser

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
BIN := .venv/bin
SITE := .venv-docs/bin
READY := $(ROOT)/.venv/.installed
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

WITH_RUNS := FMLORA_RUNS="$${FMLORA_RUNS:-$(ROOT)/runs}"

.PHONY: demo test test-fast cluster-test gpu lab explore figures report screenshots docs losses lint env

demo: $(READY)
	cd $(ROOT) && $(BIN)/fmlora-lab render 00_quickstart -p profile demo --fresh

# Notebooks are tested as copies with the smoke profile filled in, and last what they published.
# Two processes of one thread each: a second thread adds little to such small steps.
test: $(READY)
	cd $(ROOT) && rm -rf build/notebooks && $(BIN)/python tests/notebooks/prepare.py build/notebooks
	cd $(ROOT) && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	    --nbmake --nbmake-timeout=1800 -m "not cluster" tests build/notebooks
	cd $(ROOT) && $(BIN)/python -m pytest tests/notebooks/published.py

test-fast: $(READY)
	cd $(ROOT) && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m unit tests

# Two processes more would share the cores with the cluster's own jobs.
cluster-test: $(READY)
	cd $(ROOT) && $(BIN)/python -m pytest -m cluster tests/runs

gpu: $(READY)
	cd $(ROOT) && $(BIN)/python -m pytest -n 8 -m gpu tests/training
	cd $(ROOT) && $(WITH_RUNS) $(BIN)/fmlora-lab bench gpu

# The working tree is compared, or the revision HEAD.
losses: $(READY)
	cd $(ROOT) && $(BIN)/python tests/losses.py --base $(or $(BASE),HEAD~1) $(if $(HEAD),--head $(HEAD))

lab: $(READY)
	cd $(ROOT) && $(WITH_RUNS) $(BIN)/jupyter lab --ServerApp.root_dir=. \
	    --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

# A page has a process of its own, of half a gigabyte; it ends so many seconds after it was left.
LEFT := 120

explore: $(READY)
	cd $(ROOT) && $(BIN)/python -m fmlora_lab.explorers.pages build/explorers && \
	    $(WITH_RUNS) JUPYTER_PATH=$(ROOT)/build/explorers/.share \
	    $(BIN)/voila build/explorers --template=explorers \
	    --MappingKernelManager.cull_idle_timeout=$(LEFT) --MappingKernelManager.cull_interval=10 \
	    $(ARGS)

figures: $(READY)
	cd $(ROOT) && $(BIN)/fmlora-lab render all -p profile demo

report: figures
	cd $(ROOT) && $(BIN)/fmlora-lab report

screenshots: $(READY)
	cd $(ROOT) && $(BIN)/python tests/browser/screenshots.py figures/readme

# An environment of its own: what shows notebooks there would get in the way of Voilà here.
# Strict: a broken link, or a page that is in no menu, is an error.
docs: $(READY)
	cd $(ROOT) && { [ -x $(SITE)/mkdocs ] || { $(BIN)/python -m venv .venv-docs && \
	    $(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > .venv-docs/needed.txt && \
	    $(SITE)/pip install --disable-pip-version-check -r .venv-docs/needed.txt; }; }
	cd $(ROOT) && NO_MKDOCS_2_WARNING=1 $(SITE)/python -m mkdocs build --strict
	@echo $(ROOT)/build/site/index.html

lint: $(READY)
	cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && \
	    $(BIN)/deptry . && $(BIN)/pyright -p .

env: $(READY)

# A .venv that works is kept, unless PYTHON asks for another; the marker is written last, so that
# an installation that was cut short is made good.
$(READY): $(ROOT)/pyproject.toml
	@rm -f $@; cd $(ROOT); \
	usable() { "$$1" -c '$(USABLE)' >/dev/null 2>&1; }; \
	has_pip() { $(BIN)/python -m pip --version >/dev/null 2>&1; }; \
	if [ -z '$(PYTHON)' ] && usable $(BIN)/python && has_pip; then exit 0; fi; \
	for name in $(PYTHONS); do \
	    if usable "$$name"; then exec "$$name" -m venv --clear .venv; fi; \
	done; \
	echo 'FM-LoRA Lab needs Python 3.11, 3.12 or 3.13 with its venv module (Debian: python3-venv),' \
	    'and $(PYTHONS) is none; name one with PYTHON=/path/to/python3.12' >&2; \
	exit 1
	@echo 'Installing FM-LoRA Lab into .venv: about 2 to 4 minutes and 7 GB, once.'
	@cd $(ROOT) && $(BIN)/python -m pip install --disable-pip-version-check -e '.[test]'
	@touch $@
