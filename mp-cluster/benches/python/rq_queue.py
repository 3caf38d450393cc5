"""RQ: a Redis server of its own, and two workers of the kind that runs jobs in its own process, which
is its fastest. It has no chunks: a job squares a list."""

import os
import subprocess
import sys
import tempfile
import time

import redis
import rq

from figures import rate, say, say_trips, sizes, square, squares, timed

HERE = os.path.dirname(os.path.abspath(__file__))
TTL = {"result_ttl": 3600, "job_timeout": 3600}


def results(jobs):
    """The results, in order, once all are there."""
    values = []
    for job in jobs:
        pause = 0.0001
        while (value := job.return_value() if hasattr(job, "return_value") else job.result) is None:
            assert not job.is_failed, job.exc_info
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
        values.append(value)
    return values


def enqueue(queue, function, arguments):
    data = [rq.Queue.prepare_data(function, (argument,), timeout=3600, result_ttl=3600) for argument in arguments]
    return queue.enqueue_many(data)


def main(connection):
    singles, items, trips, bulk, piece = sizes()
    # It takes a thousandth of what the others take.
    singles, items, trips = singles // 10, items // 10, max(trips // 10, 10)
    queue = rq.Queue(connection=connection)
    assert results(enqueue(queue, square, range(1, 10)))[8] == 81
    values, seconds = timed(lambda: results(enqueue(queue, square, range(singles))))
    assert values == [x * x for x in range(singles)]
    say(rate(singles, seconds))
    chunks = [list(range(at, min(at + 1000, items))) for at in range(0, items, 1000)]
    values, seconds = timed(lambda: results(enqueue(queue, squares, chunks)))
    assert [x for chunk in values for x in chunk] == [x * x for x in range(items)]
    say(rate(items, seconds))
    say_trips(lambda x: results([queue.enqueue(square, x, **TTL)])[0], trips)
    def bulk_once():
        lengths = []
        # In parts: Redis keeps all of it in memory.
        for at in range(0, bulk // piece, 4):
            pieces = [bytes([number % 256]) * piece for number in range(at, min(at + 4, bulk // piece))]
            jobs = enqueue(queue, len, pieces)
            lengths += results(jobs)
            for job in jobs:
                job.delete()
        return lengths
    lengths, seconds = timed(bulk_once)
    assert all(length == piece for length in lengths)
    say(f"{seconds:.1f} s")


def with_server(directory):
    socket = os.path.join(directory, "redis.sock")
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory],
        stdout=subprocess.DEVNULL,
    )
    workers = []
    try:
        connection = redis.Redis(unix_socket_path=socket)
        while True:
            try:
                connection.ping()
                break
            except redis.ConnectionError:
                assert server.poll() is None, "redis-server has ended"
                time.sleep(0.01)
        for _ in range(2):
            workers.append(subprocess.Popen([sys.executable, os.path.join(HERE, "rq_worker.py"), socket]))
        main(connection)
    finally:
        for process in [*workers, server]:
            process.kill()
            process.wait()


with tempfile.TemporaryDirectory() as directory:
    with_server(directory)
