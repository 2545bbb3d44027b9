#!/usr/bin/env bash
# Write the two lock files anew: run.lock (what a server needs) and dev.lock (that, the demo and the tests).
# Needs `uv` on the PATH. Neither file holds an index address.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
    uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --override requirements/override.txt \
        --no-emit-package torch --no-emit-package fsspec --no-emit-package sympy \
        --no-emit-package mpmath --no-emit-package networkx --custom-compile-command requirements/lock.sh "$@"
}
lock --output-file requirements/run.lock
lock --group dev --constraint requirements/run.lock --output-file requirements/dev.lock
