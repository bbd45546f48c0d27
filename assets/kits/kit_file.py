"""Reads kits from YAML; every problem is told with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from assets.errors import ConfigurationError, NotFoundError
from assets.kits.expressions import ExpressionError, check_expression, check_template
from assets.kits.model import Kit, Step, Together
from assets.settings import Settings
from assets.sync import Model

SHIPPED = Path(__file__).parent / "shipped"
MAX_BYTES = 256 * 1024
_BUILT_IN = ("inputs", "steps", "run", "item", "index", "output")


class KitProblem(Model):
    """One thing that is wrong with a kit."""

    line: int
    field: str
    problem: str


class KitFileError(ConfigurationError):
    """A kit cannot be used; ``problems`` names each place."""

    def __init__(self, file: str, problems: list[KitProblem]) -> None:
        self.problems = problems
        told = "; ".join(f"line {p.line}: {p.field}: {p.problem}" for p in problems[:20])
        super().__init__(told, where=file, remedy="See docs/kits.md.")


def read_kit(text: str, file: str = "kit") -> Kit:
    """Parse and validate one kit.

    Raises:
        KitFileError: with all problems and their lines.
    """
    if len(text) > MAX_BYTES:
        raise KitFileError(file, [KitProblem(line=1, field="file", problem=f"larger than {MAX_BYTES >> 10} KiB")])
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise KitFileError(file, [KitProblem(line=line, field="yaml", problem=error.problem or "unreadable")]) from None
    except yaml.YAMLError as error:
        raise KitFileError(file, [KitProblem(line=1, field="yaml", problem=str(error)[:200])]) from None
    if not isinstance(document, dict):
        raise KitFileError(file, [KitProblem(line=1, field="kit", problem="no mapping of fields")])
    lines = _lines(node)
    problems = _repeated_keys(node)
    try:
        kit = Kit.model_validate(document)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            place = _place(item["loc"], document)
            message = item["msg"].removeprefix("Value error, ")
            place = place or _step_place(message, document)
            found = KitProblem(line=_line(lines, place), field=".".join(map(str, place)) or "kit", problem=message)
            if found not in problems:
                problems.append(found)
        raise KitFileError(file, problems) from None
    problems += _expression_problems(kit, document, lines)
    if problems:
        raise KitFileError(file, sorted(problems, key=lambda p: p.line))
    return kit


def _lines(node: Any, place: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], int]:
    lines = {place: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines |= _lines(value, (*place, key.value))
            lines[(*place, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines |= _lines(value, (*place, number))
    return lines


def _repeated_keys(node: Any, place: tuple[Any, ...] = ()) -> list[KitProblem]:
    problems: list[KitProblem] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            field = ".".join(map(str, (*place, key.value)))
            if key.value in seen:
                problems.append(KitProblem(line=key.start_mark.line + 1, field=field, problem="stands twice"))
            seen.add(key.value)
            problems += _repeated_keys(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            problems += _repeated_keys(value, (*place, number))
    return problems


def _place(location: tuple[Any, ...], document: Any) -> tuple[Any, ...]:
    """The part of a pydantic location that stands in the document: names of union members do not."""
    place: list[Any] = []
    current = document
    for part in location:
        inside = isinstance(current, dict) and part in current
        inside = inside or (isinstance(current, list) and isinstance(part, int) and part < len(current))
        if inside:
            current = current[part]
        elif part in ("Step", "Together", "[key]"):
            continue
        place.append(part)
        if not inside:
            break
    return tuple(place)


def _step_place(message: str, document: dict[str, Any]) -> tuple[Any, ...]:
    """Where the step stands that a problem of the whole kit names."""
    named = re.match(r"step (\w+) ", message)
    for number, entry in enumerate(document.get("playbook") or ()):
        if named and isinstance(entry, dict) and entry.get("step") == named[1]:
            return ("playbook", number)
    return ()


def _line(lines: dict[tuple[Any, ...], int], place: tuple[Any, ...]) -> int:
    while place not in lines and place:
        place = place[:-1]
    return lines.get(place, 1)


def _expression_problems(kit: Kit, document: Any, lines: dict[tuple[Any, ...], int]) -> list[KitProblem]:
    """Expressions that do not parse, or name a step or an input that cannot be there yet."""
    problems: list[KitProblem] = []
    inputs, earlier = set(kit.inputs), set[str]()

    def look(place: tuple[Any, ...], text: str | None, *, template: bool = False, local: tuple[str, ...] = ()) -> None:
        if text is None:
            return
        try:
            check = check_template if template else check_expression
            check(text, inputs=inputs, steps=earlier, names={"inputs", "steps", "run", *local})
        except ExpressionError as error:
            problems.append(KitProblem(line=_line(lines, place), field=".".join(map(str, place)), problem=error.what))

    def look_into(place: tuple[Any, ...], value: Any, local: tuple[str, ...]) -> None:
        if isinstance(value, str):
            look(place, value, template=True, local=local)
        elif isinstance(value, dict):
            for key, item in value.items():
                look_into((*place, key), item, local)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                look_into((*place, number), item, local)

    def look_at_step(place: tuple[Any, ...], step: Step) -> None:
        local = ("item", "index") if step.for_each else ()
        look((*place, "when"), step.when)
        look((*place, "for_each"), step.for_each)
        look((*place, "success"), step.success, local=("output", *local))
        look_into((*place, "with"), step.arguments, local)
        if step.approval:
            look((*place, "approval", "question"), step.approval.question, template=True)

    for number, entry in enumerate(kit.playbook):
        if isinstance(entry, Together):
            for inner, step in enumerate(entry.together):
                look_at_step(("playbook", number, "together", inner), step)
            earlier |= {step.step for step in entry.together}
        else:
            look_at_step(("playbook", number), entry)
            earlier.add(entry.step)
    for name, expression in kit.metrics.items():
        look(("metrics", name), expression)
    for number, hand in enumerate(kit.hand_off):
        look(("hand_off", number, "when"), hand.when)
        look_into(("hand_off", number, "inputs"), hand.inputs, ())
    return problems


def kit_folder(settings: Settings) -> Path:
    """Where an installation's own kits lie."""
    return settings.kits_folder.expanduser().resolve() if settings.kits_folder else settings.home_path / "kits"


def kit_files(settings: Settings) -> dict[str, Path]:
    """Kit files by file name without ending; the installation's own go before the shipped ones."""
    found: dict[str, Path] = {}
    for folder in (SHIPPED, kit_folder(settings)):
        found |= {path.stem: path for path in sorted(folder.glob("*.y*ml"))[:1_000]}
    return found


def load_kit(settings: Settings, name: str) -> Kit:
    """The kit of that name.

    Raises:
        NotFoundError: there is none.
        KitFileError: it is not valid, or its name is not its file's.
    """
    path = kit_files(settings).get(name)
    if path is None:
        known = ", ".join(sorted(kit_files(settings))) or "none"
        raise NotFoundError(f"there is no kit {name}", where=str(kit_folder(settings)), remedy=f"Kits: {known}.")
    kit = read_kit(path.read_text(encoding="utf-8"), str(path))
    if kit.name != name:
        raise KitFileError(str(path), [KitProblem(line=1, field="name", problem=f"must be the file's name, {name}")])
    return kit
