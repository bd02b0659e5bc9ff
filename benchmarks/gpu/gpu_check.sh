#!/usr/bin/env bash
# Check and time every CUDA path on one GPU, under eight minutes: bash benchmarks/gpu/gpu_check.sh
#
# One JSON line per figure, on stdout and in $OUT/gpu_check.jsonl (default: .gpu/out). Needs a
# python3 ($PYTHON) with a CUDA torch and auheat's other core dependencies but openvino, and
# scikit-image; auheat itself needs no installation. The three .tflite models are taken from
# auheat/landmarks/mesh/models, or from .gpu/models; FAN is measured where face_alignment is
# installed or a wheel of it lies in .gpu/wheels. `make gpu-files` lays all of that, and a copy of
# this check, into .gpu: take it along to a machine with a card and run `bash .gpu/gpu_check.sh`.
# GPU_CHECK_SECONDS (450) bounds the whole, GPU_CHECK_GROUPS names groups, GPU_CHECK_DRY=1 runs
# everything tiny on the CPU, where no group has a limit of its own.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$here
while [ ! -d "$root/auheat" ] && [ "$root" != / ]; do root=$(dirname "$root"); done
python=${PYTHON:-python3}
out=${OUT:-$root/.gpu/out}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
export GPU_CHECK_WORK=$work PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1

# the package as an installation would have it, without one
mkdir -p "$work/site"
cp -rp "$root/auheat" "$work/site/auheat"
cp -rp "$root/cli" "$work/site/auheat/cli"
cp -rp "$root/codebooks" "$work/site/auheat/codebooks"
if [ -d "$root/.gpu/models" ]; then export AUHEAT_MODELS=$root/.gpu/models; fi
for wheel in "$root"/.gpu/wheels/*.whl; do
  [ -e "$wheel" ] || continue
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$wheel" || true
done
export PYTHONPATH=$work/site:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}
cd "$work" || exit 1

end=$((SECONDS + ${GPU_CHECK_SECONDS:-450}))
: >"$out/gpu_check.jsonl"
run() {  # group, most seconds
  local left=$((end - SECONDS)) most=$2 code
  if [ $left -lt 12 ]; then
    echo "{\"group\": \"$1\", \"skipped\": \"no time left\"}" | tee -a "$out/gpu_check.jsonl"
    return
  fi
  if [ $left -lt "$most" ] || [ -n "${GPU_CHECK_DRY:-}" ]; then most=$left; fi
  GPU_CHECK_LEFT=$most timeout -k 5 "$most" "$python" "$here/gpu_check.py" "$1" \
    2>"$out/$1.err" | tee -a "$out/gpu_check.jsonl"
  code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    tail -c 600 "$out/$1.err" | "$python" -c '
import json, sys
group, code = sys.argv[1:]
print(json.dumps({"group": group, "exit": int(code), "error": sys.stdin.read()}))
' "$1" "$code" | tee -a "$out/gpu_check.jsonl"
    failed=1
  fi
}
failed=0
for group in ${GPU_CHECK_GROUPS:-device landmarks training methods extract evaluate chain ddp compile memory}; do
  case $group in
    device) run device 30 ;; landmarks) run landmarks 85 ;; training) run training 85 ;;
    methods) run methods 80 ;; extract) run extract 70 ;; evaluate) run evaluate 40 ;;
    chain) run chain 90 ;; ddp) run ddp 45 ;; compile) run compile 100 ;; memory) run memory 25 ;;
    *) echo "gpu_check: no group '$group'" >&2; exit 2 ;;
  esac
done
echo "{\"group\": \"all\", \"seconds\": $SECONDS}" | tee -a "$out/gpu_check.jsonl"
if [ $failed -ne 0 ] || grep -q '"error"' "$out/gpu_check.jsonl"; then exit 1; fi
