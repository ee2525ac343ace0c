"""A database server that is killed while two processes' worth of stores write."""

import random
import threading
import time
from contextlib import ExitStack, closing

import pytest

from nephoscope.errors import Unavailable
from sinks.sql import SQLStore
from tests.servers import mariadb, postgresql
from tests.sinks.made import by_id, rows, samples


def patiently(work, stop, patience=180.0):
    """As the flow does: again while the store is away, unless told to stop."""
    end = time.monotonic() + patience
    while not stop.is_set():
        try:
            return work()
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.1)
    return None


@pytest.mark.parametrize("of", [postgresql, mariadb], ids=["postgresql", "mariadb"])
def test_a_server_that_is_killed_while_two_write_loses_nothing_and_doubles_nothing(tmp_path, of):
    with of.running(tmp_path) as server, of.database(server.url()) as url, ExitStack() as stack:
        everything = samples()
        stores = [stack.enter_context(closing(SQLStore(url))) for _ in range(2)]
        progress = [0, 0]
        stop = threading.Event()
        stack.callback(stop.set)

        def write(which):
            some = list(everything)
            random.Random(which).shuffle(some)
            for begin in range(0, len(some), 20):
                patiently(lambda b=begin: stores[which].write(rows(*some[b : b + 20])), stop)
                progress[which] = begin

        writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
        for writer in writers:
            writer.start()
        for least in (100, 300):
            while min(progress) < least and all(w.is_alive() for w in writers):
                time.sleep(0.01)
            server.kill()
            server.start()
        for writer in writers:
            writer.join()

        assert by_id(patiently(lambda: list(stores[0].each_sample()), stop)) == by_id(everything)
        assert stores[0].write(rows(*everything)).stored == 0
