#!/usr/bin/env python3
"""Extract the client program from README.md: readme_client.py README OUT."""
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
programs = re.findall(r"```c client\n(.*?)```", text, re.S)
if len(programs) != 1:
    sys.exit(f"{sys.argv[1]}: {len(programs)} programs marked 'c client', expected 1")
open(sys.argv[2], "w", encoding="utf-8").write(programs[0])
