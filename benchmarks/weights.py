"""How far edited weights are from the unedited ones."""

from editing.editor import Editor
from monitoring.measuring.spectral import (
    Spectrum,
    frobenius_norm,
    singular_vector_similarity,
    spectrum,
    subspace_similarity,
)


class Weights:
    """The base weights' norms and dominant subspaces, to compare an editor's present ones with."""

    def __init__(self, editor: Editor) -> None:
        self._spectra: dict[str, Spectrum] = {n: spectrum(w) for n, w in editor.base_weights().items()}

    def ratios(self, editor: Editor) -> dict[str, float]:
        norms, similarities, vectors = list[float](), list[float](), list[float]()
        for name, weight in editor.weights().items():
            base = self._spectra[name]
            now = spectrum(weight, len(base.values), start=base)
            norms.append(frobenius_norm(weight) / base.frobenius)
            similarities.append(subspace_similarity(base, now))
            vectors.append(singular_vector_similarity(base, now))
        found = {"weight_norm_ratio_max": max(norms), "subspace_similarity_min": min(similarities)}
        return found | {"singular_vector_similarity_min": min(vectors)}
