"""mpi4py.futures: `mpiexec -n 3 python3 mpi_futures.py …`, two of them workers."""

from mpi4py import MPI
from mpi4py.futures import MPICommExecutor

from figures import rate, say, say_trips, sizes, square, timed


def main(executor):
    singles, items, trips, bulk, piece = sizes()
    assert list(executor.map(square, range(100)))[9] == 81
    for count, chunk in [(singles, 1), (items, 1000)]:
        result, seconds = timed(lambda: list(executor.map(square, range(count), chunksize=chunk)))
        assert result == [x * x for x in range(count)]
        say(rate(count, seconds))
    say_trips(lambda x: executor.submit(square, x).result(), trips)
    pieces = [bytes([number % 256]) * piece for number in range(bulk // piece)]
    lengths, seconds = timed(lambda: list(executor.map(len, pieces)))
    assert all(length == piece for length in lengths)
    say(f"{seconds:.1f} s")


if __name__ == "__main__":
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        if executor is not None:
            main(executor)
