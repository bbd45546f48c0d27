"""Features of a playbook on the real stack: conditions, items at once, retries, limits, and what a failure leaves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.kits.model import KitResult
from assets.settings import Settings
from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.kit_runs import run, write_kit


@pytest.fixture(scope="module")
def hr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Headrace]:
    home = tmp_path_factory.mktemp("kits") / "home"
    settings = Settings(home=home, kit_modules="tests.behaviour.kit_functions")
    with LocalStack(settings).start():
        yield Headrace(settings=settings)


def steps_of(result: KitResult) -> dict[str, str]:
    return {outcome.step: outcome.status for outcome in result.steps}


def outputs_of(hr: Headrace, result: KitResult) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for output in hr.kits.outputs(result.run_id):
        found.setdefault(output.step, []).append(output.output)
    return found


def made(hr: Headrace, text: str, folder: Path | None = None) -> str:
    return write_kit(hr, f"kit_{uuid.uuid4().hex[:8]}", text.replace("FOLDER", str(folder)))


AT_ONCE = """
    objective: Things at once.
    inputs: {limit: {type: integer, default: 3}}
    tools:
      meet: {kind: function, function: meet}
      say: {kind: text}
    playbook:
      - together:
          - {step: left, tool: meet, with: {folder: "FOLDER/together", name: left, wait_for: 2}}
          - {step: right, tool: meet, with: {folder: "FOLDER/together", name: right, wait_for: 2}}
      - step: each
        tool: meet
        for_each: "[1, 2, 3, 4]"
        parallel: 2
        with: {folder: "FOLDER/items", name: "{{ item }}", wait_for: "{{ 2 if index < 2 else 1 }}"}
      - step: small
        tool: say
        when: inputs.limit < 3
        with: {text: never}
      - step: large
        tool: say
        when: inputs.limit >= 3
        with: {text: "{{ steps.small.skipped }} {{ steps.left.value }}"}
"""


def test_steps_run_together_items_at_most_as_many_at_once_as_told_and_conditions_decide(
    hr: Headrace, tmp_path: Path
) -> None:
    result = run(hr, made(hr, AT_ONCE, tmp_path))
    assert result.status == "succeeded", result.reason
    outputs = outputs_of(hr, result)
    assert outputs["left"] == outputs["right"] == [{"value": 2}], "each waited until the other one ran"
    assert max(output["value"] for output in outputs["each"]) == 2
    assert len(outputs["each"]) == 4
    assert steps_of(result)["small"] == "skipped"
    assert outputs["large"] == [{"text": "True 2"}]


RETRIED = """
    objective: Try again.
    tools:
      shaky: {kind: function, function: fail_at_first}
      say: {kind: text}
    playbook:
      - step: passes
        tool: shaky
        with: {folder: "FOLDER/passes", times: 2}
        retry: {attempts: 3, wait: 1s}
      - step: given_up
        tool: shaky
        with: {folder: "FOLDER/given_up", times: 9}
        retry: {attempts: 2, wait: 1s}
        on_error: continue
      - step: wrong
        tool: say
        with: {text: "nothing"}
        success: output.text == "something"
        on_error: continue
      - step: after
        tool: say
        with: {text: "{{ steps.given_up.error }}"}
      - step: ends_it
        tool: say
        with: {text: "nothing"}
        success: output.text == "something"
      - step: never
        tool: say
        with: {text: "not reached"}
"""


def test_what_fails_is_tried_as_often_as_told_and_ends_the_run_unless_it_may_go_on(
    hr: Headrace, tmp_path: Path
) -> None:
    result = run(hr, made(hr, RETRIED, tmp_path))
    assert steps_of(result) == {
        "passes": "succeeded",
        "given_up": "failed",
        "wrong": "failed",
        "after": "succeeded",
        "ends_it": "failed",
    }
    outputs = outputs_of(hr, result)
    assert outputs["passes"] == [{"value": 3}]
    assert len(list((tmp_path / "given_up").iterdir())) == 2
    assert "call 2 failed" in outputs["after"][0]["text"]
    assert (result.status, "ends_it" in result.reason, "is not true" in result.reason) == ("failed", True, True)
    assert "never" not in outputs


SLOW = """
    objective: Take long.
    constraints: {max_time: LIMIT}
    tools:
      long: {kind: function, function: take_long}
    playbook:
      - step: first
        tool: long
        with: {seconds: 0}
      - step: slow
        tool: long
        with: {seconds: 8}
        timeout: STEP
        retry: {attempts: 1}
"""


def test_a_step_that_takes_longer_than_its_timeout_fails_and_a_run_over_its_time_stops(hr: Headrace) -> None:
    late = run(hr, made(hr, SLOW.replace("LIMIT", "1h").replace("STEP", "1s")))
    assert (late.status, steps_of(late)) == ("failed", {"first": "succeeded", "slow": "failed"}), late.reason
    assert "slow" in late.reason
    stopped = run(hr, made(hr, SLOW.replace("LIMIT", "2s").replace("STEP", "1h")))
    assert (stopped.status, "time limit of 2s" in stopped.reason) == ("stopped", True), stopped.reason
    assert steps_of(stopped) == {"first": "succeeded", "slow": "stopped"}
    assert hr.catalog.kit_run(stopped.run_id).status == "stopped"


ENDED = """
    objective: One of several fails.
    tools:
      say: {kind: text}
      long: {kind: function, function: take_long}
    playbook:
      - together:
          - {step: slow, tool: long, with: {seconds: 8}, timeout: 1h}
          - {step: fails, tool: say, with: {text: "no"}, success: "output.text == 'yes'"}
"""


def test_a_step_that_ends_the_run_ends_those_that_run_beside_it(hr: Headrace) -> None:
    result = run(hr, made(hr, ENDED))
    assert (result.status, steps_of(result)) == ("failed", {"slow": "stopped", "fails": "failed"}), result.reason
    assert "fails" in result.reason


CALLS = """
    objective: Many calls.
    constraints: {max_calls: 3}
    tools:
      say: {kind: text}
    playbook:
      - step: each
        tool: say
        for_each: "[1, 2, 3, 4, 5]"
        with: {text: "call {{ item }}"}
"""


def test_a_run_stops_at_its_number_of_calls_and_keeps_what_was_done(hr: Headrace) -> None:
    result = run(hr, made(hr, CALLS))
    assert (result.status, result.calls, "3 tool calls" in result.reason) == ("stopped", 3, True), result.reason
    assert outputs_of(hr, result)["each"] == [{"text": f"call {number}"} for number in (1, 2, 3)]


KNOWLEDGE = """
    objective: Read the notes.
    inputs: {source: {type: text, default: kit_notes}}
    tools:
      extract: {kind: extract_knowledge, source: kit_notes}
      search: {kind: search_knowledge}
    playbook:
      - step: read
        tool: extract
        with: {sources: ["{{ inputs.source }}"]}
      - step: find
        tool: search
        with: {query: "prefer*", kind: observation}
    metrics:
      quote: steps.find.hits[0].text
"""


def test_a_kit_extracts_knowledge_from_its_own_source_only_and_searches_it(hr: Headrace, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("This is Anna Keller. I prefer e-mail to calls.")
    for name in ("kit_notes", "others_notes"):
        hr.knowledge.add(name, {"kind": "text", "path": str(tmp_path)})
    kit = made(hr, KNOWLEDGE)
    result = run(hr, kit)
    assert result.status == "succeeded", result.reason
    assert "I prefer e-mail" in result.metrics["quote"]
    other = run(hr, kit, {"source": "others_notes"})
    assert (other.status, "may extract from kit_notes only" in other.reason) == ("failed", True), other.reason
    assert hr.knowledge.runs("others_notes") == []
