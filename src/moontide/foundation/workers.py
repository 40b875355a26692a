"""Work on all cores, its results in order and in constant memory.

This file imports no PyTorch: every worker process imports it, and most of them need none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from moontide.foundation.errors import MoontideError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, chunk: int = 24
) -> Iterator[Result]:
    """`work` of every task, in the order of the tasks; never more than a few chunks are held.

    Args:
        work: a function of a module, so that worker processes can import it.
        workers: processes; 1 works in this one.
        chunk: tasks sent to a worker at once.

    Raises:
        MoontideError: worker processes cannot be started, or were killed.
    """
    tasks = iter(tasks)
    if workers <= 1:
        yield from map(work, tasks)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    waiting: deque[Future[list[Any]]] = deque()
    try:
        while True:
            while len(waiting) < 2 * workers and (batch := list(islice(tasks, chunk))):
                waiting.append(pool.submit(_work_all, work, batch))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise MoontideError(
            "worker processes could not start or were killed: put the call of your script "
            'under `if __name__ == "__main__":`, free some memory, or set MOONTIDE_THREADS=1'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _work_all(work: Callable[[Task], Result], tasks: list[Task]) -> list[Result]:
    return [work(task) for task in tasks]
