#!/usr/bin/env python3
"""House rules that a compiler does not check, as a test: tidy.py [ROOT]

Floors (who may include whom), lengths (function 70 lines, file 600, line 100 columns), barriers
(each names its partner), mirrors (a/b.c has tests/a/test_b.c), banned calls with their replacement,
docstrings of public functions and ops, a man page for each, text hygiene. Prints one line for each breach and, last, "tests: P
passed, F failed, 0 skipped", where each rule counts as one test. Exit status: 0 clean, 1 breaches,
2 usage.
"""
import os
import re
import subprocess
import sys

FUNCTION_LINES, FILE_LINES, COLUMNS = 70, 600, 100

# folder: what it may include beside its own files, libc and include/base (ARCHITECTURE.md, floors).
DAEMON_ALL = ["base", "loop", "format", "text", "kv", "request", "step", "sched", "model", "exec", "session"]
FLOORS = {
    "include": ["include"],
    "include/base": ["config.h"],
    "shm": ["ringlet_abi.h"],
    "kernels": [],
    "client": ["shm", "ringlet.h", "ringlet_abi.h"],
    "daemon/base": ["ringlet_abi.h"],
    "daemon/format": [],
    "daemon/loop": ["daemon/base"],
    "daemon/kv": ["daemon/base"],
    "daemon/step": ["daemon/base"],
    "daemon/text": ["daemon/base", "daemon/format"],
    "daemon/model": ["daemon/base", "daemon/format", "kernels"],
    "daemon/request": ["daemon/base", "daemon/kv", "ringlet_abi.h"],
    "daemon/sched": ["daemon/base", "daemon/request", "daemon/kv", "daemon/step", "ringlet_abi.h"],
    "daemon/exec": ["daemon/base", "daemon/step", "daemon/model", "kernels"],
    "daemon/session": ["daemon/base", "daemon/request", "daemon/loop", "shm", "ringlet_abi.h"],
    "daemon": ["daemon/" + d for d in DAEMON_ALL] + ["shm", "kernels", "ringlet_abi.h"],
    "tools": ["ringlet.h", "ringlet_abi.h", "daemon/text", "daemon/format", "shm", "kernels"],
}

BANNED = {
    r"\batoi\(|\batol\(|\batof\(": "strtol or strtod with a check",
    r"\bstrcpy\(|\bstrcat\(": "snprintf or memcpy with a bound",
    r"\bsprintf\(|\bvsprintf\(": "snprintf",
    r"\bgets\(|\bstrtok\(": "fgets, strtok_r",
    r"\balloca\(": "a bounded array",
    r"\b(?:s?rand|random)\(": "base/prng.h, seeded and passed as an argument",
    r"\bepoll_\w+\(": "daemon/loop (io_uring)",
    r"\busleep\(": "nanosleep or a timer of the loop",
    r"\bsignal\(SIG(?!PIPE)": "sigaction, or signalfd in the loop",
}
EXIT_ALLOWED = ("daemon/main.c", "tools/", "tests/")
NO_CLOCK = ("daemon/sched/", "daemon/kv/", "daemon/step/", "daemon/request/")
CLOCK = re.compile(r"\b(clock_gettime|time|gettimeofday|getrandom|syscall|malloc|calloc|realloc)\(")


def sources(root):
    try:
        listing = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"],
                                 capture_output=True, text=True)
    except OSError:
        listing = None
    if listing and listing.returncode == 0:
        names = listing.stdout.splitlines()
    else:
        names = [os.path.relpath(os.path.join(d, f), root) for d, _, fs in os.walk(root) for f in fs]
    return sorted(n for n in names if os.path.isfile(os.path.join(root, n))
                  and not n.startswith(("build", ".git/")))


def is_code(name):
    return name.endswith((".c", ".h", ".cu", ".cuh"))


def strip_comments(text):
    """Blank comments and string contents, keep the line structure."""
    def blank(match):
        token = match.group(0)
        if token.startswith("/"):
            return re.sub(r"[^\n]", " ", token)
        return token[0] + " " * (len(token) - 2) + token[-1]
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, text, flags=re.S)


def floor_of(name):
    folder = os.path.dirname(name)
    while folder and folder not in FLOORS:
        folder = os.path.dirname(folder)
    return folder


def check_floors(name, text):
    floor = floor_of(name)
    if name.startswith("tests/") or not floor:
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not match:
            continue
        target = match.group(1)
        if target.startswith("base/") or target == "config.h" or target.startswith(floor + "/"):
            if floor == "include" and target.startswith("base/"):
                yield f"{name}:{number}: a public header includes {target}"
            continue
        if "/" not in target and os.path.dirname(name) == "include":
            continue
        allowed = FLOORS[floor]
        if any(target == a or target.startswith(a + "/") for a in allowed):
            if floor == "daemon/format" and target.startswith("daemon/base"):
                yield f"{name}:{number}: daemon/format may not include {target}"
            continue
        yield f"{name}:{number}: {floor} may not include {target} (floors: ARCHITECTURE.md)"


def check_lengths(name, text):
    lines = text.splitlines()
    if "tidy: generated" in text[:400]:
        return
    if len(lines) > FILE_LINES:
        yield f"{name}: {len(lines)} lines, at most {FILE_LINES}"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            yield f"{name}:{number}: {len(line)} columns, at most {COLUMNS}"
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{" or (re.match(r"^[A-Za-z].*\)\s*\{$", line) and not line.startswith(("struct", "enum", "union"))):
            start = number
        elif line.startswith("}") and start is not None:
            if number - start > FUNCTION_LINES:
                yield f"{name}:{start}: function of {number - start} lines, at most {FUNCTION_LINES}"
            start = None


def check_mirrors(names):
    known = set(names)
    tested = "\n".join(open(n, encoding="utf-8").read() for n in names
                       if n.startswith("tests/") and n.endswith(("meson.build", ".c")))
    for name in names:
        if not name.endswith(".c") or not name.startswith(("shm/", "client/", "daemon/")):
            continue
        folder, base = os.path.split(name)
        if f"tests/{folder}/test_{base}" in known:
            continue
        # Plug-ins share one table-driven test; the four files of floor 5 are tested end to end.
        plug_in = re.match(r"(policy|arch|draft|template)_", base)
        if plug_in and f"tests/{folder}/test_{plug_in.group(1)}.c" in known:
            continue
        if folder == "daemon":
            continue
        if re.search(rf"mirrors: .*\b{re.escape(name)}\b", tested):
            continue
        yield f"{name}: no tests/{folder}/test_{base} (or a test that says 'mirrors: {name}')"


def check_barriers(name, text):
    """Each barrier says, on its line or within three, which one of the other side it pairs with."""
    if name.startswith("tests/"):
        return
    lines = text.splitlines()
    for number, line in enumerate(lines):
        code = line.strip()
        if code.startswith(("*", "/*", "//", "#define", "static inline void full_fence")):
            continue
        if not re.search(r"\b(store_release|load_acquire|full_fence)\(", code) or "ring_load_hook" in code:
            continue
        if "pairs" not in " ".join(lines[max(0, number - 3):number + 3]):
            yield f"{name}:{number + 1}: a barrier that does not name its partner"


def check_banned(name, code):
    for number, line in enumerate(code.splitlines(), 1):
        for pattern, instead in BANNED.items():
            match = re.search(pattern, line)
            if match and not (name.startswith("tests/") and re.search("sleep|SIG|epoll", pattern)):
                yield f"{name}:{number}: {match.group(0)} is banned: use {instead}"
        if re.search(r"\b_?exit\(", line) and not name.startswith(EXIT_ALLOWED):
            yield f"{name}:{number}: exit() only in main.c, tools and tests"
        if name.startswith(NO_CLOCK):
            match = CLOCK.search(line)
            if match:
                yield f"{name}:{number}: {match.group(1)}() in code that must be pure"


def public_functions(text):
    """(line, returns int, name, comment above) of each function that a header declares."""
    for match in re.finditer(r"^(?:api_export\s+|RINGLET_API\s+)?[a-z][\w \t*]*?\b(ringlet_\w+)\(", text, re.M):
        if "typedef" in match.group(0) or "static" in match.group(0):
            continue
        before = text[:match.start()].rstrip()
        comment = before[before.rfind("/*"):] if before.endswith("*/") else ""
        yield text.count("\n", 0, match.start()) + 1, match.group(0).startswith("int "), match.group(1), comment


def check_docstrings(name, text):
    if name == "include/ringlet.h":
        for number, gives_error, function, comment in public_functions(text):
            if not comment:
                yield f"{name}:{number}: {function} has no docstring"
            elif gives_error and "Returns:" not in comment:
                yield f"{name}:{number}: the docstring of {function} lacks 'Returns:'"
    elif name.endswith(".c") and not name.startswith("tests/"):
        if not re.match(r"\s*/\*", text):
            yield f"{name}:1: opens without saying what it owns, its thread and invariants"


def check_hygiene(name, text):
    if text and not text.endswith("\n"):
        yield f"{name}: no newline at the end"
    for number, line in enumerate(text.splitlines(), 1):
        if line != line.rstrip():
            yield f"{name}:{number}: trailing blanks"
        if "\t" in line and is_code(name):
            yield f"{name}:{number}: a tab"
        if re.search(r"/(?:work|root)/|/home/\w", line):
            yield f"{name}:{number}: a path of somebody's machine"
        if is_code(name) and re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield f"{name}:{number}: {re.search(r'TODO|FIXME|XXX', line).group(0)}: an issue or a sentence instead"


def check_architecture(root, names):
    try:
        text = open(os.path.join(root, "ARCHITECTURE.md"), encoding="utf-8").read()
    except OSError:
        yield "ARCHITECTURE.md: missing"
        return
    folders = {os.path.dirname(n) for n in names
               if is_code(n) and not n.startswith(("tests/", "tools/"))}
    for folder in sorted(folders):
        if f"`{folder}/`" not in text and f"`{os.path.dirname(folder)}/`" not in text:
            yield f"ARCHITECTURE.md: does not name `{folder}/`"
    for folder in re.findall(r"`((?:daemon|kernels|shm|client|include)(?:/\w+)*)/`", text):
        if not os.path.isdir(os.path.join(root, folder)):
            yield f"ARCHITECTURE.md: names `{folder}/`, which is not there"


def check_man(names):
    """Every public function has its page, and every page of a function is installed."""
    header = open("include/ringlet.h", encoding="utf-8").read()
    functions = set(re.findall(r"^[a-z][\w \t*]*?\b(ringlet_\w+)\(", header, re.M))
    exported = set(re.findall(r"^\s+(ringlet_\w+);", open("client/libringlet.map", encoding="utf-8").read(), re.M))
    listed = open("client/meson.build", encoding="utf-8").read()
    for function in sorted(functions | exported):
        if f"client/man/{function}.3" not in names:
            yield f"client/man/{function}.3: missing, include/ringlet.h declares the function"
        if f"'{function[len('ringlet_'):]}'" not in listed:
            yield f"client/meson.build: does not install {function}.3"
    for function in sorted(exported - functions):
        yield f"client/libringlet.map: {function} is not in include/ringlet.h"


def main(arguments):
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 0 if arguments[0] in ("--help", "-h") else 2
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    os.chdir(root)
    names = sources(".")
    rules = {"floors": [], "lengths": [], "barriers": [], "mirrors": list(check_mirrors(names)), "banned calls": [],
             "docstrings": [], "hygiene": [], "architecture": list(check_architecture(".", names)),
             "man pages": list(check_man(set(names)))}
    for name in names:
        if not (is_code(name) or name.endswith((".py", ".build", ".md")) or "." not in os.path.basename(name)):
            continue
        try:
            text = open(name, encoding="utf-8").read()
        except UnicodeDecodeError:
            continue
        rules["hygiene"] += check_hygiene(name, text)
        if is_code(name):
            rules["floors"] += check_floors(name, text)
            rules["lengths"] += check_lengths(name, text)
            rules["barriers"] += check_barriers(name, text)
            rules["banned calls"] += check_banned(name, strip_comments(text))
            rules["docstrings"] += check_docstrings(name, text)
    for rule, breaches in rules.items():
        for breach in breaches:
            print(f"{rule}: {breach}")
    failed = sum(1 for breaches in rules.values() if breaches)
    print(f"tests: {len(rules) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
