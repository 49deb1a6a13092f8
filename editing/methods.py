"""The closed-form methods by name: each is the joint solve of `editing.solve` with its own prior."""

from collections.abc import Callable

from torch import Tensor

from editing.errors import OptionError
from editing.solve import NullspacePrior, Prior, RidgePrior

#: λ of MEMIT for the bundled model's size; the published 15,000 is for models of billions, and here
#: writes too little (docs/experiments.md).
MOMENT_WEIGHT = 1500.0
#: AlphaEdit's null-space threshold and ridge, as published.
NULLSPACE_THRESHOLD = 2e-2
NULLSPACE_RIDGE = 10.0

METHODS: dict[str, Callable[[Tensor], Prior]] = {
    # MEMIT with a key cache: M₀ = λC, earlier keys are in the joint solve (arXiv 2210.07229 eq. 14).
    "memit-seq": lambda moment: RidgePrior(moment, MOMENT_WEIGHT),
    # AlphaEdit: M₀⁻¹ = P / L2 (arXiv 2410.02355 eq. 14).
    "alphaedit": lambda moment: NullspacePrior(moment, NULLSPACE_THRESHOLD, NULLSPACE_RIDGE),
}


def prior(method: str, moment: Tensor) -> Prior:
    """The prior of `method` for a layer with second moment `moment`.

    Raises:
        OptionError: unknown method.
    """
    if method not in METHODS:
        raise OptionError(f"method = {method!r}: known are {', '.join(METHODS)}")
    return METHODS[method](moment)
