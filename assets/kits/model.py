"""The models of agent kits. Standard library and pydantic only: workflow files import this module."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from assets.secret_references import is_reference
from assets.sync import Model

MAX_STEPS = 100
MAX_ITEMS = 1_000
_DURATION = re.compile(r"(\d+)\s*(s|m|h|d)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ToolKind = Literal[
    "sql",
    "sync",
    "extract_knowledge",
    "search_knowledge",
    "databricks_job",
    "http",
    "function",
    "model",
    "kit",
    "text",
]
"""``sql``: a SELECT on the lakehouse; ``text``: text made from earlier outputs; ``kit``: hand over to another kit."""
StepStatus = Literal["succeeded", "failed", "skipped", "rejected", "expired", "stopped"]
KitStatus = Literal["running", "succeeded", "failed", "stopped", "cancelled"]
"""``stopped``: the budget was spent, or an approval was refused or expired; what was done stays."""


def seconds_of(duration: str) -> int:
    """The seconds of ``90s``, ``10m``, ``2h``, ``1d``.

    Raises:
        ValueError: it is no such duration.
    """
    match = _DURATION.match(duration.strip())
    if not match or int(match[1]) == 0:
        raise ValueError(f"no duration: {duration!r}; write 90s, 10m, 2h or 1d")
    return int(match[1]) * _SECONDS[match[2]]


def _duration(value: str) -> str:
    seconds_of(value)
    return value


Duration = Annotated[str, AfterValidator(_duration)]


class KitInput(Model):
    """A value that a run is given."""

    type: Literal["text", "integer", "number", "boolean", "list"] = "text"
    description: str = ""
    default: Any = None
    required: bool = False
    choices: tuple[Any, ...] = ()


class Trigger(Model):
    """What starts the kit. Exactly one of them; ``manual`` is always allowed."""

    manual: bool = False
    schedule: str | None = Field(default=None, description="`cron:0 6 * * 1` or `every:6h`")
    timezone: str = "UTC"
    after_asset: str | None = Field(
        default=None, description="starts when this asset was materialized: silver/shop/public.orders"
    )
    event: Literal["failed_sync"] | None = Field(default=None, description="an event that a sensor looks for")
    inputs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> Trigger:
        given = [self.manual, self.schedule is not None, self.after_asset is not None, self.event is not None]
        if sum(given) != 1:
            raise ValueError("a trigger is exactly one of manual, schedule, after_asset, event")
        return self


class Tables(Model):
    """Tables by name pattern: ``silver.shop__*``. What is written are Gold tables of the kit's own."""

    read: tuple[str, ...] = ("silver.*", "gold.*")
    write: tuple[Name, ...] = ()


class Constraints(Model):
    """Limits of one run. Reaching one stops it cleanly."""

    max_time: Duration = "1h"
    max_tokens: int | None = Field(default=None, ge=0)
    max_cost: float | None = Field(default=None, ge=0, description="in the currency of the configured prices")
    max_calls: int = Field(default=200, ge=1, le=10_000, description="tool calls, retries left out")
    tables: Tables = Tables()


class Tool(Model):
    """A tool that the kit may use, bound to what it may do."""

    kind: ToolKind
    description: str = ""
    connector: str | None = Field(
        default=None, description="sync: the only connector it may sync; `*`: the step says which"
    )
    source: str | None = Field(default=None, description="extract_knowledge: the only source")
    url: str | None = Field(default=None, description="http: prefix that every address must have")
    headers: dict[str, str] = Field(default_factory=dict, description="http: values may be references such as env:NAME")
    methods: tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...] = ("GET",)
    function: str | None = Field(default=None, description="function: the name it was registered under")
    job: dict[str, Any] | None = Field(default=None, description="databricks_job: input of the job's workflow")
    kit: Name | None = None
    base_url: str | None = Field(default=None, description="model: an OpenAI-compatible endpoint, version included")
    model: str | None = Field(default=None, description="model: its name there")
    api_key: str | None = Field(
        default=None, description="model: a reference such as `env:NAME`", pattern="^(env|file|vault|aws|gcp|azure):.+"
    )
    temperature: float = Field(default=0, ge=0, le=2)
    max_output_tokens: int = Field(default=2_000, ge=1, le=100_000)
    price_in: float = Field(default=0, ge=0, description="model: money a million tokens of the prompt")
    price_out: float = Field(default=0, ge=0, description="model: money a million tokens of the answer")
    max_rows: int = Field(default=1_000, ge=1, le=10_000)

    @model_validator(mode="after")
    def _complete(self) -> Tool:
        needs = {"sync": "connector", "http": "url", "function": "function", "databricks_job": "job", "kit": "kit"}
        fields = ["base_url", "model"] if self.kind == "model" else [needs[self.kind]] if self.kind in needs else []
        for field in fields:
            if getattr(self, field) is None:
                raise ValueError(f"a tool of kind {self.kind} needs `{field}`")
        for name, value in self.headers.items():
            if name.lower() in ("authorization", "cookie", "x-api-key") and not is_reference(value):
                raise ValueError(f"header {name}: give a reference such as env:NAME")
        return self


class Retry(Model):
    attempts: int = Field(default=3, ge=1, le=20)
    wait: Duration = "2s"


class Approval(Model):
    """A person has to agree before the step runs."""

    question: str
    approvers: tuple[str, ...] = Field(default=(), description="who may decide; empty: everyone who may run kits")
    expires: Duration = "1d"


class Step(Model):
    """One step. Texts between ``{{`` and ``}}`` are expressions over ``inputs``, ``steps``, ``item`` and ``run``."""

    step: Name
    tool: Name
    description: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict, alias="with")
    when: str | None = Field(default=None, description="expression; false: the step is skipped")
    for_each: str | None = Field(default=None, description="expression of a list; the step runs once an item")
    parallel: int = Field(default=1, ge=1, le=32, description="items at once")
    success: str | None = Field(default=None, description="expression over `output`; false: the step failed")
    retry: Retry = Retry()
    timeout: Duration = "10m"
    on_error: Literal["fail", "continue"] = "fail"
    write: Name | None = Field(default=None, description="sql: the Gold table that the rows become")
    approval: Approval | None = None

    model_config = Model.model_config | {"populate_by_name": True}


class Together(Model):
    """Steps that run at the same time; each sees the outputs of what came before them only."""

    together: tuple[Step, ...] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _one_question(self) -> Together:
        if sum(step.approval is not None for step in self.together) > 1:
            raise ValueError("at most one of the steps that run together may ask for an approval")
        return self


class HandOff(Model):
    """The kit that goes on when this one has ended."""

    kit: Name
    when: str | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)


class Kit(Model):
    """An agent kit."""

    name: Name
    objective: str = Field(min_length=1)
    inputs: dict[Name, KitInput] = Field(default_factory=dict)
    triggers: tuple[Trigger, ...] = (Trigger(manual=True),)
    constraints: Constraints = Constraints()
    tools: dict[Name, Tool] = Field(min_length=1)
    playbook: tuple[Step | Together, ...] = Field(min_length=1, max_length=MAX_STEPS)
    metrics: dict[Name, str] = Field(
        default_factory=dict, description="expression by name, told when the kit has ended"
    )
    hand_off: tuple[HandOff, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        found: list[Step] = []
        for entry in self.playbook:
            found += entry.together if isinstance(entry, Together) else [entry]
        return tuple(found)

    @model_validator(mode="after")
    def _fits_together(self) -> Kit:
        names = [step.step for step in self.steps]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"steps of one name: {', '.join(twice)}")
        for step in self.steps:
            tool = self.tools.get(step.tool)
            if tool is None:
                raise ValueError(f"step {step.step} uses the tool {step.tool}, which `tools` does not list")
            if step.write is not None and tool.kind != "sql":
                raise ValueError(f"step {step.step} writes a table, which only a tool of kind sql can")
            if step.write is not None and step.write not in self.constraints.tables.write:
                raise ValueError(f"step {step.step} writes {step.write}, which constraints.tables.write does not list")
            if step.write is not None and step.for_each is not None:
                raise ValueError(f"step {step.step} writes a table and cannot have for_each")
        if any(hand.kit == self.name for hand in self.hand_off):
            raise ValueError("a kit cannot hand over to itself")
        return self


# what crosses the bridge


class KitRun(Model):
    """Input of ``AgentKitExecutionWorkflow``: the kit as it was when it started, and the values it was given.

    ``from_step`` and ``earlier`` do a run again from a step on: what came before it is taken from the run ``earlier``.
    """

    kit: Kit
    run_id: str
    inputs: dict[str, Any] = Field(default_factory=dict)
    trigger: str = "manual"
    earlier: str | None = None
    from_step: str | None = None
    dagster_run_id: str | None = None
    depth: int = Field(default=0, ge=0, le=5)


class StepInput(Model):
    run: KitRun
    step: Name


class StepPlan(Model):
    """What a step is going to do: decided once, from stored outputs."""

    skip: str | None = None
    items: int = 1
    reused: bool = Field(default=False, description="its outputs were taken from the earlier run")


class ItemInput(Model):
    run: KitRun
    step: Name
    item: int = 0


class ChildWork(Model):
    """The workflow that does an item's work, with its input as JSON."""

    workflow: str
    workflow_id: str
    input: dict[str, Any]


class ItemOutcome(Model):
    """One item of a step. The output itself is stored; only its size travels."""

    ok: bool = True
    error: str | None = None
    tokens: int = 0
    cost: float = 0
    calls: int = 1
    rows: int | None = None
    stored_before: bool = False


class StoreInput(Model):
    item: ItemInput
    output: dict[str, Any] | None = None
    error: str | None = None


class StepOutcome(Model):
    step: str
    status: StepStatus
    reason: str = ""
    items: int = 0
    failed_items: int = 0
    tokens: int = 0
    cost: float = 0
    calls: int = 0


class StepEnd(Model):
    run: KitRun
    outcome: StepOutcome


class KitResult(Model):
    """How a kit's run ended; also the result of its workflow."""

    kit: str
    run_id: str
    status: KitStatus
    reason: str = ""
    steps: tuple[StepOutcome, ...] = ()
    metrics: dict[str, Any] = Field(default_factory=dict)
    tables: dict[str, str] = Field(default_factory=dict, description="Gold table -> its URI")
    tokens: int = 0
    cost: float = 0
    calls: int = 0


class KitEnd(Model):
    run: KitRun
    result: KitResult


class ApprovalRequest(Model):
    """Told to the store, so that lists show what waits."""

    run: KitRun
    step: Name
    expires_at: str


class Decision(Model):
    """A person's answer; argument of the update ``decide``."""

    step: Name
    by: str
    approve: bool
    note: str = Field(default="", max_length=2_000)
