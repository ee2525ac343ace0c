"""Threads that call pollsters: at once, with time-outs, and nobody is delayed by a hung one."""

import threading
import time
from concurrent.futures import Future

import pytest

from nephoscope import times
from sources.pollster import Answer
from sources.workers import InlineWorkers, Job, Workers


@pytest.fixture
def workers():
    made = []

    def make(*given, **more):
        made.append(Workers(*given, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def wait_for(workers, count, seconds=5.0):
    got = []
    deadline = time.monotonic() + seconds
    while len(got) < count and time.monotonic() < deadline:
        got += workers.outcomes()
        time.sleep(0.002)
    return got


def job(call, timeout=10.0, **more):
    return Job("subject", call, timeout, **more)


@pytest.mark.parametrize("kind", [lambda: Workers(3), InlineWorkers])
def test_calls_are_made_and_their_items_come_back(kind):
    pool = kind()
    jobs = [job(lambda i=i: iter([i, i + 1])) for i in range(50)]
    for each in jobs:
        pool.submit(each)

    got = wait_for(pool, 50)
    assert {o.state for o in got} == {"done"}
    assert sorted(o.items[0] for o in got) == list(range(50))
    assert all(o.began <= o.ended for o in got)
    assert pool.busy == 0
    pool.close()


@pytest.mark.parametrize("kind", [lambda: Workers(1), InlineWorkers])
def test_what_came_before_an_error_is_kept(kind):
    def half():
        yield 1
        raise SystemExit("no more")

    pool = kind()
    pool.submit(job(half))
    pool.submit(job(lambda: [2]))
    first, second = wait_for(pool, 2)

    assert (first.items, type(first.error)) == ([1], SystemExit)
    assert (second.items, second.error) == ([2], None)
    pool.close()


def test_calls_run_at_once_but_no_more_than_asked_for(workers):
    barrier = threading.Barrier(4, timeout=5)
    running, most, lock = [0], [0], threading.Lock()

    def call():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        barrier.wait()
        with lock:
            running[0] -= 1
        return []

    pool = workers(4)
    for _ in range(12):
        pool.submit(job(call))

    assert [o.error for o in wait_for(pool, 12)] == [None] * 12
    assert most[0] == 4


def test_hung_calls_are_left_behind_and_the_others_go_on(workers):
    release = threading.Event()
    pool = workers(2)
    for _ in range(2):
        pool.submit(job(lambda: [release.wait(10)], timeout=0.05))
    for i in range(10):
        pool.submit(job(lambda i=i: [i]))

    got = wait_for(pool, 12)
    assert sorted(o.state for o in got) == ["done"] * 10 + ["timeout"] * 2
    assert (pool.hung, pool.busy) == (2, 0)

    release.set()
    returned = wait_for(pool, 2)
    assert [(o.state, o.items) for o in returned] == [("returned", [True])] * 2
    assert pool.hung == 0


def test_only_so_many_are_left_behind(workers):
    first, second = threading.Event(), threading.Event()
    pool = workers(1, spare=1)
    for release in (first, second):
        pool.submit(job(lambda release=release: [release.wait(30)], timeout=0.02))
    pool.submit(job(lambda: ["late"], timeout=30))

    assert [o.state for o in wait_for(pool, 1)] == ["timeout"]
    assert wait_for(pool, 1, 0.2) == []

    # The second one first: it is overdue, but nobody takes its place.
    second.set()
    assert [o.state for o in wait_for(pool, 2)] == ["done", "done"]
    first.set()
    assert [o.state for o in wait_for(pool, 1)] == ["returned"]


@pytest.mark.parametrize("kind", [lambda: Workers(1), InlineWorkers])
def test_a_job_that_is_of_no_use_any_more_is_not_done(kind):
    pool = kind()
    pool.submit(job(lambda: pytest.fail("called"), expires=times.now() - 1))

    (outcome,) = wait_for(pool, 1)
    assert (outcome.state, outcome.items) == ("expired", [])
    pool.close()


def test_it_wakes_up_whoever_waits(workers):
    woken = threading.Event()
    workers(1, wake=woken.set).submit(job(list))

    assert woken.wait(5)


def test_threads_end_after_closing(workers):
    pool = workers(3)
    for _ in range(3):
        pool.submit(job(list))
    wait_for(pool, 3)
    threads = list(pool._threads)
    pool.close()

    for thread in threads:
        thread.join(5)
    assert not any(t.is_alive() for t in threads)


def test_an_answer_that_is_waited_for_takes_no_thread(workers):
    futures = [Future() for _ in range(20)]
    pool = workers(1)
    pool.submit(*(job(lambda f=f: Answer(f)) for f in futures), job(lambda: ["last"]))

    (first,) = wait_for(pool, 1)
    assert first.items == ["last"]
    assert (pool.busy, pool.hung) == (20, 0)

    for number, future in enumerate(futures):
        future.set_result(iter([number]))
    got = wait_for(pool, 20)
    assert sorted(o.items[0] for o in got) == list(range(20))
    assert {(o.state, o.error) for o in got} == {("done", None)}
    assert pool.busy == 0


@pytest.mark.parametrize("kind", [lambda: Workers(1), InlineWorkers])
def test_an_answer_may_fail_at_once_or_after_some_readings(kind):
    def half():
        yield 1
        raise ConnectionError("away")

    one, two = Future(), Future()
    one.set_result(half())
    two.set_exception(TimeoutError("no answer"))
    pool = kind()
    pool.submit(job(lambda: Answer(one)))
    first = wait_for(pool, 1)
    pool.submit(job(lambda: Answer(two)))
    second = wait_for(pool, 1)

    assert [(o.state, o.items, type(o.error)) for o in first + second] == [
        ("done", [1], ConnectionError),
        ("done", [], TimeoutError),
    ]
    pool.close()


def test_an_answer_that_takes_too_long_is_cancelled_and_said_to_be_back(workers):
    future = Future()
    pool = workers(1)
    pool.submit(job(lambda: Answer(future), timeout=0.05))

    got = wait_for(pool, 2)
    assert [o.state for o in got] == ["timeout", "returned"]
    assert future.cancelled()
    assert (pool.busy, pool.hung) == (0, 0)


def test_closing_cancels_the_answers_that_are_waited_for():
    future = Future()
    pool = Workers(1)
    pool.submit(job(lambda: Answer(future)))
    deadline = time.monotonic() + 5
    while not pool._waiting and time.monotonic() < deadline:
        time.sleep(0.005)
    pool.close()

    assert future.cancelled()
