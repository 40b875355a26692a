"""Work of several processes comes back in order."""

from moontide.foundation.workers import in_order


def test_work_comes_back_in_order_and_only_a_few_chunks_are_taken_ahead():
    taken = []

    def tasks():
        for number in range(200):
            taken.append(number)
            yield -number

    results = in_order(abs, tasks(), workers=2, chunk=5)
    assert next(results) == 0
    assert len(taken) <= 2 * 2 * 5
    assert list(results) == list(range(1, 200))


def test_one_worker_works_in_this_process_and_nothing_is_asked_of_no_tasks():
    assert list(in_order(abs, [-3, -1], workers=1)) == [3, 1]
    assert list(in_order(abs, [], workers=2)) == []
