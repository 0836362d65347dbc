"""Options that several commands share, written once: a dataclass whose fields are options."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose dataclass parameters become one option per field; the command gets the dataclass values.

    Args:
        command: a function. Where a parameter's annotation is a dataclass, the dataclass's fields are annotated as
            options and have defaults; they take the parameter's position.

    Returns:
        The function that Typer reads: it takes all options by name.
    """
    parameters = signature(command).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}

    @wraps(command)
    def expanded(**options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{field.name: options.pop(field.name) for field in fields(group)})
        command(**options)

    options = []
    for parameter in parameters:
        group = groups.get(parameter.name)
        single = (parameter.name, parameter.default, parameter.annotation)
        options += [single] if group is None else [(f.name, f.default, f.type) for f in fields(group)]
    # Keyword only, as an option without a default may follow one with a default.
    by_name = [Parameter(n, Parameter.KEYWORD_ONLY, default=d, annotation=a) for n, d, a in options]
    vars(expanded)["__signature__"] = Signature(by_name)
    expanded.__annotations__ = {name: annotation for name, _, annotation in options}
    return expanded
