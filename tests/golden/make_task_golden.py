"""Writes task_templates.json: what lm-evaluation-harness makes of templates of task files.

Needs lm_eval (made with 0.4.13): python make_task_golden.py
"""

import json
from pathlib import Path

from lm_eval.utils import apply_template

ROW = {
    "q": "Tom has a",
    "choices": ["dog", "it's"],
    "opts": {"text": ["dog", "cat"], "label": ["A", "B"]},
    "answer": "B",
    "n": 5,
    "score": 0.1,
    "none": None,
    "yes": True,
    "tiny": 1.5e-7,
    "huge": 1e22,
    "whole": 2.0,
    "empty": [],
    "nested": [[1, 2.5], {"a": None, "b": [True]}, "x\ny"],
}

SOURCES = [
    "{{ q }}\nAnswer:\n",
    "Score {{ score }} of {{ n }} {{ n/2 }} {{ true }} {{ none }} {{ [1,\"a\"] }}",
    "{{ tiny }} {{ huge }} {{ whole }} {{ 1/3 }} {{ 4/2 }} {{ 7//2 }} {{ 7%4 }} {{ 2**3 }} {{ -n }}",
    "{{ choices }} {{ opts }} {{ empty }} {{ nested }} {{ yes }}",
    "{{ opts.label.index(answer) }}",
    "{{ [\"A\",\"B\"].index(answer) }}",
    "{{ opts.label.index('Z') }}",
    "{{ q.index('has') }} {{ q.find('z') }} {{ q.count('a') }}",
    "{{ opts.get('text') }} {{ opts.get('nosuch', 'no') }} {{ opts['label'][1] }}",
    "{% for k, v in opts.items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ '%s and %s' % (q, n) }}",
    "{{ '%s' % q }}{{ \"%d%%\" % n }}{{ '%.2f' % score }}",
    "{{ '%s|%s' % (choices, none) }}",
    "{{ '%s' % opts.label[0]|lower }} {{ '%05.1f' % whole }} {{ '%x' % 255 }}",
    "{{ 'a' ~ '%s' % n ~ 'b' }}{% set x = '%s!' % q %}{{ x }}",
    "{{ '%(a)s' % {'a': 1} }}",
    "{{ 10 % 4 }}{% if n % 2 == 1 %} odd{% endif %}",
    "{{ q|upper|replace(\"T\",\"t\") }} {{ \"%.2f\"|format(score) }} {{ choices|join(\", \") }} {{ q.strip().split(\" \")[0].title() }}",
    "{{ \"yes\" if n > 3 else \"no\" }}{{ q[:3] }}{{ q[-1] }}{{ q[::-1] }}",
    "{{ nosuch }}",
    "{{ opts.nosuch }}",
    "{{ loop }}",
    "{% if nosuch is defined %}a{% else %}b{% endif %}",
    "{{ ('A', 'B')[1] }} {{ 'A' in ('A', 'B') }}",
    "{{ q|length }} {{ choices|length }} {{ choices|first }} {{ choices|last }} {{ nested|length }}",
    "{{ q|regex_replace('(T)om', '<\\\\1>') }} {{ q|regex_replace('[a-z]', '-', 2) }}",
    "{{ q.replace('a', 'e') }} {{ q.lower() }} {{ q.startswith('Tom') }} {{ q.split() }}",
    "{{ 'x' * 3 }} {{ [1] + [2] }} {{ n ~ score }}",
    "{{ n|string ~ '!' }} {{ choices|string }} {{ score|string }}",
    "{{ n|int + 1 }} {{ '3'|int }} {{ n|float }} {{ '2.50'|float }} {{ 2.567|round(1) }} {{ n|abs }}",
    "{{ range(3)|list }} {% for i in range(1, 6, 2) %}{{ i }}{% endfor %}{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}",
    "{% for c in choices %}{{ loop.index }}. {{ c }}\n{% endfor %}",
    "{%- set letters = ['A', 'B'] -%}{% for c in choices -%}\n{{ letters[loop.index0] }}. {{ c }}\n{% endfor %}",
    "{{ choices|map('upper')|join('/') }} {{ [3,1,2]|sort }} {{ [1,2]|sum }} {{ [1,5]|max }}",
    "{{ q|trim }}{{ '  a '|trim }}{{ ' a '.strip() }}{{ q|capitalize }}{{ q|title }}",
    "{{ '{} is {}'.format(q, n) }} {{ ', '.join(choices) }} {{ 'abc'.isdigit() }} {{ '12'.isdigit() }}",
    "{{ q == 'Tom has a' and n != 4 or false }} {{ not yes }} {{ none is none }} {{ n is number }}",
    "{{ '<b>' }}{{ \"it's\"|e }}",
    "{# a comment #}{{ q }}{% raw %}{{ x }}{% endraw %}",
    "{{ choices[0] if choices else '' }}{{ empty|default('none', true) }}",
    "{{ 'Options: ' ~ choices }} {{ opts ~ '' }} {{ nested|join(' / ') }} {{ [choices, 1]|string }}",
    "{{ choices == ['dog', \"it's\"] }} {{ 'dog' in choices }} {{ 'text' in opts }} {{ choices + ['x'] }} {{ choices[1:] }}",
    "{{ opts|length }} {{ opts.keys()|list }} {{ opts.values()|list }} {% for k in opts %}{{ k }}{% endfor %}",
    "{{ choices|tojson }} {{ nested|tojson }} {{ '<é>'|tojson }} {{ opts|tojson }}",
    "{{ choices|reverse|list }} {{ choices|sort|first }} {{ nested[0][1] }} {{ nested[1]['b'][0] }} {{ choices is iterable }}",
    "{{ [q, nosuch] }}",
    "{{ q",
]


def rendered(source: str) -> str:
    try:
        return apply_template(source, ROW)
    except Exception as error:  # noqa: BLE001 - any error is the answer
        return f"ERROR {type(error).__name__}: {error}"


cases = [[source, json.dumps(ROW), rendered(source)] for source in SOURCES]
path = Path(__file__).parent / "task_templates.json"
path.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
print(f"{len(cases)} templates in {path}")
