"""Kits are read with every problem told at its line, and their expressions reach values only."""

from __future__ import annotations

import pytest

from assets.kits.expressions import ExpressionError, check_expression, evaluate, render
from assets.kits.kit_file import SHIPPED, KitFileError, read_kit

GOOD = """name: greet
objective: Say hello.
inputs:
  who: {default: Ada}
tools:
  say: {kind: text}
playbook:
  - step: hello
    tool: say
    with: {text: "Hello {{ inputs.who }}"}
metrics:
  words: steps.hello.text | length
"""


def problems(text: str) -> list[tuple[int, str]]:
    with pytest.raises(KitFileError) as caught:
        read_kit(text)
    return [(problem.line, problem.problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_each_shipped_kit_is_valid_and_named_as_its_file(name: str) -> None:
    assert read_kit((SHIPPED / f"{name}.yaml").read_text()).name == name


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("kind: text", "kind: shell"), 6, "Input should be 'sql'"),
        (("tool: say", "tool: shout"), 8, "uses the tool shout"),
        (("inputs.who }}", "inputs.whom }}"), 10, "there is no input whom"),
        (("steps.hello", "steps.hallo"), 12, "there is no earlier step hallo"),
        (("name: greet", "name: Greet Me"), 1, "should match pattern"),
        (("who: {default: Ada}", "who: {default: Ada, colour: red}"), 4, "Extra inputs"),
        (("{{ inputs.who }}", "{{ inputs.who"), 10, "unexpected"),
        (("{{ inputs.who }}", "{{ open('/etc/passwd') }}"), 10, "only values"),
        (("objective: Say hello.", "objective: Say hello.\nobjective: Twice."), 3, "stands twice"),
        (("  - step: hello", "  - step: hello\n  broken"), 9, "could not find expected"),
    ],
)
def test_a_problem_is_told_with_its_line(change: tuple[str, str], line: int, says: str) -> None:
    assert change[0] in GOOD
    found = problems(GOOD.replace(*change))
    assert any(says in text for _, text in found), found
    place = next(number for number, text in found if says in text)
    assert abs(place - line) <= 1, found


def test_a_step_sees_earlier_steps_only_and_its_item_only_where_it_has_one() -> None:
    kit = GOOD.replace("{{ inputs.who }}", "{{ item }}")
    assert any("item is not known here" in text for _, text in problems(kit))
    kit = GOOD.replace("{{ inputs.who }}", "{{ steps.hello.text }}")
    assert any("there is no earlier step hello" in text for _, text in problems(kit))


def test_a_table_that_the_kit_does_not_list_cannot_be_written() -> None:
    kit = GOOD.replace("kind: text", "kind: sql").replace("    tool: say", "    tool: say\n    write: report")
    assert any("constraints.tables.write does not list" in text for _, text in problems(kit))


def test_a_secret_header_has_to_be_a_reference() -> None:
    tool = 'say: {kind: http, url: "https://example.com", headers: {Authorization: "Bearer canary-token"}}'
    found = problems(GOOD.replace("say: {kind: text}", tool))
    assert any("give a reference" in text for _, text in found)
    assert "canary-token" not in str(found)


VALUES = {"inputs": {"n": 3}, "steps": {"a": {"items": [{"x": 1}, {"x": 2}], "rows": [], "text": "t"}}, "run": {}}


def test_expressions_keep_the_type_of_their_value() -> None:
    assert evaluate("inputs.n > 2 and steps.a.items | length == 2", VALUES) is True
    assert render("{{ inputs.n }}", VALUES) == 3
    assert render({"a": ["{{ steps.a.items }}", "n={{ inputs.n }}"]}, VALUES) == {"a": [[{"x": 1}, {"x": 2}], "n=3"]}


@pytest.mark.parametrize(
    "text",
    [
        "''.__class__.__mro__",
        "inputs.__class__",
        "steps.a.text.upper()",
        "cycler.__init__.__globals__",
        "range(10)",
        "9 ** 9999999",
        "'x' * 100000000",
        "inputs['n'].real",
        "steps | attr('__class__')",
        "missing",
    ],
)
def test_nothing_but_values_can_be_reached(text: str) -> None:
    with pytest.raises(ExpressionError):
        check_expression(text, inputs={"n"}, steps={"a"}, names={"inputs", "steps", "run"})
        evaluate(text, VALUES)


def test_of_steps_that_run_together_one_at_most_asks_for_an_approval() -> None:
    step = "{step: NAME, tool: say, with: {text: x}, approval: {question: Sure}}"
    together = "".join(f"      - {step.replace('NAME', name)}\n" for name in ("one", "other"))
    found = problems(GOOD.replace("playbook:\n", f"playbook:\n  - together:\n{together}"))
    assert any("at most one of the steps that run together" in text for _, text in found), found
