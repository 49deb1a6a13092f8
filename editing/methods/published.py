"""The numbers of the methods: published ones for the models that have them, and a rule for all others.

Sources: the authors' configuration files of MEMIT, AlphaEdit, PMET, EMMET, ENCORE, NSE, DeltaEdit, NAS and
ROME, UltraEdit, StableEdit and LocFT-BF. Where two repositories differ, the method's own authors win.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from editing.methods.parameters import Parameters
from editing.model.loaded import LoadedModel
from editing.solve.placement import window
from editing.values.options import ValueOptions

#: Models no wider than this take the constants measured on the bundled one, of width 576.
SMALL = 1024


def _layers(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


#: What a method changes on every model. Names are numbers of `Parameters` or fields of `ValueOptions`.
_METHODS: Mapping[str, Mapping[str, Any]] = {
    "pmet": {"rate": 0.2, "steps": 30, "kl": 1.0},
    # EMMET: λ and ε only matter as their product.
    "emmet": {"moment_weight": 1.0},
    "rome": {"clamp": 4.0},
    "encore": {"extra": 1},
    "evoedit": {"nullspace_ridge": 1.0},
    # Ours, measured (docs/experiments.md). It stops like ENCORE; a bare pilot would stop long before an edit
    # does, and its norm be too small an anchor. Values of the unedited model cannot grow with drift.
    # They are only held below a bound: scaled to one anchor, too few facts were answered word for word. What
    # a batch then does not say is optimised on the model as it has become. In turn values take half the time.
    # A lead over every other answer holds where the model is served (docs/log/lead.md). Facts asked in chat
    # gain by more steps, and by what must follow the target (docs/log/asked.md).
    "memit-seq": {
        "finish": "argmax",
        "extra": 1,
        "lead": 2.0,
        "chat_steps": 10,
        "chat_ends": "stop",
        "unedited": True,
        "turns": 3,
        "pilots": 32,
        "pilot_contexts": 6,
        "anchor_factor": 1.5,
        "again": 3,
    },
    "eac": {"steps": 25},
    # The rate of ft moves the factors too little in as many steps (docs/experiments.md).
    "lora": {"tuning_rate": 2e-3},
    # Warmed up on 2,000 edits in its publication; of pilots there are fewer.
    "stableedit": {"step_ridge": 10.0, "warm_up": 2000},
}

#: Methods that write `down_proj` where an answer begins, which is late in the model: of 32 layers the last
#: four (StableEdit on Mistral).
_LATE = ("ultraedit", "stableedit")

#: (family, hidden size, FFN size) → method, "method:placement", or "" for all → numbers. The published ROME
#: leaves C out for Llama 3 and Qwen2.5, having no estimate of it; here one is always at hand, and is used.
_MODELS: Mapping[tuple[str, int, int], Mapping[str, Mapping[str, Any]]] = {
    # SmolLM2-135M, measured: one dimension in twenty of so few is too little to write a value with.
    ("llama", 576, 1536): {"eac": {"kept": 0.2}},
    # GPT-2 XL
    ("gpt2", 1600, 6400): {
        "": {"layers": _layers(13, 17), "moment_weight": 20000.0, "rate": 0.5, "steps": 20},
        "pmet": {"moment_weight": 10000.0, "rate": 0.5, "steps": 20, "clamp": 2.0, "kl": 0.0625},
        "emmet": {"layers": (17,), "moment_weight": 1000.0},
        "encore": {"norm_weight": 10.0, "extra": 3},
        "nse": {"moment_weight": 10000.0, "neuron_share": 1.0},
        "deltaedit": {"nullspace_ridge": 1.0, "deviations": 3.0},
        "alphaedit:boundary": {"nullspace_ridge": 80.0},
    },
    # GPT-2 large and medium
    ("gpt2", 1280, 5120): {"rome": {"layers": (12,), "rate": 0.5, "steps": 20}},
    ("gpt2", 1024, 4096): {"rome": {"layers": (8,), "clamp": 3.0}},
    # GPT-J-6B
    ("gptj", 4096, 16384): {
        "": {"layers": _layers(3, 8), "rate": 0.5},
        "pmet": {"moment_weight": 6000.0},
        "pmet:boundary": {"moment_weight": 1000.0},
        "alphaedit:boundary": {"nullspace_ridge": 95.0},
        "emmet": {"layers": (5,)},
        "rome": {"layers": (5,), "steps": 20},
    },
    # GPT-NeoX-20B
    ("gpt_neox", 6144, 24576): {
        "": {"layers": _layers(6, 10), "rate": 0.5, "steps": 20},
        "pmet": {"moment_weight": 15000.0, "rate": 0.5, "clamp": 0.8, "kl": 0.8},
        "rome": {"layers": (15,)},
    },
    # Llama-3-8B
    ("llama", 4096, 14336): {
        "": {"layers": _layers(4, 8)},
        "pmet": {"moment_weight": 15000.0, "rate": 0.1, "steps": 25, "kl": 0.0625},
        "encore": {"rate": 0.5},
        "nse": {"neuron_share": 1.0},
        "alphaedit:boundary": {"nullspace_ridge": 1.0},
        "rome": {"layers": (5,), "rate": 0.5, "decay": 1e-3},
        "locft": {"layers": (22,)},
    },
    # Llama-2-7B
    ("llama", 4096, 11008): {
        "": {"layers": _layers(4, 8), "rate": 0.5},
        "encore": {"norm_weight": 10.0, "extra": 2},
        "emmet": {"layers": (5,), "clamp": 4.0, "decay": 1e-3},
    },
    # Llama-3.2-3B
    ("llama", 3072, 8192): {"": {"layers": _layers(4, 8), "rate": 0.5, "clamp": 4.0, "decay": 1e-3}},
    # Mistral-7B
    ("mistral", 4096, 14336): {"": {"layers": _layers(4, 8), "rate": 0.5, "clamp": 4.0, "decay": 1e-3}},
    # Qwen2.5-7B
    ("qwen2", 3584, 18944): {
        "": {"layers": _layers(7, 11)},
        "rome": {"layers": (11,), "rate": 0.5, "decay": 1e-3},
        "locft": {"layers": (6,)},
    },
    # Phi-1.5
    ("phi", 2048, 8192): {"": {"layers": _layers(4, 8)}},
}

#: Of a large model without a row: what the published rows have in common.
_LARGE: Mapping[str, Any] = {"rate": 0.1, "steps": 25}
#: Of small models: measured on the bundled one (docs/experiments.md); 15,000 wrote too little there.
_SMALL: Mapping[str, Any] = {"moment_weight": 1500.0}


def parameters(method: str, loaded: LoadedModel, placement: str = "") -> Parameters:
    """The numbers of `method`, written with a placement, for a model."""
    config = loaded.model.config
    inner = loaded.projection(0).weight.numel() // config.hidden_size
    return numbers(method, config.model_type, config.hidden_size, inner, len(loaded.layers), placement)


def numbers(method: str, family: str, hidden: int, inner: int, depth: int, placement: str = "") -> Parameters:
    """The numbers of `method` for a model of a family, hidden size, FFN size and number of layers.

    In order, the later winning: the rule for the model's size, its row, the method's own numbers, the
    method's in the model's row, those of the method with the placement there.
    """
    row = _MODELS.get((family, hidden, inner), {})
    found: dict[str, Any] = {"layers": window(depth)} | dict(_SMALL if hidden <= SMALL else _LARGE)
    of_model = (row.get(name, {}) for name in (method, f"{method}:{placement}"))
    late = {"layers": _layers(depth - max(1, round(depth / 8)), depth - 1)} if method in _LATE else {}
    for more in (row.get("", {}), _METHODS.get(method, {}), late, *of_model):
        found |= more
    options = {field.name for field in fields(ValueOptions)}
    values = {name: found.pop(name) for name in list(found) if name in options}
    return Parameters(found.pop("layers"), ValueOptions(**values)).changed(**found)
