#!/usr/bin/env bash
# One run of at most nine minutes where a GPU is at hand: its tests, a step of every published method, and a pretraining
# of the seed's network, which is judged on real slices where nnUNet_raw holds the datasets. Nothing is downloaded.
#
#     OUT=results_of_gpu benchmarks/gpu.sh
#     DEVICE=cpu MINUTES=1 OUT=... benchmarks/gpu.sh    # tries the script itself; leaves the steps out
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-results_of_gpu} device=${DEVICE:-cuda} minutes=${MINUTES:-4} python=${PYTHON:-python3}
export PYTHONPATH=$PWD SAMUNET_TEST_DEVICE=$device
mkdir -p "$out"
"$python" -c "import torch; print(torch.__version__, torch.zeros(1, device='$device').device)"

timeout 90 "$python" -m pytest -q -m gpu tests/integration/test_gpu.py | tee "$out/tests.txt"
if [[ $device == cuda ]]; then
    timeout 60 "$python" benchmarks/variant_step.py --device cuda | tee "$out/steps.txt"
    cp benchmarks/results/variant_step_cuda.json "$out"
fi
timeout "$(awk "BEGIN {print int(60 * $minutes) + 75}")" \
    "$python" -m samunet pretrain -o "$out/seed" -device "$device" --minutes "$minutes" --epochs 10
seed=$(find "$out/seed" -name "seed*.safetensors")
"$python" -m samunet weights verify "$seed"
if [[ -n ${nnUNet_raw:-} ]]; then
    timeout 75 "$python" benchmarks/seed_prompts.py --seed "$seed" --cases 3 --sides 128 --no_classical \
        --out "$out/seed_prompts.json"
fi
