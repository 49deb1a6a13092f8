"""Brings a ledger to the tables of this code. The steps are the scripts in `daemon/ledger/migrations`."""

# Alembic has no public name for the steps from one revision to another; its own command takes them like this.
# pyright: reportPrivateUsage=false

from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, select

from daemon.core.errors import LedgerVersionError

#: the newest script; a test compares the two
NEWEST = "0006"
#: the revision of a ledger that was made before there were migrations
FIRST = "0001"
SCRIPTS = Path(__file__).parent / "migrations"

_revision = Table("alembic_version", MetaData(), Column("version_num", String(32)))


def migrate(engine: Engine) -> None:
    """Makes the tables, or changes them; does nothing to a ledger that is up to date.

    Raises:
        LedgerVersionError: a newer factd has changed the ledger.
    """
    with engine.connect() as c:
        # Every command opens the ledger: this must cost neither the write lock nor the import of Alembic.
        if inspect(c).has_table(_revision.name) and c.scalar(select(_revision.c.version_num)) == NEWEST:
            return
    with engine.connect().execution_options(factd_write=True) as c, c.begin():
        upgrade(c)


def upgrade(c: Connection, to: str = NEWEST) -> None:
    """Runs the missing steps in the transaction of `c`: all or none. A second process finds them done."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext, RevisionStep
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(SCRIPTS), version_locations=[str(SCRIPTS)])

    def missing(heads: str, _: MigrationContext) -> list[RevisionStep]:
        return scripts._upgrade_revs(to, heads)

    context = MigrationContext.configure(c, opts={"fn": missing})
    found = context.get_current_revision()
    if found is None and inspect(c).has_table("corrections"):
        context.stamp(scripts, FIRST)
    elif found not in {None, *(script.revision for script in scripts.walk_revisions())}:
        raise LedgerVersionError(found or "", NEWEST)
    with Operations.context(context):
        context.run_migrations()
