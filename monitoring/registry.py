"""The registry of measures: one row for each watched number.

Thresholds, verdicts, metrics and their page, dashboards, forecasts, the status page and the benchmarks
derive from it. `monitoring.measurements.Measurements` has a field of the same name for each row (a test
compares). No torch here.
"""

from monitoring.measure import Bounds, Measure

_UNDO = "roll back to an older version or compact"
_SPLIT = "post the corrections one by one and leave out the one that does it"

#: Watched measures stand first, in the order in which a verdict names them. Their bounds are what the
#: product promises (perplexity within a fifth, retention within ten points). For the weights they are levels
#: well before the published signatures of collapse: norms beyond 10 times the base's, LS near chance.
MEASURES: tuple[Measure, ...] = (
    Measure(
        "weight_norm_ratio",
        "layer",
        "Frobenius norm of the edited weight over the base's.",
        "Weight norm over the base's",
        # Healthy edited weights stay within a few per cent; 1.5 is far before answers fall apart.
        bounds=Bounds(1.2, 1.5),
        required=True,
        mend=_UNDO,
        wear=True,
        wide=True,
        alert="FactdWeightNormHigh",
    ),
    Measure(
        "spectral_norm_ratio",
        "layer",
        "Largest singular value over the base's.",
        # One direction may grow faster than the whole. When plain MEMIT wore a model out, this measure
        # warned first, after 20 of 400 edits; 500 good edits bring it to 1.06 (docs/log/streams.md).
        bounds=Bounds(1.25, 1.5),
        required=True,
        mend=_UNDO,
        wear=True,
        wide=True,
        alert="FactdSpectralNormHigh",
    ),
    Measure(
        "subspace_similarity",
        "layer",
        "LS: overlap of the dominant subspaces with the base's.",
        "Overlap of dominant subspaces (LS)",
        high_is_bad=False,
        # 500 good edits of a small model bring LS down to 0.5 with answers and perplexity within their
        # limits (docs/log/guard.md). So it only stops what the other measures have missed.
        bounds=Bounds(0.6, 0.4),
        required=True,
        mend=_UNDO,
        wear=True,
        alert="FactdSubspaceTurned",
    ),
    Measure(
        "probe_kl_nats",
        "scalar",
        "Mean KL divergence from the base of the next token after unrelated prompts (probes).",
        "Unrelated answers: KL from the base, nats",
        healthy=0.0,
        # 0.16 after 500 good edits; 0.19 where perplexity was 1.4 times the base's, 0.65 where it was
        # 1.5 times (docs/log/guard.md).
        bounds=Bounds(0.2, 0.3),
        required=True,
        mend=_SPLIT,
        wear=True,
        unit="nats",
        wide=True,
        alert="FactdProbesMoved",
    ),
    Measure(
        "probe_perplexity_ratio",
        "scalar",
        "Perplexity of held text over the base's.",
        # A fifth more perplexity on unrelated text is what users notice.
        bounds=Bounds(1.1, 1.2),
        required=True,
        mend=_SPLIT,
        wear=True,
        wide=True,
        alert="FactdPerplexityHigh",
    ),
    Measure(
        "value_norm_ratio",
        "scalar",
        "Largest value norm of the last batch over the anchor.",
        "Value norm over the anchor",
        # NAS skips values beyond twice the anchor. A value twice as long again means that no anchor is
        # in force.
        bounds=Bounds(2.0, 4.0),
        mend="reword the correction, or open the editor with an anchor",
        of_batch=True,
    ),
    Measure(
        "retention_ratio",
        "share",
        "Share of sampled earlier corrections still answered.",
        "Retention",
        high_is_bad=False,
        # Of the usual 32 sampled facts, 0.9 allows three that no longer answer.
        bounds=Bounds(0.95, 0.9),
        mend="retract corrections that collide, or compact",
        wear=True,
        unit="share",
        alert="FactdForgetting",
    ),
    Measure(
        "neighbourhood_ratio",
        "share",
        "Share of known neighbours still answered.",
        "Neighbourhood of the last batch",
        high_is_bad=False,
        # A correction has few neighbours, so that one lost neighbour already counts much.
        bounds=Bounds(0.9, 0.5),
        mend=_SPLIT,
        of_batch=True,
        unit="share",
    ),
    Measure(
        "paraphrase_ratio",
        "share",
        "Share of paraphrases answered with the target.",
        "Paraphrases of the last batch",
        high_is_bad=False,
        # Editing does not promise paraphrases. They warn; the limit 0 never stops a version.
        bounds=Bounds(0.5, 0.0),
        mend="post the paraphrase as a correction of its own",
        of_batch=True,
        unit="share",
    ),
    # The next four warn only, until recorded streams say at what level models fall apart.
    Measure(
        "retention_oldest_ratio",
        "share",
        "Share of the oldest corrections still answered.",
        "Retention of the oldest",
        high_is_bad=False,
        # A quarter of a small sample of the oldest facts.
        bounds=Bounds(0.75, 0.0),
        mend="compact",
        unit="share",
    ),
    Measure(
        "retention_chat_ratio",
        "share",
        "Share of sampled earlier corrections still answered in chat, of those that once were.",
        "Retention in chat",
        high_is_bad=False,
        bounds=Bounds(0.8, 0.0),
        mend="compact",
        unit="share",
    ),
    Measure(
        "activation_norm_ratio",
        "layer",
        "Mean norm of hidden states over the base's.",
        "Norm of hidden states over the base's",
        high_is_bad=False,
        # Published: activation norms fall before collapse, and their subspace moves.
        bounds=Bounds(0.9, 0.0),
        mend=_UNDO,
    ),
    Measure(
        "activation_subspace_similarity",
        "layer",
        "Overlap of the main directions of hidden states.",
        high_is_bad=False,
        bounds=Bounds(0.8, 0.0),
        mend=_UNDO,
    ),
    Measure(
        "canary_ratio",
        "scalar",
        "Part of unrelated free answers kept; a deep measure, NaN while none was taken.",
        "Unrelated free answers kept (deep)",
        high_is_bad=False,
        # A free answer may depart from the base's after some words and be as good.
        bounds=Bounds(0.5, 0.0),
        mend=_UNDO,
        deep=True,
        unit="share",
    ),
    # No bounds: each correction of the batch must answer (monitoring.verdict).
    Measure(
        "efficacy_ratio",
        "share",
        "Share of the last batch that the model answers.",
        "Efficacy of the last batch",
        high_is_bad=False,
        of_batch=True,
        unit="share",
    ),
    # Which forms must be said is a setting; a correction that lacks one of these does not answer.
    Measure(
        "chat_efficacy_ratio",
        "share",
        "Share of chat messages and questions about the last batch that the model answers.",
        "Efficacy of the last batch in chat",
        high_is_bad=False,
        of_batch=True,
        unit="share",
    ),
    # Shown, and never judged.
    Measure("stable_rank_ratio", "layer", "Stable rank over the base's.", high_is_bad=False),
    Measure(
        "singular_vector_similarity",
        "layer",
        "SS: mean overlap of single singular vectors.",
        "Overlap of single singular vectors (SS)",
        high_is_bad=False,
    ),
    Measure(
        "gap_aware_similarity",
        "layer",
        "SS, with swaps among near-equal values allowed.",
        "SS with swaps allowed",
        high_is_bad=False,
    ),
    Measure(
        "entropy_rank_ratio",
        "layer",
        "Entropy rank over the base's; a deep measure, NaN while none was taken.",
        "Entropy rank over the base's (deep)",
        high_is_bad=False,
        deep=True,
    ),
    Measure(
        "drift",
        "layer",
        "Frobenius norm of the change over the base's norm.",
        "Drift from the base",
        healthy=0.0,
        wide=True,
    ),
    Measure(
        "contact_ratio",
        "layer",
        "Share of the change in the base's dominant subspace.",
        "Change within the dominant subspace",
        healthy=0.0,
        unit="share",
    ),
    Measure(
        "key_drift_ratio",
        "layer",
        "Change of the outputs for held keys, squared norms.",
        "Change of outputs on ordinary text",
        healthy=0.0,
        wide=True,
    ),
    Measure(
        "corpus_energy_ratio",
        "layer",
        "tr(WCWᵀ) over the base's, C of held keys.",
        "Energy on ordinary text over the base's",
        wide=True,
    ),
    Measure(
        "key_error_ratio",
        "layer",
        "Mean distance of Wk from v over live facts, over ‖v‖.",
        "Distance of live facts from their values",
        healthy=0.0,
        wide=True,
    ),
    Measure(
        "layer_share",
        "layer",
        "What the layer's MLP adds, as a share of what all add.",
        "Share of each layer's MLP",
        healthy=0.0,
        unit="share",
    ),
    Measure(
        "retention_random_ratio",
        "share",
        "Share of earlier corrections, drawn by hash, still answered.",
        "Retention of some by hash",
        high_is_bad=False,
        unit="share",
    ),
    Measure(
        "retention_newest_ratio",
        "share",
        "Share of the newest corrections still answered.",
        "Retention of the newest",
        high_is_bad=False,
        unit="share",
    ),
)

#: Names of measures with one value a layer, and of those with one value a version.
LAYER_MEASURES: tuple[str, ...] = tuple(m.name for m in MEASURES if m.kind == "layer")
SCALAR_MEASURES: tuple[str, ...] = tuple(m.name for m in MEASURES if m.kind != "layer")

#: Measures that warn and, where their limit is not 0, stop a version; with the bounds of each by name.
WATCHED: tuple[Measure, ...] = tuple(m for m in MEASURES if m.bounds is not None)
FLOORS: dict[str, Bounds] = {m.name: m.bounds for m in MEASURES if m.bounds is not None}

#: Names that a verdict gives a state to, which are the values of the metric label `guard`.
JUDGED: tuple[str, ...] = (*(m.name for m in WATCHED), "efficacy_ratio")

#: Measures of the model as a whole: past a warning the model is worn, whoever edited last.
WEAR: tuple[str, ...] = tuple(m.name for m in MEASURES if m.wear)

#: What a measurement says of the version's own corrections; a later measurement of the version keeps it.
OF_THE_BATCH: tuple[str, ...] = (*(m.name for m in MEASURES if m.of_batch), "cases")

_BY_NAME = {m.name: m for m in MEASURES}


def measure_named(name: str) -> Measure:
    """The measure of that name; KeyError when there is none."""
    return _BY_NAME[name]
