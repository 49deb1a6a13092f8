"""The one way back to a version: afterwards the model in memory has its weights, proved by hash."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.apply.editor import Editor, tensor_entries
from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION
from daemon.ledger.journal import Journal
from daemon.versions.store import Store
from editing.facts import Fact
from editing.memory.state import EditState


@dataclass
class Proved:
    """The version that the model in memory was last found to have, by hash, and its state then."""

    version: str | None = None
    state: EditState | None = None
    sha256: dict[str, str] = field(default_factory=dict[str, str])


class Restorer:
    """Brings the model in memory to a version and proves by hash that it is there.

    Args:
        proved: from the run before; an empty one when nothing is known of the weights in memory.
    """

    def __init__(self, journal: Journal, store: Store, editor: Editor, proved: Proved) -> None:
        self.journal, self.store, self.editor, self.proved = journal, store, editor, proved
        self._base_sha256: dict[str, str] | None = None

    def to_live(self) -> None:
        """Raises StoreError unless the model then has exactly the weights of the live version."""
        self.to(self.journal.questions.live_version())

    def to(self, version: str) -> None:
        """Raises StoreError unless the model then has exactly the weights of the version."""
        if self.proved.version == version and self._from_memory():
            return
        found = self._from_disk(version)
        self.proved = Proved(version, self.editor.state, found)

    def remember(self, version: str) -> None:
        """Keeps that the version was written from the weights in memory, so that it is proved already."""
        self.proved = Proved(version, self.editor.state, self.store.weight_sha256(version))

    def _from_memory(self) -> bool:
        """Whether the state that was proved last could be taken up again."""
        state = self.proved.state
        if state is None:
            return False
        if state is self.editor.state:
            return True  # states are immutable: nothing was changed since the weights were last hashed
        self.editor.restore(state)
        return self.editor.weight_hashes() == self.proved.sha256

    def _from_disk(self, version: str) -> dict[str, str]:
        """Hashes of the weights, now those of the version; no tensor is read if they were so already."""
        wanted, found = self._wanted(version), self.editor.weight_hashes()
        if found == wanted and set(self.editor.state.ids) == set(self.journal.questions.fact_ids(version)):
            return found
        state = self.store.load_state(version)
        self._check_facts(version, state.facts)
        self.editor.restore(state)
        found = self.editor.weight_hashes()
        wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
        if wrong:
            raise StoreError(
                f"version {version} was rebuilt with other bits in {wrong[0]}; it was written by another "
                "model or processor: roll back, or restore the checkpoint that it was made for"
            )
        return found

    def _check_facts(self, version: str, facts: Sequence[Fact]) -> None:
        """No hash covers what a manifest says of its facts, but the ledger has it too.

        The order may differ: facts that share a value with a new one are written again beside it.
        """
        rows = self.journal.questions.rows(self.journal.questions.fact_ids(version))
        told = sorted((row.id, row.subject, row.prompt, row.target) for row in rows)
        if sorted((fact.id, fact.subject, fact.prompt, fact.target) for fact in facts) != told:
            raise StoreError(
                f"the manifests that lead to version {version} tell other facts than the ledger; "
                "restore them from a backup, or roll back"
            )

    def _wanted(self, version: str) -> dict[str, str]:
        """Tensor name → sha256 of the weight that the version stands for."""
        if version == BASE_VERSION:
            if self._base_sha256 is None:
                entries = tensor_entries(self.editor)
                self._base_sha256 = {name: entry["base_sha256"] for name, entry in entries.items()}
            return self._base_sha256
        manifest = self.store.manifest(version)
        if manifest["base_hash"] != self.editor.base_hash:
            raise StoreError(
                f"version {version} belongs to a base model {manifest['base_hash'][:12]}…, "
                f"this one is {self.editor.base_hash[:12]}…; set FACTD_MODEL or another FACTD_STATE_DIR"
            )
        return self.store.weight_sha256(version)
