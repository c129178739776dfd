"""Which failures belong to one page, and which end a run over many."""

from __future__ import annotations

from glm4v_core.errors import EngineClosedError, EngineDeadError, EngineError, InputError, OutputError


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed later: the engine failed at it and lives on."""
    return isinstance(error, EngineError) and not isinstance(error, (EngineClosedError, EngineDeadError))


def is_of_one_page(error: BaseException) -> bool:
    """Tell a failure that leaves the other pages alone from one that they would all meet, such as a wrong setting."""
    return isinstance(error, (InputError, OutputError)) or is_transient(error)
