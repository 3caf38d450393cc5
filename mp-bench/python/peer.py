"""The Python entrants: `peer.py SUBJECT [ARGUMENT …]`.

Each line of the input asks for one slice of work, by a number; the answer is a line of three: the
nanoseconds it took, how many operations it did, and how many of those had the right outcome.
Processes are forked, as is the default of Python up to 3.13 on Linux and the fastest it has.
"""

import multiprocessing
import os
import statistics
import sys
from time import perf_counter_ns

context = multiprocessing.get_context("fork")
WORKERS = 2


def no_op():
    pass


def process(method):
    """Starts and joins; the number is how many, one after the other."""
    context = multiprocessing.get_context(["fork", "forkserver", "spawn"][method])

    def measure(count):
        right = 0
        begin = perf_counter_ns()
        for _ in range(count):
            child = context.Process(target=no_op)
            child.start()
            child.join()
            right += child.exitcode == 0
        return perf_counter_ns() - begin, count, right

    return measure


def square_plus_one(x):
    return x * x + 1


def map_():
    """Pool.map with the default chunk; the number is how many items."""
    pool = context.Pool(WORKERS)
    return mapping(lambda items: pool.map(square_plus_one, items))


def map_one():
    """Pool.map in chunks of 1; the number is how many items."""
    pool = context.Pool(WORKERS)
    return mapping(lambda items: pool.map(square_plus_one, items, chunksize=1))


def futures():
    """ProcessPoolExecutor.map in chunks of 1,000; the number is how many items."""
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(WORKERS, mp_context=context)
    return mapping(lambda items: list(pool.map(square_plus_one, items, chunksize=1000)))


def joblib():
    """joblib's Parallel with automatic batches; the number is how many items."""
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=WORKERS)
    call = delayed(square_plus_one)
    return mapping(lambda items: pool(call(item) for item in items))


def mapping(run):
    """Measures a map of x * x + 1."""

    def measure(count):
        items = list(range(count))
        begin = perf_counter_ns()
        results = run(items)
        time = perf_counter_ns() - begin
        return time, count, count if results == [x * x + 1 for x in items] else 0

    return measure


def describe(name, number):
    return f"{name}:{number}"


def texts():
    """Pool.starmap of a text and a number to a text; the number is how many items."""
    pool = context.Pool(WORKERS)

    def measure(count):
        items = [(f"item {x}", x) for x in range(count)]
        begin = perf_counter_ns()
        results = pool.starmap(describe, items)
        time = perf_counter_ns() - begin
        return time, count, sum(result == describe(*item) for item, result in zip(items, results))

    return measure


def consume(items, counts, rights):
    while (count := counts.get()) is not None:
        first = items.get()
        rights.put(1 + sum(items.get() == first + index for index in range(1, count)))


def queue(first):
    """From one process to another; the number is how many items."""
    items, counts, rights = context.Queue(), context.SimpleQueue(), context.SimpleQueue()
    context.Process(target=consume, args=(items, counts, rights), daemon=True).start()

    def measure(count):
        counts.put(count)
        begin = perf_counter_ns()
        for index in range(count):
            items.put(first + index)
        right = rights.get()
        return perf_counter_ns() - begin, count, right

    return measure


def consume_half(items, counts, sums):
    while (count := counts.get()) is not None:
        sums.put(sum(items.get() for _ in range(count // 2)))


def produce_half(items, counts, first):
    while (count := counts.get()) is not None:
        for index in range(count // 2):
            items.put(first + index)


def crowd(first):
    """From two processes to two; the number is how many items."""
    items, sums = context.Queue(), context.SimpleQueue()
    all_counts = []
    for target, last in [(produce_half, first), (consume_half, sums)] * 2:
        counts = context.SimpleQueue()
        all_counts.append(counts)
        context.Process(target=target, args=(items, counts, last), daemon=True).start()

    def measure(count):
        expected = 2 * sum(range(first, first + count // 2))
        begin = perf_counter_ns()
        for counts in all_counts:
            counts.put(count)
        total = sums.get() + sums.get()
        return perf_counter_ns() - begin, count, count if total == expected else 0

    return measure


def consume_bytes(items, counts, rights, size):
    while (count := counts.get()) is not None:
        right = 0
        for index in range(count):
            item = items.get()
            right += len(item) == size and item[:8] == index.to_bytes(8, "little")
        rights.put(right)


def payload(size):
    """Large items from one process to another; the number is how many."""
    items, counts, rights = context.Queue(16), context.SimpleQueue(), context.SimpleQueue()
    context.Process(
        target=consume_bytes, args=(items, counts, rights, size), daemon=True
    ).start()

    def measure(count):
        rest = bytes(size - 8)
        counts.put(count)
        begin = perf_counter_ns()
        for index in range(count):
            items.put(index.to_bytes(8, "little") + rest)
        right = rights.get()
        return perf_counter_ns() - begin, count, right

    return measure


def lock():
    """A lock that nobody else wants; the number is how often."""
    lock = context.Lock()
    # Bound once, which is quicker than `with`.
    acquire, release = lock.acquire, lock.release

    def measure(count):
        total = 0
        begin = perf_counter_ns()
        for _ in range(count):
            acquire()
            total += 1
            release()
        return perf_counter_ns() - begin, count, total

    return measure


def contend(lock, total, milliseconds):
    """Adds to the total for so long; returns how often."""
    count = 0
    end = perf_counter_ns() + milliseconds * 1_000_000
    while perf_counter_ns() < end:
        for _ in range(64):
            with lock:
                total.value += 1
        count += 64
    return count


def rival(lock, total, slices, replies):
    while (milliseconds := slices.get()) is not None:
        replies.put("ready")
        replies.put(contend(lock, total, milliseconds))


def lock_tight():
    """Two processes want the lock all the time; the number is how many milliseconds."""
    lock, total = context.Lock(), context.RawValue("Q", 0)
    slices, replies = context.SimpleQueue(), context.SimpleQueue()
    context.Process(target=rival, args=(lock, total, slices, replies), daemon=True).start()

    def measure(milliseconds):
        before = total.value
        slices.put(milliseconds)
        assert replies.get() == "ready"
        begin = perf_counter_ns()
        count = contend(lock, total, milliseconds)
        count += replies.get()
        time = perf_counter_ns() - begin
        return time, count, total.value - before

    return measure


def flip_first(data):
    data[0] ^= 0xFF
    return data


def bulk(size):
    """Pool.map over large items, one by one; the number is how many. An operation is a byte."""
    pool = context.Pool(WORKERS)

    def measure(count):
        items = [bytearray([index % 251]) * size for index in range(count)]
        begin = perf_counter_ns()
        results = pool.map(flip_first, items, chunksize=1)
        time = perf_counter_ns() - begin
        right = sum(flip_first(item) == result for item, result in zip(items, results))
        return time, count * size, right * size

    return measure


def process_id(_):
    return os.getpid()


def worker(method):
    """The process id of an idle worker, in place of a time."""
    pool = multiprocessing.get_context(["fork", "forkserver", "spawn"][method]).Pool(1)

    def measure(count):
        return pool.map(process_id, range(count))[0], count, count

    return measure


def latency():
    """Pool.apply to a warm worker; the number is how many calls. One operation: their median."""
    pool = context.Pool(1)

    def measure(count):
        times, right = [], 0
        for index in range(count):
            begin = perf_counter_ns()
            result = pool.apply(square_plus_one, (index,))
            times.append(perf_counter_ns() - begin)
            right += result == index * index + 1
        return int(statistics.median(times)), 1, int(right == count)

    return measure


class Handover:
    """Two sides that hand over to each other by a primitive of that number."""

    def __init__(self, number):
        self.number = number
        self.semaphores = context.Semaphore(0), context.Semaphore(0)
        self.events = context.Event(), context.Event()
        self.changed, self.turn = context.Condition(), context.RawValue("Q", 0)
        self.barrier = context.Barrier(2)

    def give(self, side):
        if self.number == 0:
            self.semaphores[1 - side].release()
        elif self.number == 1:
            self.events[1 - side].set()
        elif self.number == 2:
            with self.changed:
                self.turn.value = 1 - side
                self.changed.notify()
        else:
            self.barrier.wait()

    def take(self, side):
        if self.number == 0:
            self.semaphores[side].acquire()
        elif self.number == 1:
            self.events[side].wait()
            self.events[side].clear()
        elif self.number == 2:
            with self.changed:
                self.changed.wait_for(lambda: self.turn.value == side)
        else:
            self.barrier.wait()


def partner(tool, counts, sums):
    while (count := counts.get()) is not None:
        for _ in range(count):
            tool.take(1)
            tool.give(1)
        sums.put(count)


def handover(number):
    """Semaphore, event, condition, barrier: there and back; the number is how often."""
    tool = Handover(number)
    counts, sums = context.SimpleQueue(), context.SimpleQueue()
    context.Process(target=partner, args=(tool, counts, sums), daemon=True).start()

    def measure(count):
        counts.put(count)
        begin = perf_counter_ns()
        for _ in range(count):
            tool.give(0)
            tool.take(0)
        time = perf_counter_ns() - begin
        return time, count, sums.get()

    return measure


def value():
    """A Value counted up under its lock; the number is how often."""
    value = context.Value("Q", 0)

    def measure(count):
        value.value = 0
        begin = perf_counter_ns()
        for _ in range(count):
            with value.get_lock():
                value.value += 1
        return perf_counter_ns() - begin, count, value.value

    return measure


def without_last(data):
    return data[:-1]


def bytes_(size):
    """Bytes to a worker and back; the number is how often."""
    pool = context.Pool(1)
    data = bytes([7]) * size

    def measure(count):
        right = 0
        begin = perf_counter_ns()
        for _ in range(count):
            right += len(pool.apply(without_last, (data,))) == size - 1
        return perf_counter_ns() - begin, count, right

    return measure


def answer(end):
    while (x := end.recv()) is not None:
        end.send(x * x + 1)


def pipe():
    """A message and its answer; the number is how many."""
    end, other = context.Pipe()
    context.Process(target=answer, args=(other,), daemon=True).start()

    def measure(count):
        right = 0
        begin = perf_counter_ns()
        for x in range(count):
            end.send(x)
            right += end.recv() == x * x + 1
        return perf_counter_ns() - begin, count, right

    return measure


def receive(end, size):
    buffer = bytearray(size)
    while (count := end.recv()) is not None:
        right = 0
        for index in range(count):
            length = end.recv_bytes_into(buffer)
            right += length == size and int.from_bytes(buffer[:8], "little") == index
        end.send(right)


def pipe_bytes(size):
    """Large messages one way; the number is how many. An operation is a byte."""
    end, other = context.Pipe()
    context.Process(target=receive, args=(other, size), daemon=True).start()
    message = bytearray([7]) * size

    def measure(count):
        begin = perf_counter_ns()
        end.send(count)
        for index in range(count):
            message[:8] = index.to_bytes(8, "little")
            end.send_bytes(message)
        right = end.recv()
        return perf_counter_ns() - begin, count * size, right * size

    return measure


class Counter:
    def __init__(self):
        self.count = 0

    def add(self, number):
        self.count += number
        return self.count


def manager():
    """Calls of a method of a proxy; the number is how many."""
    from multiprocessing.managers import BaseManager

    BaseManager.register("Counter", Counter)
    server = BaseManager(ctx=context)
    server.start()
    counter = server.Counter()

    def measure(count):
        # The manager lives as long as it is named.
        assert server is not None
        before = counter.add(0)
        begin = perf_counter_ns()
        for _ in range(count):
            last = counter.add(1)
        return perf_counter_ns() - begin, count, last - before

    return measure


SUBJECTS = {
    "process": process,
    "map": map_,
    "map-one": map_one,
    "futures": futures,
    "joblib": joblib,
    "texts": texts,
    "queue": queue,
    "crowd": crowd,
    "payload": payload,
    "lock": lock,
    "lock-tight": lock_tight,
    "bulk": bulk,
    "worker": worker,
    "latency": latency,
    "handover": handover,
    "value": value,
    "bytes": bytes_,
    "pipe": pipe,
    "pipe-bytes": pipe_bytes,
    "manager": manager,
}


def main():
    subject, *arguments = sys.argv[1:]
    measure = SUBJECTS[subject](*map(int, arguments))
    for line in sys.stdin:
        print(*measure(int(line)), flush=True)


if __name__ == "__main__":
    main()
