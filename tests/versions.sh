#!/usr/bin/env bash
# The core tests with other transformers than the pinned one: by default the oldest of the supported range and the
# newest there is, or the versions that are named. Each lies, with what it needs, in a folder in front of the
# environment's own packages.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
core=(tests/lrp_hooks/test_rules.py tests/lrp_hooks/test_experts.py tests/lrp_hooks/test_instrument.py
    tests/lrp_hooks/graph/test_edges.py tests/lrp_hooks/cases/test_generate.py)
newest=5.24.0

oldest=$("$python" -c 'from lrp_hooks.instrumentation.compatibility import OLDEST; print(".".join(map(str, OLDEST)))')
[ $# -gt 0 ] || set -- "~=$oldest.0" "$newest"
mkdir -p .versions
grep -v -E '^(transformers|huggingface_hub|tokenizers)==' constraints-cpu.txt >.versions/constraints.txt
for version in "$@"; do
    case $version in [0-9]*) version="==$version" ;; esac
    folder=.versions/transformers$version
    if [ ! -d "$folder" ]; then
        "$python" -m pip install --quiet --target "$folder.part" -c .versions/constraints.txt "transformers$version"
        mv "$folder.part" "$folder"
    fi
    PYTHONPATH=$folder "$python" -c 'import transformers; print("transformers", transformers.__version__, flush=True)'
    PYTHONPATH=$folder "$python" -m pytest -q -p no:cacheprovider -m "not slow" "${core[@]}"
done
