"""`factd bench publish`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.files import say, write_json
from benchmarks.service.publish import Plan, bench
from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption, settings_of
from daemon.cli.output import show_json, show_table
from daemon.cli.reporting import reported
from daemon.core.errors import DaemonError
from daemon.core.publication import IN_FLIGHT
from daemon.publish.serving import ServingError
from daemon.supervise.processes import ProcessError
from editing.errors import EditError
from editing.model.loaded import outlined_model


def publish(
    out: OutOption = Path("bench"),
    clients: Annotated[int, typer.Option(min=1, help="Clients that stream answers all the time.")] = 16,
    seconds: Annotated[float, typer.Option(min=1, help="How long versions are published.")] = 300.0,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two publications.")] = 5.0,
    publications: Annotated[int | None, typer.Option(min=1, help="How many, instead of --seconds.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Length of every answer.")] = 64,
    edits: Annotated[int, typer.Option(min=1, help="Facts that a version holds.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the random updates that are published.")] = 0,
    in_flight: Annotated[
        str,
        typer.Option(
            help="What happens to running answers at a flip: carry, keep, wait, abort (FACTD_IN_FLIGHT)."
        ),
    ] = IN_FLIGHT,
    in_flight_seconds: Annotated[
        float, typer.Option(min=0, max=600, help="How long `wait` waits for running answers.")
    ] = 10.0,
    model: ModelOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish to a real vLLM under load; writes OUT/publish.json and OUT/publish-details.json."""
    with reported(as_json):
        # The settings refuse an unknown policy.
        policy = {"in_flight": in_flight, "in_flight_seconds": in_flight_seconds}
        settings = settings_of(model=model, state_dir=state, **policy)
        plan = Plan(
            clients,
            seconds,
            every,
            publications,
            tokens=tokens,
            edits=edits,
            seed=seed,
            in_flight=settings.in_flight,
            in_flight_seconds=in_flight_seconds,
        )
        try:
            outline = outlined_model(settings.model, settings.statistics)
            result, more = bench(outline, plan, out, say)
        except EditError as error:
            raise CommandError(Exit.BAD_INPUT, str(error), "give a Hugging Face directory") from None
        except ProcessError as error:
            raise CommandError(Exit.UNAVAILABLE, str(error), "run `factd doctor`") from None
        except (DaemonError, ServingError) as error:
            mend = f"see {out / 'publish-vllm.log'}"
            raise CommandError(Exit.FAILED, f"a publication failed: {error}", mend) from None
    write_json(out / "publish.json", result)
    write_json(out / "publish-details.json", more)
    if as_json:
        show_json(result)
    else:
        show_table(f"Publish; {out / 'publish.json'}", ("", ""), list(result.items()))
    if result["failed_requests"] and in_flight != "abort":
        raise typer.Exit(int(Exit.FAILED))
