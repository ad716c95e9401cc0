#!/usr/bin/env bash
# The README's client: extracted, compiled against the public header alone, run against a daemon.
# readme_client.sh SOURCE_ROOT LIBRARY_FOLDER RINGLETD CC
set -eu
source=$1 library=$2 ringletd=$3
shift 3
folder=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 "$source/tests/client/readme_client.py" "$source/README.md" "$folder/client.c"
"$@" -std=c99 -Wall -Wextra -Werror -I "$source/include" "$folder/client.c" -o "$folder/client" \
  -L "$library" -lringlet -Wl,-rpath,"$library"
"$ringletd" --model echo --socket "$folder/socket" 2>"$folder/log" &
daemon=$!
for _ in $(seq 2400); do [ -S "$folder/socket" ] && break; sleep 0.05; done
answer=$(RINGLET_SOCKET=$folder/socket timeout 120 "$folder/client")
[ "$answer" = $'The sky is blue because\n[stop_eos]' ] || { cat "$folder/log"; echo "answered: $answer"; exit 1; }
lines=$(wc -l <"$folder/client.c")
[ "$lines" -le 30 ] || { echo "the client has $lines lines; the README promises a short one"; exit 1; }
