"""The command line `factd`: where each command is."""

import io
import sys

from daemon.cli.exits import Exit
from daemon.cli.lazy import Entry, group_of
from daemon.cli.output import tell
from daemon.core.errors import DaemonError, SettingsError
from daemon.supervise.processes import ProcessError

#: In the order of the help. `help` is the first sentence of the command's own help.
COMMANDS = {
    "demo": Entry(
        "daemon.cli.demo.command:demo",
        "Show the main job end to end on embedded services; exit 0 only if every step was observed.",
    ),
    "up": Entry("daemon.cli.run.up:up", "Run all services in the foreground until Ctrl-C."),
    "init": Entry("daemon.cli.run.init:init", "Prepare a model: hashes, second moments, anchor."),
    "worker": Entry("daemon.cli.run.worker:worker", "Run one Celery worker in the foreground."),
    "serve": Entry("daemon.cli.run.serve:serve", "Run vLLM with the factd plugin in the foreground."),
    "api": Entry("daemon.cli.run.api:api", "Run the HTTP API with /metrics and the status page."),
    "doctor": Entry("daemon.cli.run.doctor:doctor", "Check the environment and say what to mend."),
    "post": Entry("daemon.cli.act.post:post", "Post corrections through the queue and print their ids."),
    "say": Entry(
        "daemon.cli.act.say:say",
        "Read plain sentences into corrections, show what was understood, and post what is confirmed.",
    ),
    "import": Entry(
        "daemon.cli.act.imports:import_file",
        "Import a file of corrections into the ledger; the same file twice is one import.",
    ),
    "follow": Entry(
        "daemon.cli.act.follow:follow",
        "Follow a stream of server-sent events into the ledger until Ctrl-C.",
    ),
    "relations": Entry(
        "daemon.cli.ask.relations:app",
        "List the relations that sentences are read by, or check a file of them.",
    ),
    "status": Entry("daemon.cli.ask.status:status", "Show what happened: to one correction, or as a whole."),
    "facts": Entry("daemon.cli.ask.facts:facts", "List the facts that are live."),
    "corrections": Entry(
        "daemon.cli.ask.corrections:corrections", "List corrections: what waits, was refused, is live."
    ),
    "review": Entry(
        "daemon.cli.act.review:app",
        "List, show, approve or reject corrections that are held for review.",
    ),
    "versions": Entry("daemon.cli.ask.versions:versions", "List the versions, oldest first."),
    "retract": Entry("daemon.cli.act.operations:retract", "Take one fact out of the model; the others stay."),
    "rollback": Entry("daemon.cli.act.operations:rollback", "Serve an older version again, bit for bit."),
    "compact": Entry(
        "daemon.cli.act.operations:compact",
        "Write all live facts anew from the base model; judged like any version.",
    ),
    "consolidate": Entry(
        "daemon.cli.act.operations:consolidate",
        "Train all live facts on from their joint solution, in the background; judged like any version.",
    ),
    "pause": Entry("daemon.cli.act.operations:pause", "Stop applying corrections; they stay queued."),
    "resume": Entry(
        "daemon.cli.act.operations:resume",
        "Apply corrections again; what the guard has paused goes on too.",
    ),
    "blame": Entry(
        "daemon.cli.ask.blame:blame",
        "Find the corrections behind a version, or the corrections and versions behind a text.",
    ),
    "tail": Entry(
        "daemon.cli.ask.tail:tail",
        "Follow what happens to corrections, versions and operations until Ctrl-C; "
        "--json: one object a line.",
    ),
    "plot": Entry(
        "daemon.cli.ask.plot:plot",
        "Draw how the measures of the served versions went, with limits, versions and rollbacks.",
        ("matplotlib",),
    ),
    "audit": Entry(
        "daemon.cli.ask.audit:audit",
        "Verify the chain of all changes of state and the signatures of versions; exit code 1 when broken.",
    ),
    "diff": Entry(
        "daemon.cli.ask.diff:diff", "Compare two versions: corrections, weights per layer, measurements."
    ),
    "export": Entry("daemon.cli.act.export:export", "Write a version as a merged Hugging Face checkpoint."),
    "dead": Entry(
        "daemon.cli.act.dead:app",
        "List, retry or drop corrections that were given up after too many attempts.",
    ),
    "bench": Entry(
        "daemon.cli.bench.group:app",
        "Measure speed, horizon and collapse beside published methods, publications and intake.",
    ),
}

app = group_of(
    COMMANDS, name="factd", help="Keeps the facts of a served language model current.", add_completion=True
)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # PYTHONIOENCODING=latin-1, or LANG=C: a name in another script is no reason to show nothing.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SettingsError as error:
        tell(f"error: {error}\n  next: docs/settings.md says what each takes")
        sys.exit(int(Exit.BAD_INPUT))
    except (DaemonError, ProcessError) as error:
        tell(f"error: {error}\n  next: run `factd doctor`")
        sys.exit(int(Exit.FAILED))


if __name__ == "__main__":
    main()
