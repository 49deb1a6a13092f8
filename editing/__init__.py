"""Locate-and-edit: the mathematics of factd. Knows torch and transformers; nothing of queues or servers.

The public names are imported on first use, so that a process which needs only the file format
(`editing.memory.delta`, inside vLLM) does not pay for transformers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editing.editor import Editor
    from editing.facts import Fact

__all__ = ["Editor", "Fact"]


def __getattr__(name: str) -> Any:
    if name == "Editor":
        from editing.editor import Editor

        return Editor
    if name == "Fact":
        from editing.facts import Fact

        return Fact
    raise AttributeError(f"module 'editing' has no attribute {name!r}")
