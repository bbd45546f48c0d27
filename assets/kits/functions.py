"""Python functions that kits may call by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from assets.errors import ConfigurationError, NotFoundError
from assets.settings import Settings

BUILT_IN = "assets.kits.installation_functions"
Function = TypeVar("Function", bound=Callable[..., Any])
_registered: dict[str, Callable[..., Any]] = {}


def kit_function(name: str) -> Callable[[Function], Function]:
    """Register a function for kits: it takes the step's arguments by name and returns a JSON value.

    A parameter ``settings`` gets the installation's. It may be called again for the same work after a crash, so it has
    to be idempotent.

    Example:
        @kit_function("customer_tier")
        def customer_tier(revenue: float) -> str: ...
    """

    def register(function: Function) -> Function:
        _registered[name] = function
        return function

    return register


def registered_function(settings: Settings, name: str) -> Callable[..., Any]:
    """The function of that name, from the modules that ``HEADRACE_KIT_MODULES`` lists.

    Raises:
        ConfigurationError: a module cannot be imported.
        NotFoundError: no module registers the name.
    """
    for module in filter(None, (BUILT_IN, *(text.strip() for text in settings.kit_modules.split(",")))):
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigurationError(
                f"the module {module} cannot be imported ({type(error).__name__}).", where="HEADRACE_KIT_MODULES"
            ) from None
    if name not in _registered:
        known = ", ".join(sorted(_registered)) or "none"
        raise NotFoundError(
            f"no function {name} is registered for kits", remedy=f"Registered: {known}. See HEADRACE_KIT_MODULES."
        )
    return _registered[name]
