"""The editing methods by name, each in the file of its family.

joint       all live facts in one solve from the base weights: memit-seq, encore, alphaedit, deltaedit
chain       batch after batch, each a small solve: memit, pmet, emmet, rome, nse, eac; and with the
            written update regularised: rect, prune
evoedit     batch after batch, in a null space that shrinks with each
ultraedit   a gradient step a batch, normalised by all that was seen: ultraedit, stableedit
tuning      gradient descent on the weights themselves: ft, lora
locft       the same in epochs over all live facts, from the base weights
"""

from dataclasses import replace

from editing.errors import OptionError
from editing.methods.chain import METHODS as BATCH_METHODS
from editing.methods.evoedit import METHODS as EVOLVING_METHODS
from editing.methods.joint import METHODS as JOINT_METHODS
from editing.methods.locft import METHODS as WHOLE_METHODS
from editing.methods.method import Method, Solver
from editing.methods.parameters import Parameters
from editing.methods.published import parameters
from editing.methods.tuning import METHODS as TUNING_METHODS
from editing.methods.ultraedit import METHODS as LIFELONG_METHODS
from editing.model.loaded import LoadedModel

__all__ = ["METHODS", "Method", "Solver", "named", "numbers_of"]

METHODS: dict[str, Method] = (
    JOINT_METHODS | BATCH_METHODS | EVOLVING_METHODS | LIFELONG_METHODS | TUNING_METHODS | WHOLE_METHODS
)


def named(name: str) -> Method:
    """Raises OptionError when there is no method of that name."""
    if name not in METHODS:
        raise OptionError(f"method = {name!r}: known are {', '.join(METHODS)}")
    return METHODS[name]


def numbers_of(name: str, loaded: LoadedModel, numbers: Parameters | None = None) -> Parameters:
    """Published or measured numbers of a method for a model, or those given; its variant is kept.

    Raises:
        OptionError: errors are to be carried on, and the method makes none.
    """
    numbers = numbers or parameters(name, loaded)
    if numbers.batch.compensated and not named(name).projects:
        able = ", ".join(method for method, made in METHODS.items() if made.projects)
        raise OptionError(
            f"compensated = True does not combine with method = {name!r}, "
            f"which projects no update; use {able}"
        )
    return replace(numbers, values=replace(numbers.values, **named(name).variant))
