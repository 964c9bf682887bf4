# `make` alone lists the targets. The first one that needs it makes .venv, from Python and make alone.
# Variables: PYTHON (default: the newest on PATH, 3.11 at least; for install /usr/bin/python3 if it is), VENV,
# ARGS (for pytest, demo and bench), SEEDS and FIRST (for soak), PREFIX and DESTDIR (for install).

PYTHON ?=
VENV   ?= .venv
PREFIX  = /usr/local
ARGS    =
SEEDS   = 10000
FIRST   = 1

BIN   = $(VENV)/bin
READY = $(VENV)/.ready
PAGES = $(wildcard man/*.[1-8])
STAGE = build/root
TREE  = $(PREFIX)/lib/pmjq

# Shell text: the interpreters on PATH of Python 3.11 or later, the newest first. Each is asked, not believed:
# a pyenv shim may have nothing behind it.
define PYTHONS
(IFS=:; for dir in $$PATH; do \
  for python in "$$dir"/python3 "$$dir"/python3.[0-9] "$$dir"/python3.[0-9][0-9]; do \
    [ -x "$$python" ] && "$$python" -c 'import sys; v = sys.version_info; v >= (3, 11) and v[3] == "final" and print(v[1], sys.argv[1])' \
      "$$python" 2>/dev/null; \
  done; \
done | sort -s -k 1,1nr | sed 's/^[0-9]* //')
endef

# Shell text: sets $python, or says in one line what to install. Debian's python3 has no venv without its package.
define CHOOSE_PYTHON
set -- '$(PYTHON)'; fail() { echo "make: $$1" >&2; exit 1; }; \
[ -n "$$1" ] || set -- "$$( $(PYTHONS) | sed -n 1p)"; python=$$1; \
[ -n "$$python" ] || fail 'no Python 3.11 or later on PATH: apt install python3 python3-venv, or set PYTHON'; \
"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
  fail "$$python is no Python 3.11 or later: apt install python3 python3-venv, or set PYTHON"; \
"$$python" -c 'import ensurepip, venv' 2>/dev/null || \
  fail "$$python cannot make a venv: apt install python3-venv"
endef

# Python text: prints the first path above an interpreter or its library that others may not search or execute.
REACHED = import os, sys, venv; \
  paths = [os.path.realpath(sys.executable), os.path.realpath(os.path.dirname(os.__file__))]; \
  above = [path[:at] or "/" for path in paths for at in range(len(path) + 1) if path[at:at + 1] in ("/", "")]; \
  print(next((path for path in above if not os.stat(path).st_mode & 1), "")); \
  sys.exit(sys.version_info < (3, 11))

# Shell text: sets $python to what is installed, or says in one line why there is none. The service and its jobs run
# as other users, who may not enter the home that a pyenv is in; below a home its owner alone runs it.
define CHOOSE_INSTALLED
set -- '$(PYTHON)'; fail() { echo "make: $$1" >&2; exit 1; }; python=; why=; \
[ -n "$$1" ] || set -- /usr/bin/python3 $$( $(PYTHONS) ); \
for one do \
  shut=$$("$$one" -c '$(REACHED)' 2>/dev/null) || continue; \
  case '$(PREFIX)' in "$$HOME"/*) shut=;; esac; \
  [ -n "$$shut" ] || { python=$$one; break; }; \
  why="$$one: other users may not search $$shut; "; \
done; \
[ -n "$$python" ] || \
  fail "$${why}install needs a Python 3.11 or later with venv for all users: apt install python3, or set PYTHON"
endef

.DEFAULT_GOAL := help
.PHONY: help demo test lint check lab soak bench man install clean python
.DELETE_ON_ERROR:

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: $(READY) ## real jobs through a daemon on a temporary spool, in under a minute
	@$(BIN)/python tests/demo.py $(ARGS)

test: $(READY) ## the tests that need neither root nor Debian packages
	@$(BIN)/python tests/lanes.py test $(ARGS)

# Which manuals are installed and indexed (that is told on standard error) is about the machine, not the page.
lint: $(READY) ## ruff, mypy, the floors, and the man pages where mandoc is installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if ! command -v mandoc >/dev/null; then \
	  echo 'man pages not checked: no mandoc here; apt install mandoc'; \
	elif [ -n '$(PAGES)' ]; then \
	  echo 'mandoc -T lint $(PAGES)'; \
	  ! mandoc -T lint $(PAGES) 2>/dev/null | grep -v 'STYLE: referenced manual not found'; \
	fi

check: lint test ## lint and test: what a change has to pass

lab: $(READY) ## the tests that need root or Debian packages, which it installs
	@tests/lab/setup
	@$(BIN)/python tests/lanes.py lab $(ARGS) || { code=$$?; \
	  [ $$code -eq 5 ] && echo 'make lab: no test is marked lab: NOTHING WAS TESTED'; }

soak: $(READY) ## more seeds of the simulated cluster than `make test` plays: SEEDS=n, from FIRST=k on
	@$(BIN)/python tests/seeds.py --seeds $(SEEDS) --first $(FIRST)

bench: $(READY) ## throughput beside other queues, latency, idle cost, big backlogs, several nodes
	@$(BIN)/python tests/bench.py $(ARGS)

man: ## render the man pages into build/man, as text and HTML
	@command -v mandoc >/dev/null || { echo 'make man: no mandoc here; apt install mandoc' >&2; exit 1; }
	@mkdir -p build/man
	@for page in $(PAGES); do \
	  out=build/man/$${page##*/}; \
	  mandoc -T utf8 $$page >$$out.txt && mandoc -T html $$page >$$out.html || exit 1; \
	  echo $$out.txt $$out.html; \
	done

# pmjq and what it imports go into a venv of their own, PREFIX/lib/pmjq: no conflict with the system's
# packages, and the same on Debian, whose Python looks for packages elsewhere than pip --prefix puts them
# unless pip runs in a venv. All is staged first, so that a failing download leaves the installed one as it was.
# Compiled where it is installed: code says in tracebacks where it was compiled, and is compiled again at
# each start if its source is newer.
install: $(READY) ## install below DESTDIR and PREFIX (/usr/local): command, man pages, completion, systemd files, drop box
	@$(CHOOSE_INSTALLED); rm -rf build && mkdir build && \
	  "$$python" -c 'import os, sys; print(os.path.realpath(sys.executable))' >build/python
	"$$(cat build/python)" -m venv --without-pip build/venv
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build .
	$(BIN)/python -m pip --python build/venv/bin/python install -q --no-warn-script-location --no-compile \
	  --ignore-installed -c constraints.txt --root '$(CURDIR)/$(STAGE)' --prefix '$(TREE)' build/pmjq-*.whl
	@rm -rf '$(STAGE)$(TREE)/bin' && mkdir -p '$(STAGE)$(TREE)/bin' '$(STAGE)$(PREFIX)/bin'
	@rm -f '$(STAGE)$(TREE)'/lib/python3*/site-packages/pmjq-*.dist-info/direct_url.json
	@ln -s "$$(cat build/python)" '$(STAGE)$(TREE)/bin/python3'
	@printf 'home = %s\ninclude-system-site-packages = false\n' "$$(dirname "$$(cat build/python)")" \
	  >'$(STAGE)$(TREE)/pyvenv.cfg'
	@printf '%s\n' '#!$(TREE)/bin/python3 -I' 'import sys' '' 'from pmjq.__main__ import main' '' \
	  'sys.exit(main())' >'$(STAGE)$(PREFIX)/bin/pmjq'
	rm -rf '$(DESTDIR)$(TREE)'
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib'
	cp -R '$(STAGE)$(TREE)' '$(DESTDIR)$(PREFIX)/lib/'
	'$(DESTDIR)$(TREE)/bin/python3' -I -m compileall -q -s '$(DESTDIR)' -p / '$(DESTDIR)$(TREE)/lib'
	chmod -R a+rX '$(DESTDIR)$(TREE)'
	install -m 755 '$(STAGE)$(PREFIX)/bin/pmjq' '$(DESTDIR)$(PREFIX)/bin/pmjq'
	@for page in $(PAGES); do \
	  install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}" $$page || exit 1; \
	done
	install -D -m 644 contrib/completion/pmjq.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/pmjq'
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/zsh/site-functions' contrib/completion/_pmjq
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d' contrib/completion/pmjq.fish
	@for unit in $(wildcard contrib/systemd/*.service); do \
	  sed -E 's,/usr(/local)?/bin/pmjq,$(PREFIX)/bin/pmjq,g' $$unit >build/$${unit##*/} && \
	  install -D -m 644 -t '$(DESTDIR)$(PREFIX)/lib/systemd/system' build/$${unit##*/} || exit 1; \
	done
	@sed -E 's,/usr(/local)?/bin/pmjq,$(PREFIX)/bin/pmjq,g' contrib/dropbox/setup >build/setup
	install -D -m 755 -t '$(DESTDIR)$(PREFIX)/share/pmjq/dropbox' build/setup
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/pmjq/dropbox' contrib/dropbox/pam
	@for conf in $(wildcard contrib/systemd/tmpfiles.d/*.conf contrib/systemd/sysusers.d/*.conf); do \
	  dir=$${conf%/*}; \
	  install -D -m 644 -t "$(DESTDIR)$(PREFIX)/lib/$${dir##*/}" $$conf || exit 1; \
	done
	@rm -rf build

clean: ## remove .venv and everything else that is made here
	rm -rf .venv .venv-lab build dist .coverage .coverage.* .hypothesis .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find pmjq tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter that .venv would be made with.
python:
	@$(CHOOSE_PYTHON); echo "$$python"

$(READY): pyproject.toml constraints.txt
	@[ -x $(BIN)/pip ] && $(BIN)/python -c '' 2>/dev/null || { \
	  $(CHOOSE_PYTHON); echo "$$python -m venv $(VENV)"; "$$python" -m venv --clear $(VENV); }
	$(BIN)/python -m pip install -q -c constraints.txt hatchling
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
