"""The queue of long work: order, progress, every way in which a job ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from lrp_hooks.errors import InputError
from lrp_hooks.explorer import jobs as module
from lrp_hooks.explorer.jobs import Job, Jobs


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


def ended(job: Job) -> Job:
    for _ in range(1000):
        if job.state in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.005)
    raise AssertionError(f"still {job.state}")


def test_jobs_run_one_after_the_other_in_their_order(jobs: Jobs) -> None:
    gate, order = threading.Event(), []

    def work(name: str) -> str:
        gate.wait(5)
        order.append((name, threading.get_ident()))
        return name

    made = [jobs.submit(name, lambda _, name=name: work(name)) for name in "abc"]
    assert [job.number for job in jobs.unfinished()] == [1, 2, 3]
    assert made[2].state == "waiting"
    gate.set()
    assert [ended(job).result for job in made] == ["a", "b", "c"]
    assert [name for name, _ in order] == ["a", "b", "c"]
    assert len({thread for _, thread in order}) == 1
    assert threading.get_ident() != order[0][1]
    assert jobs.unfinished() == []


def test_a_job_says_how_far_it_is(jobs: Jobs) -> None:
    seen, go = threading.Event(), threading.Event()

    def work(job: Job) -> None:
        told = job.begin("counting")
        told(3, 7)
        seen.set()
        go.wait(5)
        job.begin("adding")

    job = jobs.submit("sums", work)
    assert seen.wait(5)
    facts = job.facts()
    assert (facts["state"], facts["step"], facts["done"], facts["total"]) == ("running", "counting", 3, 7)
    go.set()
    facts = ended(job).facts()
    assert (facts["state"], facts["step"], facts["done"], facts["total"]) == ("done", "adding", 0, 0)
    assert facts["seconds"] == job.facts()["seconds"]  # its clock stands still


@pytest.mark.parametrize("place", ["told", "begin"])
def test_a_running_job_stops_at_its_next_step(jobs: Jobs, place: str) -> None:
    running = threading.Event()

    def work(job: Job) -> None:
        told = job.begin("on and on")
        while True:
            running.set()
            told(1, 2) if place == "told" else job.begin("again")
            time.sleep(0.002)

    job = jobs.submit("endless", work)
    assert running.wait(5)
    jobs.cancel(job.number)
    assert ended(job).state == "cancelled"
    assert ended(jobs.submit("next", lambda _: 5)).result == 5


def test_a_waiting_job_that_is_cancelled_never_starts(jobs: Jobs) -> None:
    gate, started = threading.Event(), []
    first = jobs.submit("first", lambda _: gate.wait(5))
    second = jobs.submit("second", lambda _: started.append(1))
    jobs.cancel(second.number)
    assert second.state == "cancelled"  # at once
    gate.set()
    ended(first)
    ended(jobs.submit("third", lambda _: None))
    assert second.state == "cancelled"
    assert not started
    jobs.cancel(99)  # nobody knows it: nothing happens


def test_errors_on_purpose_are_told_as_they_are_and_others_with_their_type(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(_: Job) -> None:
        raise InputError("the prompt is empty. do: write one")

    def broken(_: Job) -> None:
        raise ZeroDivisionError("a fault\nin two lines")

    assert ended(jobs.submit("wrong", wrong)).error == "the prompt is empty. do: write one"
    with caplog.at_level(logging.ERROR):
        job = ended(jobs.submit("broken", broken))
    assert (job.state, job.error) == ("failed", "ZeroDivisionError: a fault. The terminal has more.")
    assert "broken failed" in caplog.text
    assert "in two lines" in caplog.text  # with its traceback


def test_old_jobs_are_forgotten_and_unfinished_ones_are_not(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    for _ in range(5):
        ended(jobs.submit("short", lambda _: None))
    gate = threading.Event()
    held = [jobs.submit("held", lambda _: gate.wait(5)) for _ in range(4)]
    assert [number for number in range(1, 10) if jobs.get(number)] == [4, 5, 6, 7, 8, 9]
    gate.set()
    for job in held:
        ended(job)


def test_closing_stops_what_runs_and_what_waits() -> None:
    jobs, running = Jobs(), threading.Event()

    def work(job: Job) -> None:
        while True:
            running.set()
            job.check()
            time.sleep(0.002)

    first, second = jobs.submit("endless", work), jobs.submit("never", lambda _: None)
    assert running.wait(5)
    assert jobs.close()
    assert (first.state, second.state) == ("cancelled", "cancelled")


def test_a_step_that_cannot_be_interrupted_is_left_behind() -> None:
    jobs, running, gate = Jobs(), threading.Event(), threading.Event()
    jobs.submit("deaf", lambda _: (running.set(), gate.wait(20)))
    assert running.wait(5)
    assert not jobs.close(0.05)
    gate.set()
    assert jobs.close()


def test_there_is_an_end_to_what_waits(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 3)
    gate = threading.Event()
    held = [jobs.submit("held", lambda _: gate.wait(5)) for _ in range(3)]
    with pytest.raises(InputError, match="3 pieces of work are waiting"):
        jobs.submit("one more", lambda _: None)
    gate.set()
    for job in held:
        ended(job)
    ended(jobs.submit("one more", lambda _: None))
