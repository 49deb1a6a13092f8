"""DeltaEdit's question before a value is optimised: how much do earlier updates disturb this fact already?

The interference of a fact with key k is ‖ΔWk‖. Its running mean and variance over the facts written so far
are computed from the table, where each fact's interference is a column: nothing is remembered elsewhere, so
a state restored goes on as it would have. Source: DeltaEdit (arXiv 2505.07899) and its published code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from editing.facts import Fact
from editing.memory.state import EditState
from editing.methods.parameters import Parameters
from editing.model.capture import capture
from editing.model.loaded import LoadedModel
from editing.solve.ridge import Factors
from editing.typed import entries, norms, qr, svd
from editing.values.descent import Barred

#: Weight of the past in the running mean and variance.
MEMORY = 0.9
#: Facts before which the variance says nothing.
WARM_UP = 20


def bars(
    loaded: LoadedModel, state: EditState, facts: Sequence[Fact], layer: int, p: Parameters
) -> tuple[Barred | None, dict[str, Tensor]]:
    """What the δ of new facts must avoid at the output of `layer`, and their interference as a column."""
    bare = [loaded.encode(fact) for fact in facts]
    keys = capture(loaded, bare, [layer]).keys[layer].cpu()
    update, name = state.factors.get(loaded.tensor_name(layer)), f"interference/{layer}"
    now = interference(update, keys)
    recorded = state.columns.get(name, now[:, :0])
    # Of each fact its first column: the bare prompt's. A second round finds this batch's facts in the state
    # already, without a column of its own layer.
    earlier = recorded[:, (state.forms[: recorded.shape[1]] & 1).bool()]
    flagged = deviating(torch.cat([earlier, now], dim=1)[0], earlier.shape[1], p.interference.deviations)
    flagged = flagged.to(loaded.device)
    return barred(update, flagged, p.interference.barred_share), {name: now}


def interference(update: Factors | None, keys: Tensor) -> Tensor:
    """‖A Bᵀk‖ of each key [1, n]; 0 before the first update."""
    if update is None:
        return torch.zeros(1, keys.shape[1])
    a, b = (factor.double() for factor in update)
    return norms(a @ (b.T @ keys.double()), 0, keepdim=True).float()


def deviating(disturbed: Tensor, earlier: int, deviations: float) -> Tensor:
    """Which of the facts after the first `earlier` deviate by more than that many standard deviations [n].

    One that deviates does not enter the running mean and variance.
    """
    flagged: list[bool] = []
    # Interference with nothing says nothing: the mean starts at the first that is not zero.
    mean = variance = 0.0
    for i, norm in enumerate(entries(disturbed)):
        out = i >= WARM_UP and variance > 0 and abs(norm - mean) > deviations * variance**0.5
        flagged.append(out)
        if not out and norm > 0:
            mean = norm if mean == 0 else MEMORY * mean + (1 - MEMORY) * norm
            variance = MEMORY * variance + (1 - MEMORY) * (norm - mean) ** 2
    return torch.tensor(flagged[earlier:], dtype=torch.bool)


def barred(update: Factors | None, flagged: Tensor, share: float) -> Barred | None:
    """The leading output directions of the update, at most `share` · d of them, for the facts flagged."""
    if update is None or not flagged.any():
        return None
    a, b = (factor.double() for factor in update)
    q, r = qr(a)
    left, values, _ = svd(q @ (r @ qr(b)[1].T))
    count = max(1, min(int(share * len(a)), int((values > 1e-6 * values[0]).sum())))
    return Barred(left[:, :count].float().to(flagged.device), flagged)
