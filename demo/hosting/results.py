"""What a server says back: refusals, progress, results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.hosting.common import HostError


class PromptRefused(HostError):
    """ComfyUI's validation said no. `errors` holds, per node, the sentences it gave."""

    def __init__(self, message: str, errors: dict[str, list[str]], answer: dict[str, Any]) -> None:
        super().__init__(message)
        self.errors = errors
        self.answer = answer


class RunFailed(HostError):
    """A node raised while the prompt was running."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class RunInterrupted(HostError):
    """The run was cancelled."""


@dataclass(frozen=True)
class Progress:
    """Where a run is: the node at work, and how many of its steps are done (0 of 0 for nodes without steps)."""

    node: str
    node_class: str
    value: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """A finished run: what each node showed, by node id."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    seconds: float
    folder: Path
    messages: list[Any] = field(default_factory=list)

    @property
    def files(self) -> dict[str, list[Path]]:
        """The files each node wrote."""
        found = {node: [self.path_of(item) for item in file_items(shown)] for node, shown in self.outputs.items()}
        return {node: paths for node, paths in found.items() if paths}

    def path_of(self, item: Mapping[str, str]) -> Path:
        return self.folder / item["type"] / item.get("subfolder", "") / item["filename"]

    @property
    def texts(self) -> dict[str, str]:
        """The text each node showed."""
        return {node: "\n".join(map(str, shown["text"])) for node, shown in self.outputs.items() if shown.get("text")}


def refused(answer: dict[str, Any]) -> PromptRefused:
    """ComfyUI repeats a custom sentence once per input it looked at; a reader needs it once."""
    errors: dict[str, list[str]] = {}
    lines: list[str] = []
    for node, problem in (answer.get("node_errors") or {}).items():
        sentences = dict.fromkeys(sentence(error) for error in problem.get("errors", []))
        errors[node] = list(sentences)
        lines += [f"{problem.get('class_type')} (node {node}): {text}" for text in sentences]
    general = answer.get("error") or {}
    if not lines:
        lines = [sentence(general) if isinstance(general, dict) else str(general)]
    return PromptRefused("ComfyUI refused the workflow. " + " ".join(lines), errors, answer)


def sentence(error: Mapping[str, Any]) -> str:
    details = str(error.get("details") or "")
    if error.get("type") == "custom_validation_failed":
        return details.partition(" - ")[2] or details
    message = str(error.get("message") or "unknown error")
    return f"{message}: {details}" if details else message


def file_items(shown: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for value in shown.values():
        if isinstance(value, list):
            yield from (item for item in value if isinstance(item, dict) and {"filename", "type"} <= item.keys())
