#!/usr/bin/env python3
"""Compares the template interpreter of common/text with Jinja2 in transformers' environment.

By hand, not part of the test run. Needs `pip install transformers jinja2` and the interpreter as a
shared object:

    gcc -O2 -shared -fPIC -D_GNU_SOURCE -I. common/text/jinja_*.c common/text/utf8.c \\
        common/base/{arena,buf,err,mem,utf8}.c -o /tmp/spin_jinja.so -ljansson -lutf8proc -lm
    python3 tests/golden/text/compare_jinja.py /tmp/spin_jinja.so [--count 20000] [--seed 1] [FILE.jinja …]
    python3 tests/golden/text/compare_jinja.py --write

Random templates, or the files given on conversations of its own. A template that is refused by name is
counted, not a difference. Ends with the number of differences and exit status 1 when there are any.
--write makes jinja.jsonl: templates with what Jinja renders (null: it fails), the ones written out
below and some random ones, for the unit test.
"""
import argparse
import collections
import ctypes
import json
import os
import random
import sys
import warnings

from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "messages": [{"role": "user", "content": "Hé llo\n x "}, {"role": "assistant", "content": "b", "n": 3}],
    "s": " A-b c\td\nE ", "t": "", "n": 7, "z": 0, "f": 2.5, "neg": -3, "nn": None, "yes": True,
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "d": {"b": 1, "A": "x", "items": [1]}, "e": [],
    "nest": [[1, 2], ["a"]], "u": "ÄßΣ 日本 é 🙂", "bos_token": "<s>"}
UNSUPPORTED = 17

# Each a point of its own: white space, scopes, filters, tests, methods.
WRITTEN = r"""
a {{- ' b ' -}} c
x{%- if true -%} y {%- endif -%} z
    {% if true %}\n   in\n    {% endif %}\nout
  {%+ if true %}kept{% endif %}
{# gone #}\nline {#- tight -#} end
{% raw %}{{ not }} {% this %}{% endraw %}!
{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.role }}{{ ', ' if not loop.last }}{% endfor %}
{% for i in range(5) if i is odd %}{{ loop.index }}{{ i }}{% else %}none{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}
{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}
{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% set a, b = 1, 2 %}{{ b }}{{ a }}
{% set t %} block {{ n }} {% endset %}[{{ t|trim }}]
{% macro f(a, b='x', c=n) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=2) }} {{ f(b=3, a=4) }}
{% macro f(a) %}{{ caller() if caller }}{{ a }}{% endmacro %}{% call f(1) %}body{% endcall %}{{ f(2) }}
{% macro rec(i) %}{{ i }}{% if i > 0 %}{{ rec(i - 1) }}{% endif %}{% endmacro %}{{ rec(4) }}
{% filter upper %}abc {{ s }}{% endfilter %}
{% with q = 5 %}{{ q }}{% endwith %}{{ q is defined }}
{% generation %}{{ s }}{% endgeneration %}
{{ messages[0].content|trim }}|{{ messages[-1]['content'] }}|{{ messages[1:]|length }}|{{ messages[::-1][0].role }}
{{ 'abcdef'[1:4] }}{{ 'abcdef'[::-2] }}{{ 'äöü'[1] }}{{ 'abc'[-1] }}{{ 'abc'[9] is defined }}
{{ missing }}|{{ missing is defined }}|{{ missing|default('d') }}|{{ ''|default('e', true) }}|{{ none|default('f') }}
{{ missing.x }}
{{ messages[0].nothing.x }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1e16 }} {{ 1.5 }} {{ 0.1 + 0.2 }}
{{ 'a' ~ 1 ~ none ~ true }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ 'x' in 'xyz' }} {{ 'a' not in d }} {{ 1 < 2 < 3 }}
{{ true and 'yes' or 'no' }} {{ not none }} {{ 'a' if n > 5 else 'b' }} {{ 'only' if false }}|
{{ [1, 'a', none, true, 1.0, {'k': 'it\'s "q"'}] }} {{ (1,) }} {{ () }} {{ {} }}
{{ d|tojson }} {{ messages|tojson }} {{ 'é\u2028<&>'|tojson }} {{ d|tojson(indent=2) }} {{ [1.0, 1e20, none]|tojson }}
{{ d|tojson(sort_keys=true, separators=(',', ':')) }} {{ 'é'|tojson(ensure_ascii=true) }}
{{ ls|join(', ') }} {{ messages|map(attribute='role')|join('/') }} {{ ls|map('upper')|list }} {{ ls|sort }} {{ l|sort(reverse=true) }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|rejectattr('n', 'defined')|map(attribute='role')|list }}
{{ l|select('odd')|list }} {{ l|reject('gt', 1)|list }} {{ l|sum }} {{ l|max }} {{ l|min }} {{ l|first }} {{ l|last }} {{ ls|unique|list }}
{{ 'a b'|title }} {{ 'aB'|upper }} {{ 'AB'|lower }} {{ 'aB c'|capitalize }} {{ ' x '|trim }} {{ 'xxaxx'|trim('x') }} {{ 'a-a'|replace('a', 'b') }} {{ 'aaa'|replace('a', 'b', 2) }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\nb'|indent('> ') }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '3.9'|int }} {{ 3.9|int }} {{ '2.5'|float }} {{ 2.5|round }} {{ 3.14159|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ -3|abs }}
{{ '<a>'|e }} {{ '<a>'|safe }} {{ s|length }} {{ s|list|length }} {{ 'abc'|reverse }} {{ l|reverse|list }} {{ d|items|list }} {{ 5|string + 'x' }}
{{ n is number }} {{ s is string }} {{ d is mapping }} {{ l is sequence }} {{ l is iterable }} {{ none is none }} {{ true is true }} {{ true is boolean }} {{ 1 is integer }} {{ 1.0 is float }} {{ 4 is divisibleby 2 }} {{ 1 is eq 1 }} {{ 1 is in [1] }} {{ f is not undefined }} {{ 'a' is lower }}
{{ ' a b '.strip() }}|{{ 'a,b,c'.split(',') }}|{{ 'a b  c'.split() }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'xay'.split('a')[-1] }}|{{ '\n\nx\n'.lstrip('\n') }}|{{ 'x  '.rstrip() }}
{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.find('c') }} {{ 'abc'.replace('b', '') }} {{ 'a-b'.partition('-') }} {{ '-'.join(ls) }} {{ 'a\nb'.splitlines() }} {{ 'aXb'.lower().upper().title() }} {{ 'a'.ljust(3) }}| {{ '7'.zfill(3) }} {{ 'aa'.count('a') }} {{ '12'.isdigit() }} {{ 'preab'.removeprefix('pre') }}
{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 3) }} {{ d.keys()|list }} {{ d['items'] }} {{ d.items is callable }} {{ dict(a=1) }} {{ 'b' in d }}
{% set s2 = 'é' %}{{ s2|length }}{{ s2|upper }}{{ 'ΑΒ'|lower }}
{{ l.append(3) }}
{{ ''.__class__ }}
{{ raise_exception('stop') }}
{{ undefined_function(1) }}
{{ 1 / 0 }}
{{ [1, 2][5] }}|{{ 'a' + 1 }}
{{ 'unclosed }}
{% for x in y %}
{% nothing %}
{{ x|nofilter }}
{{ x is notest }}
{{ 1 +  }}
{{ {'a': 1}.a }}{{ ('a', 'b')[1] }}{{ "two" 'parts' }}{{ '\x41\u00e9\t|\\' }}
{% if not messages[0].content is defined %}a{% elif messages[0]['role'] == 'user' and n in [7, 8] %}b{% else %}c{% endif %}
{{ loop is defined }}{% for a in [[1, 2], [3, 4]] %}{% for b in a %}{{ loop.index }}{{ loop.first }}{{ loop.previtem }}{{ loop.nextitem is defined }}{% endfor %}{{ loop.revindex }}{% endfor %}
{% for x in 'äb' %}{{ x }}.{% endfor %}{% for x in {'p': 1, 'q': 2} %}{{ x }}{% endfor %}{{ loop }}
{{ ('<'|safe) + '<' }}{{ '<' + ('<'|safe) }}{{ '<'|e + '<' }}{{ ('<'|safe) + d|tojson }}{{ ('<'|safe) * 2 + '<' }}
{{ ('<'|safe|upper) + '<' }}{{ ('<'|safe|title) + '<' }}{{ ('<'|safe|indent) + '<' }}{{ ('<'|safe)[0] + '<' }}{{ ('<'|safe)[::-1] + '<' }}
{{ ('<'|safe|first) + '<' }}{{ ('<'|safe|last) + '<' }}{{ ('<'|safe|reverse) + '<' }}{{ ('<'|safe|replace('a', 'b')) + '<' }}{{ ('<'|safe ~ '') + '<' }}
{{ [d, d]|sort }}{{ [none, none]|sort }}{{ [{'a': 1}, {'a': 1}]|sort(reverse=true) }}
{{ [{'a': 1}, {'a': 2}]|sort }}
{{ d|dictsort(by='value') }}
{% if false %}{{ x|nofilter }}{{ x is notest }}{% endif %}{{ 'a' if true else x|nofilter }}
{{ 10 ** 1e3 }}
{{ 'A' is upper('B') }}
{{ 3 is odd(1) }}
{% for i in [1] %}{{ loop is callable }}{% endfor %}
"""


RNG = random.Random()
NAMES = list(CONTEXT) + ["missing", "loop", "ns"]
LITERALS = ["1", "0", "-2", "2.5", "'a'", "' x '", "''", "'é\\n'", "true", "none", "[1,'a']", "(1,2)",
            "{'a':1}", "[]", "'A b'", "1e3", "10", "'a,b,c'"]
ATTRIBUTES = "role content index x items b first last upper keys length n".split()
FILTERS = """trim;upper;lower;length;string;list;first;last;join;join(', ');default('q');default('q',true)
tojson;tojson(indent=2);int;float;abs;capitalize;title;reverse;sort;unique;sum;min;max;items;map('upper')
map(attribute='role');select;reject;selectattr('role');selectattr('role','equalto','user');safe;e;count
rejectattr('n','defined');replace('a','b');replace('','-');indent;indent(2,true);round;round(1);dictsort
list|length;map('trim');select('string');reject('in',[1,'a']);join('-');trim('x');int(5);float(1.5)
sort(reverse=true);tojson(sort_keys=true);round(0,'ceil');list|tojson;map(attribute='x',default='?');d(1)
""".replace("\n", ";").strip(";").split(";")
TESTS = """defined;undefined;none;string;number;integer;float;boolean;true;false;mapping;sequence;iterable
callable;odd;even;divisibleby(2);eq(1);in([1,2,'a']);sameas(none);lower;upper;equalto 'a';not defined
not string;ne 1;gt 1;lt 2""".replace("\n", ";").split(";")
METHODS = """strip();upper();lower();split();split(' ');split(',',1);rsplit('b',1);startswith('a')
endswith(('a','b'));replace('a','zz');find('b');rfind(' ');count('a');title();capitalize();lstrip()
rstrip(' b');splitlines();isdigit();isalpha();isupper();islower();isspace();partition('-');rpartition(' ')
removeprefix(' ');removesuffix('a');join(['a','b']);center(9);ljust(5);zfill(6);swapcase();items();get('a')
get('b',1);keys();values();index('a');isalnum();splitlines(true);copy();append(1);pop();format(1);encode()
""".replace("\n", ";").strip(";").split(";")
SLICES = ["[0]", "[-1]", "[1:]", "[:-1]", "[::-1]", "[::2]", "['a']", "['role']", "[1:2]", "[5]", "[:2]",
          "[-2:]", "[3:1:-1]", "['items']", "[none:2]", "[1.5]"]
TEXTS = ["a", "  ", "\n", "  \n ", "x\n\n", "\t", "b ", "\r\n", "# ", "é", "{ ", "}", " %}"]
LOOPS = ["{% if loop.first %}F{% endif %}", "{{ loop.previtem.role if loop.previtem is defined }}",
         "{% if loop.last %}{% break %}{% endif %}", "{{ loop.revindex0 }}{{ loop.cycle('a','b') }}"]


def expression(depth):
    pick = RNG.choice
    if depth <= 0 or RNG.random() < 0.12:
        return pick(NAMES) if RNG.random() < 0.6 else pick(LITERALS)
    a, b, c = (expression(depth - 1) for _ in range(3))
    return pick([
        lambda: f"{a} {pick(['+', '-', '*', '~', '/', '//', '%', '**'])} {b}",
        lambda: f"{a} {pick(['==', '!=', '<', '>', '<=', '>=', 'in', 'not in'])} {b}",
        lambda: f"{a} {pick(['and', 'or'])} {b}",
        lambda: f"not {a}",
        lambda: f"({a})",
        lambda: f"({a})|{pick(FILTERS)}",
        lambda: f"{a}|{pick(FILTERS)}",
        lambda: f"({a}) is {pick(TESTS)}",
        lambda: f"({a}){pick(SLICES)}",
        lambda: f"({a}).{pick(METHODS)}",
        lambda: f"({a}).{pick(ATTRIBUTES)}",
        lambda: f"({a} if {b} else {c})",
        lambda: f"[{a}, {b}]",
        lambda: pick(NAMES) + pick(SLICES),
        lambda: f"range({RNG.randrange(-1, 5)})",
        lambda: f"messages[{RNG.randrange(2)}].{pick(ATTRIBUTES)}",
        lambda: f"-{a}" if RNG.random() < 0.3 else f"{{'k': {a}, {pick(['1', 'none'])}: 2}}",
    ])()


def tag(text):
    signs = ["", "", "", "-", "+"]
    return "{%" + RNG.choice(signs) + " " + text + " " + RNG.choice(signs) + "%}"


def statement(depth):
    pick, text, e = RNG.choice, lambda: RNG.choice(TEXTS), expression
    kind = RNG.randrange(16)
    if depth <= 0 or kind < 4:
        return text() + "{{" + pick(["", "-"]) + f" {e(2)} " + pick(["", "-"]) + "}}" + text()
    body = "".join(statement(depth - 1) for _ in range(RNG.randrange(1, 3)))
    if kind == 4:
        other = tag("else") + statement(depth - 1) if RNG.random() < 0.5 else ""
        return tag(f"if {e(2)}") + body + other + tag("endif")
    if kind == 5:
        test = f" if {e(1)}" if RNG.random() < 0.2 else ""
        return tag(f"for x in {e(1)}{test}") + body + "{{ x }}{{ loop.index }}" + tag("endfor")
    if kind == 6:
        return tag("for m in messages") + text() + "{{ m.role }}" + pick(LOOPS) + body + tag("endfor")
    if kind == 7:
        return tag(f"set {pick(['x', 'q'])} = {e(2)}") + text()
    if kind == 8:
        return tag("set ns = namespace(a=1)") + tag(f"set ns.a = {e(2)}") + "{{ ns.a }}"
    if kind == 9:
        call = "{{ mm(" + e(1) + pick(["", " , 3", " , b=4"]) + ") }}"
        return tag("macro mm(a, b=2)") + "{{ a }}{{ b }}" + body + tag("endmacro") + call
    if kind == 10:
        return "{#" + pick(["", "-", "+"]) + text() + pick(["", "-", "+"]) + "#}"
    if kind == 11:
        return tag("set y") + body + tag("endset") + "{{ y|trim }}"
    if kind == 12:
        return tag("filter upper") + body + tag("endfilter")
    if kind == 13:
        return tag(f"with w = {e(1)}") + body + "{{ w }}" + tag("endwith")
    if kind == 14:
        return tag("raw") + text() + "{{ x }}" + tag("endraw")
    where = pick(["d|dictsort", "d.items()", "nest", "e", e(1)])
    return tag(f"for k, v in {where}") + "{{ k }}{{ v }}" + tag("endfor")


class Buf(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("text", ctypes.c_char * 1024)]


def ours(library, jansson, source, context):
    """The text, or (code, message)."""
    template, err, data, buf = ctypes.c_void_p(), Error(), source.encode(), Buf()
    if library.tok_jinja_compile(data, ctypes.c_size_t(len(data)), b"t", ctypes.byref(template),
                                 ctypes.byref(err)):
        return err.code, err.text.decode("utf-8", "replace")
    value = jansson.json_loads(json.dumps(context).encode(), ctypes.c_size_t(0), None)
    rc = library.tok_jinja_render(template, ctypes.c_void_p(value), b"", ctypes.byref(buf),
                                  ctypes.byref(err))
    library.tok_jinja_free(template)
    if rc:
        return err.code, err.text.decode("utf-8", "replace")
    return ctypes.string_at(buf.data, buf.length).decode() if buf.length else ""


def theirs(source, context):
    """The text, or None where Jinja fails."""
    try:
        return _compile_jinja_template(source).render(**context)
    except Exception:
        return None


def conversations():
    roles = ["system", "user", "assistant", "user", "assistant"]
    texts = ["  Be nice\n", "Hi 'ä' \"q\"\n", " ok ", "", "<think>\nhm\n</think>\n\nx"]
    all_turns = [{"role": r, "content": c} for r, c in zip(roles, texts)]
    tools = [{"type": "function", "function": {"name": "f", "description": "d é", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}]
    for turns in (all_turns, all_turns[1:], all_turns[:2], all_turns[1:2], []):
        for t in (None, tools):
            for header in (False, True):
                yield {"messages": turns, "tools": t, "documents": None, "bos_token": "<s>",
                       "eos_token": "</s>", "add_generation_prompt": header}


def write():
    rows = [line.replace("\\n", "\n") for line in WRITTEN.strip("\n").split("\n")]
    RNG.seed(7)
    while len(rows) < 400:
        source = statement(2)
        text = theirs(source, CONTEXT)
        if text is not None and "0x" not in text.lower() and "range(" not in text and len(source) < 200:
            rows.append(source)
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "jinja.jsonl"), "w", encoding="utf-8") as out:
        out.write(json.dumps(CONTEXT, ensure_ascii=False) + "\n")
        for source in rows:
            out.write(json.dumps([source, theirs(source, CONTEXT)], ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="?")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.write:
        return write()
    library, jansson = ctypes.CDLL(args.library), ctypes.CDLL("libjansson.so.4")
    jansson.json_loads.restype = ctypes.c_void_p
    RNG.seed(args.seed)
    if args.files:
        cases = ((name, open(name, encoding="utf-8").read(), c)
                 for name in args.files for c in conversations())
    else:
        cases = (("", "".join(statement(3) for _ in range(RNG.randrange(1, 4))), CONTEXT)
                 for _ in range(args.count))
    counts, refused = collections.Counter(), collections.Counter()
    for name, source, context in cases:
        want, got = theirs(source, context), ours(library, jansson, source, context)
        failed = isinstance(got, tuple)
        if want is not None and ("0x" in want or "range(" in want):
            counts["names an object"] += 1
        elif failed and want is None:
            counts["both fail"] += 1
        elif failed and got[0] == UNSUPPORTED:
            counts["refused"] += 1
            refused[name + got[1].split(": ", 1)[-1]] += 1
        elif want == got:
            counts["equal"] += 1
        else:
            counts["differ"] += 1
            if counts["differ"] <= 5:
                print(f"{name} {source[:400]!r}\n  theirs {want!r:.300}\n  ours   {got!r:.300}")
    print(dict(counts), refused.most_common(8))
    print(f"{counts['differ']} differences")
    return 1 if counts["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
