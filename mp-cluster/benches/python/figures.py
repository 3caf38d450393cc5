"""What the peers' programs have in common: the tasks, and how a figure is written."""

import sys
import time


def square(x):
    return x * x


def squares(items):
    return [x * x for x in items]


def sizes():
    """Tasks one by one, tasks in chunks, round trips, bytes of arguments, bytes of each."""
    return [int(argument) for argument in sys.argv[1:6]]


def rate(count, seconds):
    rate = count / seconds
    if rate >= 1e6:
        return f"{rate / 1e6:.2f} M/s"
    return f"{rate / 1e3:.0f} k/s" if rate >= 1e4 else f"{rate:.0f} /s"


def say(text):
    print(text, flush=True)


def timed(run):
    began = time.perf_counter()
    result = run()
    return result, time.perf_counter() - began


def say_trips(trip, count):
    """Times `count` calls of `trip`, each of which is given a number and returns its square."""
    times = []
    for x in range(count):
        result, seconds = timed(lambda: trip(x))
        assert result == x * x
        times.append(seconds)
    times.sort()
    median, late = times[count // 2], times[count * 99 // 100]
    say(f"{median * 1e6:.0f}µs, {late * 1e6:.0f}µs")
