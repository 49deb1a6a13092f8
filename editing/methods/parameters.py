"""The numbers that a method is made of, in groups: those of a family of methods together."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from editing.forms import Columns
from editing.values.options import ValueOptions


@dataclass(frozen=True)
class PriorNumbers:
    """What a solver thinks old knowledge is worth.

    Attributes:
        moment_weight: λ, how many text tokens an old association is worth.
        norm_weight: λₙ of ENCORE.
        nullspace_threshold: eigenvalues of C below it span AlphaEdit's null space.
        nullspace_ridge: L2 of AlphaEdit.
    """

    moment_weight: float = 15000.0
    norm_weight: float = 20.0
    nullspace_threshold: float = 2e-2
    nullspace_ridge: float = 10.0


@dataclass(frozen=True)
class BatchNumbers:
    """Of methods that write batch after batch.

    Attributes:
        slack: ε of EMMET for batches of several columns.
        neuron_share: of the keys' magnitude, NSE.
        kept_share: of the update's entries, RECT.
        log_base: α of PRUNE.
        compensated: whether what RECT and PRUNE take from an update is carried on into the next solve.
    """

    slack: float = 0.1
    neuron_share: float = 0.8
    kept_share: float = 0.4
    log_base: float = 1.2
    compensated: bool = False


@dataclass(frozen=True)
class InterferenceNumbers:
    """Of DeltaEdit.

    Attributes:
        deviations: standard deviations of interference that a fact may show before directions are barred.
        barred_share: of the hidden size, directions that are barred at most.
    """

    deviations: float = 1.5
    barred_share: float = 0.25


@dataclass(frozen=True)
class AnchorNumbers:
    """Of Norm-Anchor Scaling.

    Attributes:
        pilots, pilot_contexts: how many pilot edits the anchor is averaged over, and with how many of the
            contexts each is made; NAS's own are 300 (flat from there on) and 1, the bare prompt.
        anchor_factor: anchors that a write vector is scaled to; NAS's own is 1.
    """

    pilots: int = 300
    pilot_contexts: int = 1
    anchor_factor: float = 1.0


@dataclass(frozen=True)
class TuningNumbers:
    """Of ft, lora and locft.

    Attributes:
        tuning_rate, tuning_steps: Adam's; a step of locft is an epoch.
        tuning_rank: of lora.
        tuning_batch: facts of a mini-batch of locft.
        curvature_energy: γ of `protect` "crisp", see `editing.solve.crisp`.
    """

    tuning_rate: float = 5e-4
    tuning_steps: int = 25
    tuning_rank: int = 8
    tuning_batch: int = 100
    curvature_energy: float = 0.9


@dataclass(frozen=True)
class LifelongNumbers:
    """Of UltraEdit and StableEdit.

    Attributes:
        step_rate: η.
        step_ridge: λ.
        warm_up: pilot facts that the statistics begin with.
    """

    step_rate: float = 1e-6
    step_ridge: float = 1.0
    warm_up: int = 0


@dataclass(frozen=True)
class Parameters:
    """Numbers of one method on one model, those of a family of methods together.

    Attributes:
        layers: the layers written, before a placement chooses among them.
        values: how values are optimised.
        protected_share: of the smaller side, singular directions that REVIVE protects. The paper's rule
            is a share of the summed squares, its value unpublished; 5 % of the components hold most of a
            model's ability in its figures.
        columns: of a fact that is asked in several forms, see `editing.forms.Columns`.
        again: how often what a batch does not say once it is written is optimised again, at most; 0 in the
            publications.
    """

    layers: tuple[int, ...]
    values: ValueOptions
    prior: PriorNumbers = PriorNumbers()
    batch: BatchNumbers = BatchNumbers()
    interference: InterferenceNumbers = InterferenceNumbers()
    anchor: AnchorNumbers = AnchorNumbers()
    tuning: TuningNumbers = TuningNumbers()
    lifelong: LifelongNumbers = LifelongNumbers()
    protected_share: float = 0.05
    again: int = 0
    columns: Columns = "each"

    def get(self, name: str) -> Any:
        """The number of that name, in whatever group it is."""
        group = GROUP_OF[name]
        return getattr(getattr(self, group) if group else self, name)

    def changed(self, **numbers: Any) -> "Parameters":
        """The same but for some numbers, by name; each goes to its group."""
        groups: dict[str, Any] = {}
        for name, number in numbers.items():
            group = GROUP_OF[name]
            old = groups.get(group) or (getattr(self, group) if group else self)
            groups[group] = replace(old, **{name: number})
        whole = groups.pop("", self)
        return replace(whole, **groups)

    def described(self) -> str:
        """All numbers as text, for hashes. How the code groups them does not show in it: a version's
        settings hash stays the same as long as the numbers do."""
        later = [name for name, plain in _LATER.items() if self.get(name) != plain]
        numbers = ", ".join(f"{name}={self.get(name)!r}" for name in [*_DESCRIBED, *later])
        return f"Parameters({numbers})"


#: Numbers in the order that settings hashes have had them from the first version on.
_DESCRIBED = (
    *("layers", "values", "moment_weight", "norm_weight", "nullspace_threshold", "nullspace_ridge", "slack"),
    *("neuron_share", "kept_share", "log_base", "deviations", "barred_share", "protected_share", "pilots"),
    *("pilot_contexts", "anchor_factor", "again", "tuning_rate", "tuning_steps", "tuning_rank"),
)

#: Numbers that came later show only where they differ from these.
_LATER: Mapping[str, Any] = {
    **{"columns": "each", "compensated": False, "tuning_batch": 100, "curvature_energy": 0.9},
    **{number.name: number.default for number in fields(LifelongNumbers)},
}

_GROUPS: Mapping[str, Any] = {
    "prior": PriorNumbers,
    "batch": BatchNumbers,
    "interference": InterferenceNumbers,
    "anchor": AnchorNumbers,
    "tuning": TuningNumbers,
    "lifelong": LifelongNumbers,
}

#: Name of a number → the field of `Parameters` that holds it; "" for those of `Parameters` itself.
GROUP_OF: Mapping[str, str] = {
    **{number.name: "" for number in fields(Parameters) if number.name not in _GROUPS},
    **{number.name: group for group, kind in _GROUPS.items() for number in fields(kind)},
}
