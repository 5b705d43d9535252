"""The queue of a fleet, with workers in this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fleet_tasks import POINTS, Book, record, task

from codesign.campaign.fleet import Fleet, run_fleet
from codesign.campaign.fleet_worker import OnRecord, WorkerLost, remaining_points
from codesign.errors import MeasurementError, MissingExtraError, SpecError
from codesign.measurement import Measurement
from codesign.profilers.base import Task

Act = Callable[["Board", Task, OnRecord], None]


def measure(board: Board, of: Task, on_record: OnRecord) -> None:
    for point in of.points:
        on_record(record(of, point))


class Board:
    """A worker whose behaviour a test gives: `acts` for the first tasks, then it measures."""

    def __init__(
        self,
        name: str,
        *acts: Act,
        device: str | None = None,
        power_mode: str | None = None,
        starts: tuple[Exception | None, ...] = (),
    ) -> None:
        self.name, self.device, self.power_mode = name, device, power_mode
        self.acts, self.starts = list(acts), list(starts)
        self.ran: list[Task] = []
        self.started = 0
        self.closed = threading.Event()

    def start(self) -> None:
        self.started += 1
        if self.starts and (error := self.starts.pop(0)) is not None:
            raise error

    def run(self, of: Task, on_record: OnRecord) -> None:
        self.ran.append(of)
        (self.acts.pop(0) if self.acts else measure)(self, of, on_record)

    def close(self) -> None:
        self.closed.set()


def lose(board: Board, of: Task, on_record: OnRecord) -> None:
    raise WorkerLost("the cable was pulled")


def lose_after_one(board: Board, of: Task, on_record: OnRecord) -> None:
    on_record(record(of, of.points[0]))
    raise WorkerLost("the cable was pulled")


def lose_after_all(board: Board, of: Task, on_record: OnRecord) -> None:
    measure(board, of, on_record)
    raise WorkerLost("the cable was pulled")


def too_big(board: Board, of: Task, on_record: OnRecord) -> None:
    raise MeasurementError("does not fit")


def hold(board: Board, of: Task, on_record: OnRecord) -> None:
    """Until the fleet closes it."""
    on_record(record(of, of.points[0]))
    board.closed.wait(20)
    raise WorkerLost("closed", permanent=True)


def go(*boards: Board, tasks: int = 6, **options: object) -> Book:
    book = Book()
    report = run_fleet(
        boards, (task(n) for n in range(1, tasks + 1)), book.on_result, book.on_failure, on_record=book.on_record,
        **{"backoff_s": 0.01, **options},
    )  # fmt: skip
    assert report.done == len(book.results) and report.failed == len(book.failures)
    assert report.records == len(book.records) == sum(row.records for row in report.workers.values())
    assert all(board.closed.is_set() for board in boards)
    return book


ALL = [(n, phase) for n in range(1, 7) for phase in ("decode", "prefill")]


def test_each_task_and_each_record_is_told_once_in_the_calling_thread() -> None:
    boards = [Board("a"), Board("b"), Board("c")]
    threads = set()
    book = Book()
    run_fleet(
        boards, [task(n) for n in range(1, 7)], book.on_result, book.on_failure,
        on_record=lambda *told: (threads.add(threading.get_ident()), book.on_record(*told))[0],
    )  # fmt: skip
    assert book.layers() == [1, 2, 3, 4, 5, 6] and book.passes() == ALL
    assert threads == {threading.get_ident()}


def test_a_lost_link_gives_the_task_to_another_board() -> None:
    never_back = (None, *[WorkerLost("no route")] * 9)
    ready = threading.Event()
    lost = Board("lost", lambda *a: (ready.set(), lose(*a))[0], starts=never_back)
    good = Board("good", lambda *a: (ready.wait(5), measure(*a))[0])
    book = go(lost, good)
    assert book.layers() == [1, 2, 3, 4, 5, 6] and book.passes() == ALL
    assert {worker for _, _, worker in book.results} == {"good"}


def test_records_that_came_before_the_link_broke_count() -> None:
    board = Board("a", lose_after_one)
    book = go(board, tasks=1)
    (done,) = book.results
    assert done[0] == task(1) and [m.phase for m in done[1]] == ["prefill", "decode"]
    assert [of.points for of in board.ran] == [POINTS, POINTS[1:]]
    assert book.passes() == ALL[:2]


def test_a_task_of_which_only_the_last_line_was_lost_is_done() -> None:
    board = Board("a", lose_after_all)
    book = go(board, tasks=2)
    assert book.layers() == [1, 2] and len(board.ran) == 2


def test_a_board_that_comes_back_goes_on_and_one_that_does_not_is_retired() -> None:
    flaky = Board("flaky", lose, measure, lose, measure, lose, measure)
    book = Book()
    report = run_fleet(
        [flaky], [task(n) for n in range(1, 7)], book.on_result, book.on_failure, backoff_s=0.001, reconnects=1
    )
    assert book.layers() == [1, 2, 3, 4, 5, 6] and flaky.started == 4
    assert (report.workers["flaky"].losses, report.workers["flaky"].retired) == (3, "")


def test_when_all_boards_are_gone_the_error_says_what_remains_and_what_to_do() -> None:
    boards = [Board(name, starts=(WorkerLost(f"{name} is off"),) * 9) for name in "ab"]
    with pytest.raises(
        MeasurementError, match=r"^6 task\(s\) for host remain .*a: a is off; b: b is off\).*same command again"
    ):
        go(*boards, reconnects=2)
    assert [board.started for board in boards] == [3, 3]


def test_what_cannot_get_better_is_not_tried_again() -> None:
    board = Board("a", starts=(WorkerLost("wrong key", permanent=True),))
    with pytest.raises(MeasurementError, match="6 task.*wrong key"):
        go(board)
    assert board.started == 1


def test_a_tasks_own_fault_is_tried_once_elsewhere() -> None:
    boards = [Board(name, too_big) for name in "abc"]
    book = go(*boards, tasks=1)
    ((failed, error, _),) = book.failures
    assert failed == task(1) and str(error) == "does not fit" and not book.results
    assert sum(len(board.ran) for board in boards) == 2


def test_a_tasks_own_fault_on_the_only_board_is_told_and_the_rest_goes_on() -> None:
    board = Board("a", too_big)
    book = go(board)
    assert book.layers() == [2, 3, 4, 5, 6] and len(book.failures) == 1 and board.started == 1


def test_a_fault_of_one_board_is_made_good_by_another() -> None:
    boards = [Board("small", *[too_big] * 9), Board("large", *[lambda *a: (time.sleep(0.01), measure(*a))[0]] * 9)]
    book = go(*boards)
    assert book.layers() == [1, 2, 3, 4, 5, 6] and not book.failures


def test_a_task_that_takes_boards_down_is_given_up() -> None:
    boards = [Board(name, *[lose] * 9) for name in "abc"]
    book = go(*boards, tasks=1)
    ((_, error, _),) = book.failures
    assert "3 links broke while this task ran" in str(error)


def test_records_of_a_task_that_is_given_up_are_kept() -> None:
    def half(board: Board, of: Task, on_record: OnRecord) -> None:
        on_record(record(of, of.points[0]))
        raise MeasurementError("does not fit")

    book = Book()
    run_fleet([Board("a", half)], [task(1)], book.on_result, book.on_failure)
    ((kept, records, _),) = book.results
    assert kept.points == POINTS[:1] and [m.phase for m in records] == ["prefill"]
    assert book.failures[0][0] == task(1)


def test_a_board_without_the_engine_takes_no_more_of_it_but_other_tasks() -> None:
    def lacks(board: Board, of: Task, on_record: OnRecord) -> None:
        if of.engine == "tensorrt":
            raise MissingExtraError("no tensorrt")
        measure(board, of, on_record)

    board, other = Board("poor", *[lacks] * 20), Board("rich", *[lambda *a: (time.sleep(0.01), measure(*a))[0]] * 20)
    book = Book()
    tasks = [task(n, engine="tensorrt" if n % 2 else "torch") for n in range(1, 11)]
    run_fleet([board, other], tasks, book.on_result, book.on_failure)
    assert book.layers() == list(range(1, 11)) and not book.failures
    assert sum(of.engine == "tensorrt" for of in board.ran) == 1
    with pytest.raises(MeasurementError, match="5 task.*poor: no tensorrt"):
        run_fleet([Board("poor", *[lacks] * 20)], tasks, book.on_result, book.on_failure)
    assert not book.failures


def test_tasks_of_a_device_go_to_its_boards_alone() -> None:
    orin, thor, any_board = Board("o", device="orin"), Board("t", device="thor"), Board("any")
    book = Book()
    tasks = [task(n, device="orin" if n % 2 else "thor") for n in range(1, 21)]
    run_fleet([orin, thor, any_board], tasks, book.on_result, book.on_failure)
    assert len(book.results) == 20
    assert {of.device for of in orin.ran} <= {"orin"} and {of.device for of in thor.ran} <= {"thor"}


def test_tasks_of_a_device_that_no_board_is_remain() -> None:
    book = Book()
    with pytest.raises(MeasurementError, match=r"2 task\(s\) for thor remain.*o: takes tasks of orin"):
        run_fleet(
            [Board("o", device="orin")],
            [task(1, device="orin"), task(2, device="thor"), task(3, device="thor")],
            book.on_result,
            book.on_failure,
        )
    assert book.layers() == [1]


def test_power_modes_bind_and_are_written_into_the_records() -> None:
    low, high = Board("low", power_mode="15W"), Board("high", power_mode="30W")
    book = Book()
    tasks = [task(n, power_mode=mode) for n, mode in enumerate(("15W", "30W", None) * 3, 1)]
    run_fleet([low, high], tasks, book.on_result, book.on_failure)
    for of, records, worker in book.results:
        (mode,) = {m.power_mode for m in records}
        assert mode == {"low": "15W", "high": "30W"}[worker] and of.power_mode in (None, mode)
    assert sorted(of.architecture.n_layers for of, _, _ in book.results) == list(range(1, 10))


def test_a_fleet_stays_connected_over_several_runs() -> None:
    board, kept, failed = Board("a", measure, too_big), [], []
    with Fleet([board]) as fleet:
        fleet.execute([task(1)], kept.append, lambda of, error: failed.append(str(error)))
        fleet.execute([task(2), task(3)], kept.append, lambda of, error: failed.append(str(error)))
        assert not board.closed.is_set()
    assert board.started == 1 and board.closed.is_set()
    assert [m.architecture.n_layers for m in kept] == [1, 1, 3, 3] and failed == ["a: does not fit"]


def test_what_a_callback_raises_ends_the_fleet() -> None:
    boards = [Board("a", hold), Board("b", hold)]

    def full(of: Task, made: Measurement, worker: str) -> None:
        raise OSError("disk full")

    book = Book()
    with pytest.raises(OSError, match="disk full"):
        run_fleet(boards, [task(1), task(2)], book.on_result, book.on_failure, on_record=full)
    assert all(board.closed.is_set() for board in boards) and not book.results


def test_an_unforeseen_error_of_a_worker_is_not_swallowed() -> None:
    def bug(board: Board, of: Task, on_record: OnRecord) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(Board("a", bug))


def test_ctrl_c_disconnects_and_keeps_what_came() -> None:
    boards = [Board("a", hold), Board("b", hold)]
    book = Book()

    def press(of: Task, made: Measurement, worker: str) -> None:
        book.on_record(of, made, worker)
        if len(book.records) == 2:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_fleet(boards, (task(n) for n in range(1, 9)), book.on_result, book.on_failure, on_record=press)
    assert time.monotonic() - start < 5 and all(board.closed.is_set() for board in boards)
    assert book.passes() == [(1, "prefill"), (2, "prefill")] and not book.failures
    assert sorted((of.architecture.n_layers, of.points) for of, _, _ in book.results) == [
        (1, POINTS[:1]),
        (2, POINTS[:1]),
    ]


def test_tasks_are_read_only_as_boards_become_free() -> None:
    read, done = [], []

    def tasks() -> Iterator[Task]:
        for n in range(1, 8):
            read.append(n)
            assert len(read) <= len(done) + 2
            yield task(n)

    run_fleet([Board("a")], tasks(), lambda of, *_: done.append(of), lambda *_: None)
    assert len(done) == 7


def test_records_of_shallower_models_answer_no_point() -> None:
    of = task(9)
    shallow = record(of, POINTS[0], architecture=of.architecture.evolve(n_layers=1))
    assert remaining_points(of, [shallow]) == POINTS
    assert remaining_points(of, [shallow, record(of, POINTS[1])]) == POINTS[:1]
    twice = task(9, points=(*POINTS, POINTS[0]))
    assert remaining_points(twice, [record(of, POINTS[0])]) == (POINTS[1], POINTS[0])


def test_a_fleet_of_nobody_is_refused() -> None:
    with pytest.raises(SpecError, match="at least one board"):
        run_fleet([], [], lambda *_: None, lambda *_: None)
