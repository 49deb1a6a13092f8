"""What value optimisation cannot do without on a machine: its matrix products, at the machine's best rate."""

import time
from collections.abc import Iterable, Sequence

import torch

from benchmarks.configuration import Configuration, Model
from editing.facts import Fact
from editing.model.loaded import LoadedModel
from editing.model.tokens import encode

#: Rows of the matrix products whose best rate counts as the machine's: those of a chunk of prompts and more.
RATE_ROWS = (256, 1024, 4096)
#: Seconds that each is tried.
RATE_SECONDS = 0.5


def matrix_rate(loaded: LoadedModel) -> float:
    """Best rate, in flops a second, of products with a weight as large as an FFN's, in the model's dtype."""
    weight = loaded.projection(0).weight
    best = 0.0
    for rows in RATE_ROWS:
        x = torch.randn(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
        done, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < RATE_SECONDS:
            # Reading one number waits for the device.
            float((x @ weight.T)[0, 0])
            done += 1
        best = max(best, 2 * x.numel() * weight.shape[0] * done / passed)
    return best


def floor_flops(
    model: Model, configuration: Configuration, facts: Sequence[Fact], steps: Iterable[int]
) -> float:
    """Flops that value optimisation cannot do without: matrix products at the positions that δ reaches.

    Those from the subject's last token on, in the layers above, and the head where a target's token or the
    essence prompt's answer is predicted. Forward at each evaluation, and once more backward (weights are
    frozen) at each but the last. Attention scores, norms and the prefix, run once, are left out.
    """
    loaded, contexts = model.loaded, model.install.contexts()
    above = range(configuration.layers(loaded)[-1] + 1, len(loaded.layers))
    body = sum(p.numel() for i in above for p in loaded.layers[i].parameters() if p.ndim == 2)
    head = loaded.model.get_output_embeddings().weight.numel()
    total = 0
    for fact, evaluations in zip(facts, steps, strict=True):
        prompts = [encode(loaded.tokenizer, fact, context) for context in contexts]
        positions = 1 + sum(len(p.ids) - 1 - p.subject_last for p in prompts)
        predicted = 1 + sum(len(p.ids) - p.target_start for p in prompts)
        total += 2 * (2 * evaluations - 1) * (positions * body + predicted * head)
    return float(total)
