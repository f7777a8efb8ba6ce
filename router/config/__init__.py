"""The configuration: YAML files in, a checked RuleSet or diagnostics with places out.

What is named here is loaded when it is asked for: a part of this package, such as its schema, is had without the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.config.compiler import Loaded, load
    from router.config.coordinator import Coordinator, Reload, Standing
    from router.config.diagnostics import Code, Diagnostic, Severity
    from router.config.watching import Watcher

__all__ = ["Code", "Coordinator", "Diagnostic", "Loaded", "Reload", "Severity", "Standing", "Watcher", "load"]

_HOMES = {
    "compiler": ("Loaded", "load"),
    "coordinator": ("Coordinator", "Reload", "Standing"),
    "diagnostics": ("Code", "Diagnostic", "Severity"),
    "watching": ("Watcher",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
