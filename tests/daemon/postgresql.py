"""A PostgreSQL server of our own in a temporary directory, run by a user that is not root."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tests.programs import program

#: Debian's package makes this user; the server refuses to run as root
SERVER_USER = "postgres"


@contextmanager
def server():
    """Gives a function that empties the one database and returns its URL."""
    user = SERVER_USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    initdb, postgres = program("initdb", "postgresql"), program("postgres", "postgresql")
    # Not under pytest's folder, which other users may not enter; a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="factd-pg-"))
    process = None
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user)
        data = folder / "data"
        # C.UTF-8 and no fsync: the server is thrown away, and nothing here depends on a collation.
        options = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", f"--username={SERVER_USER}"]
        as_user = {"user": user} if os.geteuid() == 0 else {}
        done = subprocess.run(
            [initdb, *options, str(data)], cwd=folder, capture_output=True, text=True, check=False, **as_user
        )
        assert done.returncode == 0, done.stderr
        command = [postgres, "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-F"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
        yield _emptying(folder, process)
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # a fast shutdown: open connections are cut
            process.wait(30)
        shutil.rmtree(folder)


def _emptying(folder, process):
    import psycopg

    def connect():
        return psycopg.connect(f"host={folder} user={SERVER_USER} dbname=postgres", autocommit=True)

    for _ in range(300):
        assert process.poll() is None, (folder / "log").read_text()
        try:
            connect().close()
            break
        except psycopg.OperationalError:
            time.sleep(0.1)

    def empty() -> str:
        # Emptied, not made anew: a database is some 300 files.
        with connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return f"postgresql://{SERVER_USER}@/postgres?host={folder}"

    return empty
