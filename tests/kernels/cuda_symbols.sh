#!/bin/sh
# The CUDA module exports one symbol, its table: cuda_symbols.sh MODULE
command -v nm >/dev/null || exit 77
symbols=$(nm -D --defined-only "$1" | awk '{ print $3 }')
if [ "$symbols" = ringlet_cuda_backend ]; then
    echo "tests: 1 passed, 0 failed, 0 skipped"
else
    echo "$1 exports: $symbols"
    echo "tests: 0 passed, 1 failed, 0 skipped"
    exit 1
fi
