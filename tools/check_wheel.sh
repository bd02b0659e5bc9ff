#!/usr/bin/env bash
# Builds the source distribution, of that a wheel, and takes the wheel through the whole chain:
# in an environment that has nothing else, from a folder that has nothing at all.
#   tools/check_wheel.sh python3.12 [folder]     folder: where all of it goes (default: .wheel)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$1
mkdir -p "${2:-.wheel}"
work=$(cd "${2:-.wheel}" && pwd)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=$work/venv-$version
bin=$venv/bin

[ -x "$bin/python" ] || "$python" -m venv "$venv"
rm -rf "$work/dist" "$work/chain-$version"
"$bin/python" -m pip install --quiet --disable-pip-version-check 'setuptools>=77' wheel
"$bin/python" -c 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])' \
	"$work/dist" > "$work/build.log" 2>&1
sdist=$(echo "$work"/dist/*.tar.gz)
tar -tzf "$sdist" > "$work/sdist.txt"
for needed in README.md FORMAT.md docs/architecture.md examples/README.md tests/conftest.py; do
	grep -q "^[^/]*/$needed\$" "$work/sdist.txt" || { echo "$sdist: no $needed"; exit 1; }
done
"$bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$work/dist" "$sdist"
wheel=$(echo "$work"/dist/*.whl)
"$bin/python" -m pip uninstall --quiet --disable-pip-version-check --yes auheat 2> /dev/null
"$bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$wheel[demo]"
"$bin/python" -m pip check --disable-pip-version-check

mkdir "$work/chain-$version"
cd "$work/chain-$version"
export AUHEAT_STORE=store PYTHONPATH= PYTHONSAFEPATH=1
auheat() { echo "auheat $*"; "$bin/auheat" "$@" >> "$work/chain-$version.log"; }
: > "$work/chain-$version.log"
auheat demo rafdb
auheat extract rafdb
auheat render --codebook martinez
auheat train --preset demo --epochs 1 --image-size 64 --name run
auheat evaluate run
auheat explain run rafdb/Image/aligned/test_00001_aligned.jpg
auheat report run
auheat verify
auheat stats
auheat export exported
auheat export exported.npz --format npz
auheat export exported.csv --format csv
"$bin/python" -c 'import sys, auheat; sys.exit(auheat.__file__.startswith(sys.argv[1]))' "$root/auheat"
echo "Python $version: $(basename "$wheel") works, from $(basename "$sdist")"
