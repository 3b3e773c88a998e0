"""The memo of structures: bounded, least recently used first, one for all threads, cleared in one call."""

from concurrent.futures import ThreadPoolExecutor

from minijac.memo import Memo


def test_what_was_found_is_not_looked_for_again():
    memo, asked = Memo[int](4), []
    for _ in range(3):
        assert memo.get("key", lambda: asked.append(1) or 7) == 7
    assert asked == [1]


def test_the_least_recently_used_goes_first():
    memo = Memo[int](2)
    memo.put("a", 1)
    memo.put("b", 2)
    assert memo.seen("a") == 1  # now used after b
    memo.put("c", 3)
    assert memo.items() == [("a", 1), ("c", 3)]
    assert memo.seen("b") is None


def test_a_value_that_is_false_is_found():
    memo = Memo[list](2)
    empty: list = []
    assert memo.put("key", empty) is empty
    assert memo.get("key", lambda: [1]) is empty


def test_all_memos_are_forgotten_at_once():
    one, other = Memo[int](2), Memo[int](2)
    one.put("a", 1)
    other.put("b", 2)
    Memo.clear_all()
    assert not one.items() and not other.items()


def test_threads_share_a_memo_within_its_bound():
    memo = Memo[int](8)

    def work(seed):
        for n in range(2000):
            key = (seed * 7919 + n * 31) % 23
            assert memo.get(key, lambda key=key: key * key) == key * key
            assert len(memo.items()) <= 8

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(memo.items()) == 8
