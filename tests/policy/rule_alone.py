"""An engine as a scheduling rule sees it: every token takes a block, every sequence stands by itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Task:
    """A sequence by name, with the blocks that it holds."""

    name: str
    pending_tokens: int = 1
    known_tokens: int = 1
    priority: int = 0
    arrival_s: float = 0.0
    held: int = 0


@dataclass
class Desk:
    """`free` blocks; what is preempted gives back all it holds and waits in front."""

    running: list[Task]
    free: int = 0
    waiting: list[Task] = field(default_factory=list)
    token_budget: int = 100
    draft_tokens: int = 0
    max_running: int = 100

    @property
    def requests(self) -> int:
        return len(self.running) + len(self.waiting)

    def next_waiting(self) -> Task | None:
        return self.waiting[0] if self.waiting else None

    def cached_tokens(self, sequence: Task) -> int:
        return 0

    def allocate_together(self, max_grants: int, /) -> list[tuple[Task, int]]:
        return []

    def allocate(self, sequence: Task, tokens: int) -> bool:
        if tokens > self.free:
            return False
        self.free -= tokens
        sequence.held += tokens
        return True

    def admit(self, sequence: Task, cached_tokens: int, tokens: int) -> bool:
        if not self.allocate(sequence, tokens):
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        return True

    def preempt(self, sequence: Task) -> None:
        self.running.remove(sequence)
        self.waiting.insert(0, sequence)
        self.free += sequence.held
        sequence.held, sequence.pending_tokens = 0, sequence.known_tokens


def named(grants: list[tuple[Task, int]]) -> list[tuple[str, int]]:
    return [(sequence.name, tokens) for sequence, tokens in grants]
