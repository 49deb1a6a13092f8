"""One applier at a time; fences only grow."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.core.errors import LeaseHeldError, LeaseLostError
from daemon.ledger.lease import Lease
from daemon.ledger.tables import lease as table


@pytest.fixture
def database_url(either_database):
    return either_database


def test_a_second_holder_is_refused_and_fences_grow(world):
    with Lease(world.ledger.database, 30, holder="one") as first:
        with (
            pytest.raises(LeaseHeldError, match="one is applying"),
            Lease(world.ledger.database, 30, holder="two"),
        ):
            pass
    with Lease(world.ledger.database, 30, holder="two") as second:
        assert second.fence == first.fence + 1


def test_an_expired_lease_is_taken_and_the_old_holder_finds_out(world):
    old = Lease(world.ledger.database, 30, holder="old")
    with old:
        world.now += 31
        with Lease(world.ledger.database, 30, holder="new"), pytest.raises(LeaseLostError):
            old.renew()


def test_a_dead_process_on_this_host_need_not_be_waited_for(world):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with Lease(world.ledger.database, 30, holder="dead"), world.ledger.database.writing() as c:
        c.execute(table.update().values(pid=child.pid))
        assert child.pid != os.getpid()
    with world.ledger.database.writing() as c:
        c.execute(table.update().values(expires_at=world.now + 30))
    with Lease(world.ledger.database, 30, holder="next") as taken:
        assert taken.fence == 2


def test_a_lease_from_before_the_clock_was_set_back_is_not_waited_for(world):
    world.now = 10**6
    gone = Lease(world.ledger.database, 30, holder="gone", host="elsewhere")
    gone._acquire()
    world.now -= 40  # some other clock is a little ahead
    with pytest.raises(LeaseHeldError), Lease(world.ledger.database, 30, holder="next"):
        pass
    world.now -= 86400
    with Lease(world.ledger.database, 30, holder="next") as taken:
        assert taken.fence == 2


def test_of_many_that_want_it_at_once_one_gets_it(world):
    leases = [Lease(world.ledger.database, 30, holder=str(n)) for n in range(4)]

    def enter(lease):
        try:
            return lease.__enter__().fence
        except LeaseHeldError:
            return None

    with ThreadPoolExecutor(4) as pool:
        fences = list(pool.map(enter, leases))
    assert sorted(fences, key=str) == [1, None, None, None]
    leases[fences.index(1)].__exit__(None, None, None)
