"""`factd bench`: reproducible measurements; each writes JSON, and plots where there is something to plot."""

from daemon.cli.lazy import Entry, group_of

#: Packages of the extra `bench`: for plots, and for the data sets.
EXTRA = ("matplotlib", "zstandard")

COMMANDS = {
    "speed": Entry(
        "daemon.cli.bench.speed:speed",
        "Time an update beside the published serial procedure; writes OUT/speed.json.",
        EXTRA,
    ),
    "horizon": Entry(
        "daemon.cli.bench.horizon:horizon",
        "Stream facts and score all of them at checkpoints; writes OUT/horizon.json.",
        EXTRA,
    ),
    "asked": Entry(
        "daemon.cli.bench.asked:asked",
        "Ask for written facts in every form, in chat too, by free generation; writes OUT/asked.json.",
        EXTRA,
    ),
    "lifelong": Entry(
        "daemon.cli.bench.lifelong:lifelong",
        "Write methods x streams of facts for a lifetime, to resume at will; writes OUT/lifelong.json.",
        EXTRA,
    ),
    "capacity": Entry(
        "daemon.cli.bench.capacity:capacity",
        "Fill more and fewer key directions with facts; writes OUT/capacity.json with the law.",
        EXTRA,
    ),
    "trust": Entry(
        "daemon.cli.bench.trust:trust",
        "Tell real changes from poison of five kinds by the default rules; writes OUT/trust.json.",
        ("zstandard",),
    ),
    "collapse": Entry(
        "daemon.cli.bench.collapse:collapse",
        "Wear models out with the guard off and on; writes OUT/collapse.json.",
        EXTRA,
    ),
    "measures": Entry(
        "daemon.cli.bench.measures:measures",
        "Time the weight-space measures of one synthetic layer beside its update; writes OUT/measures.json.",
    ),
    "publish": Entry(
        "daemon.cli.bench.publish:publish",
        "Publish to a real vLLM under load; writes OUT/publish.json and OUT/publish-details.json.",
    ),
    "families": Entry(
        "daemon.cli.bench.families:families",
        "Edit, serve, publish and roll back a tiny model of each family; writes OUT/families.json.",
    ),
    "intake": Entry(
        "daemon.cli.bench.intake:intake",
        "Measure how fast the HTTP API takes corrections in; writes OUT/intake.json.",
    ),
    "values": Entry(
        "daemon.cli.bench.values:values",
        "Measure what fanning out values costs and simulate many workers; writes OUT/values.json.",
    ),
}

app = group_of(
    COMMANDS,
    name="bench",
    help="Measure speed, horizon and collapse beside published methods, publications and intake.",
)
