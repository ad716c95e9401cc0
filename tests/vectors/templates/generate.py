#!/usr/bin/env python3
"""Writes cases.json: templates and snippets with the output that jinja2 gives, rendered as chat
templates are (trim_blocks, lstrip_blocks, loop controls, a plain tojson). Needs jinja2 3.1.

The .jinja files are written for these tests in the shapes of the families they are named after;
smollm2.jinja is the default model's own (Apache-2.0)."""
import datetime
import json
import pathlib

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


class Refused(Exception):
    pass


def raise_exception(message):
    raise Refused(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: NOW.strftime(f)
    return env


VARIABLES = {
    "s": "Hello World", "n": 5, "m": -7, "f": 2.5, "l": [3, 1, 2], "t": True, "x": None,
    "d": {"b": 1, "a": [1, 2], "C": "c"}, "words": ["b", "A", "c", "a"], "empty": "",
    "objs": [{"name": "x", "v": 2, "on": True}, {"name": "Y", "v": 1, "on": False},
             {"name": "z", "v": 1}],
    "u": "  \u017elu\u0165ou\u010dk\u00fd \u4e2d\u6587 \U0001f600\u3000\n",
    "nested": {"p": {"q": [10, {"r": "deep"}]}}, "html": "<a href=\"x\">'&'</a>",
    "lines": "one\n\n  two\nthree\n", "big": 9007199254740993, "small": 1e-7, "float1": 1.0,
    "large": 1.5e300, "ctrl": "a\u0001\t\"\\\u007f\u2028",
}

SNIPPETS = r"""
{{ s }}|{{ n }}|{{ f }}|{{ t }}|{{ x }}|{{ missing }}|{{ l }}|{{ d }}|{{ words }}
{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }}
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1e3 }} {{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1.0 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 0.1 + 0.2 }} {{ 1e-5 }}
{{ large }} {{ small }} {{ big }} {{ float1 }} {{ -f }} {{ +n }} {{ - n | abs }} {{ m | abs }}
{{ 'a' ~ 1 ~ none ~ true ~ missing ~ 2.0 }} {{ 'a' 'b' "c" }} {{ 'x' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ 'a' != 1 }} {{ none == none }}
{{ 'World' in s }} {{ 'q' not in s }} {{ 3 in l }} {{ 'a' in d }} {{ 'a' in missing }} {{ not 'a' in d }} {{ '' in s }}
{{ missing is defined }} {{ s is defined }} {{ x is none }} {{ x is not none }} {{ s is string }} {{ d is mapping }} {{ l is mapping }} {{ l is iterable }} {{ s is iterable }} {{ n is iterable }} {{ l is sequence }} {{ n is number }} {{ t is number }} {{ t is boolean }} {{ t is true }} {{ n is true }} {{ f is float }} {{ n is integer }} {{ n is odd }} {{ n is even }} {{ n is divisibleby 5 }} {{ n is divisibleby(2) }} {{ s is eq 'x' }} {{ n is gt 3 }} {{ 'a' is in 'abc' }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ x is sameas none }} {{ missing is undefined }} {{ range is callable }} {{ n is eq(5) and true }}
{{ s if t else 'no' }} {{ s if x }} {{ 'a' if x else 'b' if x else 'c' }} {{ 'y' if n is defined else 'z' }}
{{ t and s }} {{ x or 'dflt' }} {{ x and 1 }} {{ not x }} {{ empty or none or 0 }} {{ t and x or n }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[:-3] }} {{ s[::2] }} {{ s[-3:] }} {{ l[::-1] }} {{ l[1:] }} {{ l[:1] }} {{ l[5:] }} {{ l[-1] }} {{ u[2:6] }} {{ u[::-1] }} {{ s[10:2:-2] }} {{ s[99] }} {{ l[100] is defined }} {{ s[5:1] }}|
{{ d.b }} {{ d['a'] }} {{ d.a[1] }} {{ d.zzz }} {{ nested.p.q[1].r }} {{ nested['p']['q'].0 }} {{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 4) }}
{{ u | trim }}|{{ u.strip() }}|{{ u.lstrip() }}|{{ u.rstrip() }}|{{ 'xxaxx' | trim('x') }}|{{ 'xyaxy'.strip('yx') }}|{{ '\n a \n'.strip('\n') }}|
{{ s | length }} {{ u | length }} {{ l | count }} {{ d | length }} {{ missing | length }}
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ l | tojson(indent=4) }} {{ ctrl | tojson }} {{ u | tojson }} {{ x | tojson }} {{ t | tojson }} {{ f | tojson }} {{ [] | tojson(indent=2) }} {{ {} | tojson }} {{ objs | tojson }} {{ html | tojson }} {{ large | tojson }}
{{ l | join }} {{ l | join(', ') }} {{ objs | join('-', attribute='name') }} {{ s | join('.') }} {{ d | join(',') }} {{ ', '.join(words) }}
{{ s | upper }} {{ s | lower }} {{ 'hELLO wORLD' | capitalize }} {{ 'hELLO wORLD-foo (bar)' | title }} {{ u | upper }} {{ "it's they're x2y" .title() }} {{ 'aBC'.capitalize() }}
{{ s | replace('o', '0') }} {{ s | replace('l', 'L', 1) }} {{ s.replace('l', '') }} {{ 'abc'.replace('', '-') }} {{ 'aaaa'.replace('aa', 'b', 1) }} {{ n | replace('5', 'five') }}
{{ l | first }} {{ l | last }} {{ [] | first }} {{ s | first }} {{ s | last }} {{ d | first }}
{{ missing | default('q') }} {{ empty | default('q') }} {{ empty | default('q', true) }} {{ x | default('q', boolean=true) }} {{ x | d('q') }} {{ missing | default }}|
{{ d | items | list }} {{ missing | items | list }} {{ s | list }} {{ d | list }} {{ l | string }} {{ 5 | string }} {{ none | string }}
{{ '42' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ '3.9' | int }} {{ 3.9 | int }} {{ '0x1A' | int(0, 16) }} {{ ' 12 ' | int }} {{ '2.5' | float }} {{ 'x' | float }} {{ 'x' | float(1.5) }} {{ 3 | float }} {{ true | int }} {{ none | int }}
{{ objs | map(attribute='name') | list }} {{ words | map('upper') | list }} {{ words | map('replace', 'a', 'Q') | join('/') }} {{ objs | map(attribute='on', default=0) | list }} {{ [[1,2],[3]] | map('length') | list }} {{ objs | map(attribute='zz') | list }}
{{ objs | selectattr('on') | map(attribute='name') | list }} {{ objs | selectattr('v', 'equalto', 1) | list | length }} {{ objs | rejectattr('v', '==', 1) | map(attribute='name') | list }} {{ objs | selectattr('on', 'defined') | list | length }} {{ l | select('odd') | list }} {{ l | reject('gt', 1) | list }} {{ [0, 1, '', 'a'] | select | list }} {{ objs | selectattr('name', 'in', ['x', 'z']) | map(attribute='name') | join }}
{{ l | reverse | list }} {{ s | reverse }} {{ l | sort }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ l | sort(reverse=true) }} {{ objs | sort(attribute='v') | map(attribute='name') | list }} {{ objs | sort(attribute='v', reverse=true) | map(attribute='name') | list }} {{ d | dictsort }} {{ d | dictsort(reverse=true) | length }} {{ {'b': 2, 'a': 3} | dictsort(by='value') }} {{ ['a', 'A', 'b'] | unique | list }} {{ [1, 2, 1.0, 3] | unique | list }}
{{ l | min }} {{ l | max }} {{ l | sum }} {{ objs | sum(attribute='v') }} {{ [1.5, 2] | sum }} {{ 2.567 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.9 | round(method='floor') }} {{ 5 | round }}
{{ lines | indent }}|{{ lines | indent(2, true) }}|{{ lines | indent(width=3, blank=true) }}|{{ lines | indent('> ') }}|
{{ html | e }} {{ html | escape }} {{ html | safe }}
{{ s.split() }} {{ s.split('o') }} {{ s.split('o', 1) }} {{ ' a  b '.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a b c'.split(none, 1) }} {{ 'a.b.c'.rsplit('.', 1) }} {{ 'a.b.c'.rsplit('.') }} {{ lines.splitlines() }} {{ ''.split(',') }} {{ ''.split() }} {{ s.split('zzz')[-1] }}
{{ s.startswith('He') }} {{ s.endswith('ld') }} {{ s.startswith(('x', 'H')) }} {{ s.find('o') }} {{ s.find('zz') }} {{ u.find('\u4e2d') }} {{ s.count('l') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ '12'.isdigit() }} {{ s.upper() }} {{ s.lower() }}
{% for i in l %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.revindex }}/{{ loop.previtem }}/{{ loop.nextitem }};{% endfor %}
{% for i in [] %}x{% else %}none{% endfor %} {% for i in l if i > 1 %}{{ i }}{{ loop.length }}{% else %}no{% endfor %} {% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %} {% for k in d %}{{ k }}{% endfor %} {% for c in 'ab' %}[{{ c }}]{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %} {% for i in range(2, 9, 3) %}{{ i }} {% endfor %} {{ range(5, 0, -2) | list }} {{ range(3) | list | tojson }}
{% for i in [1, 2] %}{% for j in [1, 2] %}{{ loop.depth }}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %} {% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }} {% endfor %}{{ a }} {% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }} {{ ns.zz is defined }} {% set p, q = 1, 2 %}{{ p }}{{ q }}
{% if x %}1{% elif n == 5 %}2{% elif t %}3{% else %}4{% endif %} {% if x %}1{% else %}5{% endif %} {% if x %}{% elif x %}{% endif %}|
{% set b %}  block {{ s }} {% endset %}[{{ b }}]{{ b | length }} {% set c | upper | trim %} {{ s }} {% endset %}[{{ c }}] {% filter upper %}abc{{ s }}{% endfilter %}
{% macro m(a, b=2, c='z') %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=9) }}{{ m() }}{{ m(b=s, a=n) | upper }}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(10) }}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}in {{ s }}{% endcall %} {% macro each(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each(l) %}({{ i }}){% endcall %}
{% set z = 5 %}{% macro g() %}{{ z }}{% endmacro %}{% set z = 6 %}{{ g() }} {% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
{# comment #}a{#- c -#} b {#- x #}  c {% raw %}{{ not }} {% x %}{% endraw %} d
{{ "\n\t\\\"\x41\u0042" }}{{ '\'' }}{{ 'a\qb' }}{{ "\101" }}
{{ 'n: %s, %d%%' % (s, n) }} {{ 'one %s' % s }} {{ (1, 2) }} {{ (1,) }} {{ () }} {{ {'k': (1, 'a')} }} {{ ["it's", 'say "hi"', "both'\"", 'tab\t', '\u4e2d'] }}
{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %j') }}
{{ dict(a=1, b='x') }} {{ {'a': 1}.a }} {{ {'items': 3}['items'] }} {{ (n + 1) * 2 }} {{ [1, [2, 3]][1][0] }} {{ {1: 'one'}[1] }} {{ {'a': 1, 'a': 2} }}
{{ (l | length - 1) }} {{ l | length - 1 }} {{ (s ~ '!') | upper }} {{ s ~ '!' | upper }} {{ not s == 'x' }} {{ -2 ** 2 }} {{ 2 * 3 ~ 4 }}
{{ ctrl.splitlines() }} {{ 'a\r\nb\rc\n'.splitlines() }} {{ l.count(1) }} {{ (1, 2) * 2 }} {{ none | map('upper') | list }} {{ false | select | list }} {{ true | round }} {{ 2.0 is even }} {{ 3.5 is odd }} {{ [1, 'a'] is lower }}
{{ objs | tojson(separators=(',', ':')) }} {{ d | tojson(sort_keys=true) }} {{ u | tojson(ensure_ascii=true) }} {{ d | tojson(separators=('; ', '='), indent=1, sort_keys=true) }} {{ ctrl | tojson(ensure_ascii=True) }} {{ {'b': {'z': 1, 'y': 2}, 'a': 3} | tojson(sort_keys=True) }} {{ d | tojson(true) }}
{{ l is defined and l | length > 2 }} {{ (words | first) in 'abc' }} {{ 1 if l and l[0] == 3 else 2 }} {{ 'a' if (x is none or x == 'q') else 'b' }} {{ s is not string or n is number }}
""".strip("\n").split("\n")

BLOCKS = [
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n",
    "a\n  {%- if t %}\n  b\n  {%- endif %}\nc\n",
    "a\n  {% if t -%}\n  b\n  {% endif -%}\n  c\n",
    "a  {% if t %}  b  {% endif %}  c",
    "  {% if t %}x{% endif %}\n\n\n  {{ s }}  \n  {# c #}\n  d",
    "  {{- s -}}  \n  x {{ s -}} \n y",
    "a\n  {%+ if t %}\n  b\n  {% endif +%}\nc",
    "{% for i in l %}\n  - {{ i }}\n{% endfor %}\nend\n\n",
    "{% if t %}\r\n  crlf\r\n{% endif %}\r\nend\r\n",
    "{% raw %}\n  {% if %}\n{% endraw %}\nx", "x{#\n multi\n line #}\ny", "\n{{ s }}\n", "",
    "\n", "{{ s }}{% if t %} {% endif %}\n", "{%- set a = 1 -%}\n\n{{ a }}",
    "\t{% set a = 1 %}\t\n\t{{ a }}", "{{ '{{' }}{{ '%}' }}{{ {'a': {'b': 1}}['a']['b'] }}",
]

ERRORS = [
    "{{ missing.a }}", "{{ missing + 1 }}", "{{ 'a' + 1 }}", "{{ n() }}", "{{ missing() }}",
    "{% for i in n %}{% endfor %}", "{{ 1 // 0 }}", "{{ 'a' < 1 }}", "{{ s | nofilter }}",
    "{{ s is notest }}", "{% if t %}", "{% endif %}", "{{ s", "{% nope %}", "{{ 1 + }}", "{{ ) }}",
    "{% for i in l %}", "{{ 'abc }}", "{# open", "{% raw %}x", "{{ n | length }}", "{{ 1 in 's' }}",
    "{{ raise_exception('because ' ~ n) }}", "{{ x.a.b }}", "{% set a.b = 1 %}", "{{ l.append(1) }}",
    "{% break %}", "{{ s | replace }}", "{% set x, y = [1] %}", "{{ [1, 'a'] | sort }}",
    "{{ n | items | list }}", "{{ n[1:] }}", "{{ {} < {} }}", "{{ s.__class__ }}{{ s.__class__.x }}",
]

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a <place> & its \u010das",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "city's name"},
        "days": {"type": "integer", "default": 1, "minimum": 0.5}},
        "required": ["place"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {}}}]

CHATS = {
    "none": [],
    "user": [{"role": "user", "content": "Hi there"}],
    "system": [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": " Hi\n"}],
    "turns": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": " 1 "},
              {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"},
              {"role": "user", "content": "\u4e2d\u6587 \U0001f600 <|im_end|> [INST]"}],
    "system_turns": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"},
                     {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"},
                     {"role": "user", "content": ""}],
    "broken": [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}],
    "tool_turns": [
        {"role": "user", "content": "Weather in Brno?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {
                "name": "get_weather", "arguments": {"place": "Brno", "days": 2}}}]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "{\"sky\": \"gray\"}"},
        {"role": "assistant", "content": "Gray."}, {"role": "user", "content": "Thanks"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " look "},
                                           {"type": "image"}, {"type": "text", "text": "here"}]}],
}


ARGS = {"variables": VARIABLES,
        "other": {"tools_in_user_message": False, "enable_thinking": False, "date_string": "x"}}


def add(cases, name, source, chat, tools=None, args=None, generation=True, file=None):
    case = {"name": name, "chat": chat, "add_generation_prompt": generation}
    case["file" if file else "source"] = file or source
    if tools is not None:
        case["tools"] = True
    if args is not None:
        case["args"] = args
    try:
        case["expect"] = environment().from_string(source).render(
            messages=CHATS[chat], tools=tools, bos_token="<s>", eos_token="</s>",
            add_generation_prompt=generation, **ARGS.get(args, {}))
    except Refused as e:
        case["refused"] = str(e)
    except Exception as e:  # whatever jinja2 or Python says: an error is expected
        case["error"] = type(e).__name__
    cases.append(case)


def main():
    cases = []
    for i, source in enumerate(SNIPPETS + BLOCKS + ERRORS):
        add(cases, f"snippet {i}", source, "none", args="variables")
    for path in sorted(HERE.glob("*.jinja")):
        source = path.read_text()
        for chat in CHATS:
            for tools in (None, TOOLS):
                for generation in (True, False):
                    name = f"{path.stem} {chat}{' tools' if tools else ''} {generation}"
                    add(cases, name, source, chat, tools, None, generation, path.name)
        add(cases, f"{path.stem} args", source, "user", TOOLS, "other", True, path.name)
    out = {"jinja2": jinja2.__version__, "now": int(NOW.replace(
        tzinfo=datetime.timezone.utc).timestamp()), "chats": CHATS,
           "tools": TOOLS, "args": ARGS, "cases": cases}
    (HERE / "cases.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(cases)} cases, {sum('expect' in c for c in cases)} with output")


main()
