"""The weights that a consolidation trains: float32 masters, Adam, and what their steps keep out of.

    T_l ← P_l(T_l − rate · m̂ / (√v̂ + ε)),   W_l = W₀ + A_l B_lᵀ + T_l

with A_l B_lᵀ the joint solution and T_l = 0 at first. Adam's m and v follow the projected gradient P_l(G). It
divides entry by entry, which leaves the subspace: so T is projected too, and all that is trained lies in it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from editing.memory.delta import materialise
from editing.model.loaded import LoadedModel
from editing.solve.ridge import Factors
from editing.typed import step

#: Δ [d, d_in] → the part of it that may be moved.
Projector = Callable[[Tensor], Tensor]


class Master:
    """One layer's weight.

    Args:
        base: W₀ [d, d_in] float32.
        start: factors of the joint solution; None where it does not write the layer.
        project: P.
        rank: of T = C Dᵀ, or 0 where T is trained whole. Then P is taken of C Dᵀ wherever it is read.
        seed: of D, which begins at random as C begins at zero.
    """

    def __init__(
        self, base: Tensor, start: Factors | None, project: Projector, rank: int = 0, seed: int = 0
    ) -> None:
        d, d_in = base.shape
        self._start = start or (torch.zeros(d, 0), torch.zeros(d_in, 0))
        self.base = base
        self._written = materialise(base, *self._start).to(base.device)
        self._project, self._rank = project, rank
        if rank:
            generator = torch.Generator().manual_seed(seed)
            random = torch.randn(d_in, rank, generator=generator).to(base.device) / d_in**0.5
            self.parts = {"C": torch.zeros(d, rank, device=base.device), "D": random}
        else:
            self.parts = {"T": torch.zeros_like(base)}
        self._adam = torch.optim.Adam(list(self.parts.values()))

    @property
    def trained(self) -> Tensor:
        """T [d, d_in]."""
        if not self._rank:
            return self.parts["T"]
        return self._project(self.parts["C"] @ self.parts["D"].T)

    @property
    def weight(self) -> Tensor:
        """W [d, d_in] float32."""
        return self._written + self.trained

    def step(self, gradient: Tensor, rate: float) -> None:
        """A step against the gradient by W [d, d_in] float32."""
        gradient = self._project(gradient)
        if self._rank:
            c, d = self.parts["C"], self.parts["D"]
            c.grad, d.grad = gradient @ d, gradient.T @ c
        else:
            self.parts["T"].grad = gradient
        self._adam.param_groups[0]["lr"] = rate
        step(self._adam)
        if not self._rank:
            self.parts["T"].copy_(self._project(self.parts["T"]))

    def factors(self) -> Factors:
        """Of the whole update; those it began with where nothing was trained."""
        a, b = (x.cpu() for x in self._start)
        moved = self.trained.cpu()
        if not moved.any():
            return a, b
        identity = torch.eye(len(moved))
        if not a.shape[1]:
            return identity, moved.T.contiguous()
        # Its rank is that of a dense update anyway: the joint solution in columns of its own would add to it.
        return identity, (moved.double() + a.double() @ b.double().T).to(moved.dtype).T.contiguous()

    def saved(self) -> dict[str, Tensor]:
        """Parts, and what Adam knows of each."""
        told = {name: part.cpu() for name, part in self.parts.items()}
        known: dict[int, dict[str, Tensor]] = self._adam.state_dict()["state"]
        for number, of_part in known.items():
            told |= {f"{number}/{name}": x.cpu() for name, x in of_part.items()}
        return told

    def load(self, saved: Mapping[str, Tensor]) -> None:
        known: dict[int, dict[str, Tensor]] = {}
        for path, x in saved.items():
            number, found, name = path.partition("/")
            if found:
                known.setdefault(int(number), {})[name] = x
            else:
                self.parts[path].copy_(x)
        self._adam.load_state_dict({**self._adam.state_dict(), "state": known})


def everything(change: Tensor) -> Tensor:
    """The projector that keeps out of nothing."""
    return change


def put(loaded: LoadedModel, masters: Mapping[int, Master], unedited: bool = False) -> None:
    """Gives the model the trained weights, or those of the base."""
    for layer, master in masters.items():
        loaded.set_weight(layer, master.base if unedited else master.weight)
