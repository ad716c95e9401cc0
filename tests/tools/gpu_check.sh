#!/usr/bin/env bash
# tools/gpu-check without a GPU: stubs stand for the driver's tool, the sanitizer and our programs.
# What it did not run, it says. gpu_check.sh SOURCE_ROOT
set -eu
unset RINGLET_TEST_DEVICE
check=$1/tools/gpu-check
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

stub() { # NAME EXIT_STATUS
  printf '#!/bin/sh\necho "a stub for ${RINGLET_TEST_DEVICE:-any device}"\nexit %s\n' "$2" >"$1"
  chmod +x "$1"
}

# run EXIT_STATUS WORDS...: gpu-check ends so, and says these words.
run() {
  want=$1
  shift
  rc=0
  said=$(env PATH="$folder/bin:/usr/bin:/bin" "$check" "$folder/build" "$folder/out" 2>&1) || rc=$?
  [ "$rc" = "$want" ] || { echo "$said"; echo "exit status $rc, not $want"; exit 1; }
  for words in "$@"; do
    case $said in *"$words"*) ;; *) echo "$said"; echo "did not say \"$words\""; exit 1 ;; esac
  done
}

mkdir "$folder/bin" "$folder/build"
if ! command -v nvidia-smi >/dev/null; then
  run 77 "no GPU: nvidia-smi is not there"
fi
stub "$folder/bin/nvidia-smi" 9
run 77 "no GPU: a stub for any device"

# Programs that were only brought along, side by side, and no meson that would build others.
stub "$folder/bin/nvidia-smi" 0
stub "$folder/bin/meson" 1
: >"$folder/build/ringlet_cuda.so"
stub "$folder/build/ringbench" 0
stub "$folder/bin/compute-sanitizer" 0
tests="backend matmul attention attention_turn norm rope sample kv quant families exec_model smollm2"
for t in $tests; do stub "$folder/build/test_$t" 0; done
run 0 "all sound" "ok      racecheck-attention_turn" "ok      memcheck-step-f16" "ok      test-smollm2"
for log in "$folder"/out/test-*.log "$folder"/out/memcheck-*.log; do
  case $log in *-step-*) continue ;; esac
  grep -q "stub for cuda" "$log" || { echo "$log: the CPU alone would do"; exit 1; }
done

stub "$folder/build/test_rope" 1
run 1 "FAILED  test-rope (rc 1" "failed: test-rope"
stub "$folder/build/test_rope" 77
run 0 "skipped test-rope (a stub for cuda)" "all that ran sound, skipped: test-rope,"

rm "$folder/build/test_rope"
run 0 "skipped test-rope (it is not there)" "all that ran sound, skipped: test-rope,"
stub "$folder/build/test_rope" 0

stub "$folder/bin/compute-sanitizer" 9
run 1 "FAILED  racecheck-step-bf16 (rc 9"
if ! env PATH=/usr/bin:/bin sh -c 'command -v compute-sanitizer' >/dev/null; then
  rm "$folder/bin/compute-sanitizer"
  run 0 "skipped sanitizers (compute-sanitizer is not there)" "all that ran sound, skipped: sanitizers,"
fi
