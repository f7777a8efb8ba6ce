"""The configuration: YAML files in, a checked RuleSet or diagnostics with places out."""

from router.config.compiler import Loaded, load
from router.config.coordinator import Coordinator
from router.config.diagnostics import Code, Diagnostic, Severity

__all__ = ["Code", "Coordinator", "Diagnostic", "Loaded", "Severity", "load"]
